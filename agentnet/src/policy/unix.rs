//! `[local] unix` and `unix_allow`: which Unix sockets the agent may talk to.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use agentnet_common::{
    abi::{CFG_UNIX_ANY, Door, LOCAL_ANY, SUN_PATH},
    door::{DoorName, Doors},
};
use toml::Spanned;

use super::{
    compile::Compiled,
    diagnostic::{Code, Diagnostic, quote},
    parse::Document,
    source::{FileId, Place},
};
use crate::kernel::unix::DoorEntry;

/// Longest name, in bytes: of a path one less than there is room for, its end.
const LONGEST: usize = SUN_PATH - 1;

/// `[local] unix` and `unix_allow`.
#[derive(Clone, Debug, Default)]
pub struct UnixSockets {
    /// `unix`, `LOCAL_*`, where it is written.
    others: Option<u8>,
    /// `unix_allow`, each with its place.
    allow: Vec<(DoorEntry, Place)>,
}

impl UnixSockets {
    /// Checks what `file` says; problems go to `problems`.
    pub(super) fn check(document: &Document, file: FileId, problems: &mut Vec<Diagnostic>) -> Self {
        let names = document.unix_allow.value().map(|list| list.get_ref().as_slice()).unwrap_or_default();
        let place = |name: &Spanned<String>| Place { file, span: name.span() };
        Self {
            others: document.unix.value().map(|value| *value.get_ref()),
            allow: names.iter().filter_map(|name| Some((entry(name, problems)?, place(name)))).collect(),
        }
    }

    /// This, with what `other` opens besides; where this says nothing, what that says.
    #[must_use]
    pub(super) fn with(mut self, other: Self) -> Self {
        self.others = self.others.or(other.others);
        self.allow.extend(other.allow);
        self
    }

    /// What it opens that its author may not mean.
    pub(super) fn warnings(&self) -> Vec<Diagnostic> {
        let mut warnings = self.changeable();
        if let (Some(LOCAL_ANY), Some((_, first))) = (self.others, self.allow.first()) {
            warnings.push(
                Diagnostic::new(
                    Code::UnixAllowUnused,
                    first.clone(),
                    "`unix_allow` opens nothing that unix = \"any\" does not open already",
                )
                .help("remove one of both"),
            );
        }
        for (entry, place) in &self.allow {
            let Some(Known { what, reach, .. }) = Known::of(&entry.name.text()) else { continue };
            let Some(caution) = reach.caution() else { continue };
            let message = match reach {
                Reach::Names => {
                    format!("{what} asks the network for any name, and this policy does not see it")
                }
                _ => format!("{what} does for the agent what it is asked to, outside this policy"),
            };
            warnings.push(Diagnostic::new(Code::UnixDoor, place.clone(), message).help(caution));
        }
        warnings
    }

    /// `CFG_UNIX_*`.
    pub fn flags(&self) -> u8 {
        if self.others == Some(LOCAL_ANY) { CFG_UNIX_ANY } else { 0 }
    }

    /// The first name that opens `name`, with its place.
    pub(super) fn opening(&self, name: &DoorName) -> Option<(&DoorEntry, &Place)> {
        let mut all = self.allow.iter();
        let (entry, place) =
            all.find(|(entry, _)| entry.door(name).is_some_and(|door| name.is_at(door, name.is_plain())))?;
        Some((entry, place))
    }

    /// What is opened by name.
    pub fn doors(&self) -> Vec<DoorEntry> {
        self.allow.iter().map(|(entry, _)| *entry).collect()
    }

    /// Directories of this host through which `unix_allow` may lead elsewhere than its author thinks, because others
    /// than root may change them. Asks the file system about paths that the policy names.
    fn changeable(&self) -> Vec<Diagnostic> {
        let paths = self.allow.iter().filter(|(entry, _)| !entry.name.is_abstract());
        paths
            .filter_map(|(entry, place)| {
                let text = entry.name.text();
                let (directory, who) = Path::new(&text)
                    .ancestors()
                    .skip(1)
                    .find_map(|directory| Some((directory, changer(directory)?)))?;
                Some(
                    Diagnostic::new(
                        Code::UnixChangeable,
                        place.clone(),
                        format!(
                            "{who} may change {}: whoever does decides where {text} leads",
                            directory.display()
                        ),
                    )
                    .help("let the socket be in a directory that only root may write to"),
                )
            })
            .collect()
    }
}

/// Who besides root may put something else into a directory; `None` if nobody, or if there is no such directory.
fn changer(directory: &Path) -> Option<String> {
    let metadata = directory.metadata().ok()?;
    let mode = metadata.mode();
    // In a sticky directory everybody changes what is theirs, and what is missing.
    match (mode & 0o002 != 0, mode & 0o020 != 0 && metadata.gid() != 0, metadata.uid()) {
        (true, ..) => Some("everybody".to_owned()),
        (_, true, _) => Some(format!("group {}", metadata.gid())),
        (_, _, 0) => None,
        (_, _, user) => Some(format!("user {user}")),
    }
}

fn entry(name: &Spanned<String>, problems: &mut Vec<Diagnostic>) -> Option<DoorEntry> {
    let text = name.get_ref();
    match parse(text) {
        Ok(entry) => Some(entry),
        Err(why) => {
            problems.push(
                Diagnostic::new(
                    Code::UnixName,
                    name.span(),
                    format!("{} is not a name for a Unix socket: {why}", quote(text)),
                )
                .help("write \"/run/postgresql/.s.PGSQL.5432\", \"/run/postgresql/\" for all in it, or \"@name\" for an abstract one"),
            );
            None
        }
    }
}

/// What opens the socket called `text`, as TOML; `None` if nothing but `unix = "any"` does.
pub fn suggestion(text: &str) -> Option<String> {
    let quoted = toml::Value::String(text.to_owned());
    parse(text).is_ok_and(|entry| !entry.below).then(|| format!("[local]\nunix_allow = [{quoted}]\n"))
}

/// The name that a process gives the kernel, of how it is written here; `None` if there is no room for it.
pub fn door_name(text: &str) -> Option<DoorName> {
    let (first, rest) = match text.strip_prefix('@') {
        Some(name) => (Some(0), name),
        None => (None, text),
    };
    let mut name = DoorName { bytes: [0; SUN_PATH], len: 0 };
    let mut room = name.bytes.iter_mut();
    for byte in first.into_iter().chain(rest.bytes()) {
        *room.next()? = byte;
        name.len += 1;
    }
    (name.len > 0).then_some(name)
}

impl Doors for Compiled {
    /// As the kernel's trie: the longest entry that the name begins with.
    fn door(&self, _slot: u32, name: &DoorName) -> Option<Door> {
        let fits = self.doors.iter().filter_map(|entry| Some((entry.name.len, entry.door(name)?)));
        fits.max_by_key(|(len, _)| *len).map(|(_, door)| door)
    }
}

/// What an entry of `unix_allow` opens, or why it opens nothing.
pub(crate) fn parse(text: &str) -> Result<DoorEntry, &'static str> {
    let (bytes, is_abstract) = match text.strip_prefix('@') {
        Some(name) => ([b"\0", name.as_bytes()].concat(), true),
        None => (text.as_bytes().to_vec(), false),
    };
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut name = DoorName { bytes: [0; SUN_PATH], len };
    for (to, from) in name.bytes.iter_mut().zip(&bytes) {
        *to = *from;
    }
    let below = !is_abstract && text.ends_with('/');
    // With something in it a directory is a path like any other.
    let plain = |mut name: DoorName| {
        if let (true, Some(byte)) = (below, name.bytes.get_mut(bytes.len())) {
            *byte = b'x';
        }
        name.is_plain()
    };
    if bytes.len() > LONGEST {
        Err("it is longer than 107 bytes")
    } else if text.chars().any(char::is_control) {
        Err("it has control characters in it")
    } else if is_abstract && bytes.len() < 2 {
        Err("there is nothing behind the `@`")
    } else if is_abstract {
        Ok(DoorEntry { name, below })
    } else if !text.starts_with('/') {
        Err("it is neither a path from the root nor an abstract name")
    } else if text == "/" {
        Err("that is every socket there is, for which there is unix = \"any\"")
    } else if !plain(name) {
        Err("its path has `.`, `..` or an empty part in it")
    } else {
        Ok(DoorEntry { name, below })
    }
}

/// What a socket is that many hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What listens there.
    pub what: &'static str,
    /// What it can be asked for.
    pub reach: Reach,
    /// How its path ends or, with a `*` at its end, how it goes on behind what it ends with.
    name: &'static str,
}

/// What a known socket can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To run programs and connect, with rights of its own.
    Commands,
    /// To act for its user: a bus, a desktop, keys, an editor. Ordinary programs do that every day.
    Session,
    /// Names and users. Programs ask by themselves, and have other ways to know.
    Names,
    /// To take notice: logs and states.
    Notes,
}

impl Reach {
    /// What to think of before it is opened.
    pub const fn caution(self) -> Option<&'static str> {
        match self {
            Self::Commands | Self::Session => {
                Some("allow it only to an agent that you would let run without a policy")
            }
            Self::Names => Some("programs ask a resolver by themselves if it does not answer"),
            Self::Notes => None,
        }
    }
}

const fn known(name: &'static str, reach: Reach, what: &'static str) -> Known {
    Known { what, reach, name }
}

/// Those that a person should be told more of than a path.
const KNOWN: &[Known] = &[
    known("/docker.sock", Reach::Commands, "Docker"),
    known("/containerd.sock", Reach::Commands, "containerd"),
    known("/podman.sock", Reach::Commands, "Podman"),
    known("/crio.sock", Reach::Commands, "CRI-O"),
    known("/buildkitd.sock", Reach::Commands, "BuildKit"),
    known("/systemd/private", Reach::Commands, "systemd"),
    known("/systemd/io.systemd*", Reach::Commands, "systemd"),
    known("/snapd.socket", Reach::Commands, "snapd"),
    known("/libvirt/*", Reach::Commands, "libvirt"),
    known("/lxd/unix.socket", Reach::Commands, "LXD"),
    known("/incus/unix.socket", Reach::Commands, "Incus"),
    known("/nix/daemon-socket/socket", Reach::Commands, "the Nix daemon"),
    known("/dbus/system_bus_socket", Reach::Session, "the system bus"),
    known("/bus", Reach::Session, "the session bus"),
    known("/wayland-*", Reach::Session, "the desktop"),
    known("/.X11-unix/X*", Reach::Session, "the desktop"),
    known("/pulse/native", Reach::Session, "the sound server"),
    known("/pipewire-*", Reach::Session, "the sound server"),
    known("/S.gpg-agent*", Reach::Session, "the GnuPG agent"),
    known("/S.scdaemon", Reach::Session, "the GnuPG agent"),
    known("/keyring/*", Reach::Session, "the keyring"),
    known("/ssh-agent*", Reach::Session, "the SSH agent"),
    known("/vscode-*", Reach::Session, "Visual Studio Code"),
    known("/systemd/resolve/io.systemd*", Reach::Names, "systemd-resolved"),
    known("/nscd/socket", Reach::Names, "the name service cache"),
    known("/systemd/userdb/*", Reach::Names, "the user database"),
    known("/.org.chromium.Chromium*", Reach::Session, "a browser"),
    known("/dev/log", Reach::Notes, "the system log"),
    known("/systemd/journal/*", Reach::Notes, "the system log"),
    known("/systemd/notify", Reach::Notes, "systemd"),
];

impl Known {
    /// What is known of the socket with this path, `None` for any other. A path says what was asked for by its usual
    /// name, not what is there.
    pub fn of(path: &str) -> Option<Self> {
        let path = &if path.starts_with(['/', '@']) { path.to_owned() } else { format!("/{path}") };
        let fits = |known: &&Self| match known.name.strip_suffix('*') {
            Some(beginning) => path.rsplit_once(beginning).is_some_and(|(_, rest)| !rest.contains('/')),
            None => path.ends_with(known.name),
        };
        KNOWN.iter().find(fits).copied().or_else(|| {
            // ssh-agent(1), tmux(1): the directory's name is made up, its beginning is not.
            let (directory, file) = path.rsplit_once('/')?;
            let (_, directory) = directory.rsplit_once('/')?;
            let what = if directory.starts_with("ssh-") && file.starts_with("agent.") {
                "the SSH agent"
            } else if directory.starts_with("tmux-") {
                "tmux"
            } else {
                return None;
            };
            Some(known("", Reach::Session, what))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_directories_and_abstract_names() {
        for (text, len, below) in [
            ("/run/a.sock", 11, false),
            ("/run/postgresql/", 16, true),
            ("/a", 2, false),
            ("@name", 5, false),
            ("@/tmp/.X11-unix/X0", 18, false),
            ("/run/...", 8, false),
        ] {
            let entry = parse(text).unwrap();
            assert_eq!((entry.name.len, entry.below, entry.name.text()), (len, below, text.to_owned()));
        }
        let longest = format!("/{}", "x".repeat(106));
        assert_eq!(parse(&longest).unwrap().name.len, 107);
        for text in [
            "",
            "/",
            "@",
            "name",
            "./name",
            "/run/../name",
            "/run//name",
            "/run/.",
            "/run/./",
            "/run//",
            "/run/na\nme",
            "/run/na\0me",
            &format!("{longest}x"),
            &format!("@{longest}"),
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn well_known_sockets_are_known_wherever_they_are() {
        for (path, what) in [
            ("/var/run/docker.sock", "Docker"),
            ("docker.sock", "Docker"),
            ("/home/a/.docker/run/docker.sock", "Docker"),
            ("/run/user/1000/podman/podman.sock", "Podman"),
            ("/run/systemd/resolve/io.systemd.Resolve", "systemd-resolved"),
            ("/run/systemd/io.systemd.Manager", "systemd"),
            ("/var/run/nscd/socket", "the name service cache"),
            ("/run/user/1000/bus", "the session bus"),
            ("/run/user/0/systemd/private", "systemd"),
            ("/tmp/ssh-XXabc/agent.4711", "the SSH agent"),
            ("/run/user/1000/vscode-ipc-1.sock", "Visual Studio Code"),
            ("/tmp/tmux-1000/default", "tmux"),
            ("/tmp/.X11-unix/X0", "the desktop"),
            ("@/tmp/.X11-unix/X0", "the desktop"),
            ("/run/systemd/userdb/io.systemd.DynamicUser", "the user database"),
        ] {
            assert_eq!(Known::of(path).map(|known| known.what), Some(what), "{path}");
        }
        for path in ["/tmp/a.sock", "/tmp/omnibus", "/tmp/docker.sock.old", "/run/libvirt/a/b", "", "/"] {
            assert_eq!(Known::of(path), None, "{path}");
        }
    }

    #[test]
    fn directories_that_others_may_change_are_named() {
        let of = |text: &str| {
            let allow = vec![(parse(text).unwrap(), Place::from(0..1))];
            UnixSockets { others: None, allow }.changeable()
        };
        let problems = of("/tmp/a/b.sock");
        let message = problems.first().map(|problem| problem.message.as_str());
        assert_eq!(
            message,
            Some("everybody may change /tmp: whoever does decides where /tmp/a/b.sock leads")
        );
        assert!(of("/etc/a.sock").is_empty() && of("@a").is_empty() && of("/nowhere/a").is_empty());
    }
}
