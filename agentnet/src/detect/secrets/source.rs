//! Where the secrets of this host are: files and variables that the operator names. They are read by whoever may, and
//! nothing here tells a value to anybody.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::host::{HostSecrets, MAX, SHORTEST, unfit};

/// Bytes of a file at most.
const LARGEST: u64 = 64 << 10;
/// Sources at most.
pub const SOURCES: usize = 64;
/// Lines of a private key that are looked for, from its end: all keys of a kind begin alike.
const KEY_LINES: usize = 3;
/// What a variable of the environment is written with.
const VARIABLE: &str = "env:";

/// Where secrets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, by its absolute path.
    File(PathBuf),
    /// A variable of the engine's environment.
    Variable(String),
}

impl FromStr for Source {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix(VARIABLE) {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            let named = !name.is_empty() && name.bytes().all(plain);
            return if named { Ok(Self::Variable(name.to_owned())) } else { Err("it names no variable") };
        }
        let path = Path::new(text);
        let is_path = path.is_absolute() && !text.contains('\0');
        if is_path { Ok(Self::File(path.to_owned())) } else { Err("it is no absolute path") }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "{VARIABLE}{name}"),
        }
    }
}

/// What the sources have.
#[derive(Debug, Default)]
pub struct Held {
    /// Those that can be looked for; `None` if there are none.
    pub secrets: Option<HostSecrets>,
    /// Why a source is not looked for at all.
    pub wrong: Vec<String>,
    /// What else is to be known: who may read a source, and which values are not looked for.
    pub notes: Vec<String>,
}

/// Reads every source; `variable` is the environment.
pub fn read(sources: &[Source], variable: impl Fn(&str) -> Option<OsString>) -> Held {
    let (mut held, mut all) = (Held::default(), Vec::new());
    for source in sources {
        let named = match source {
            Source::File(path) => file(path, &mut held.notes)
                .map(|text| of_text(&text, &path.file_name().unwrap_or_default().to_string_lossy())),
            Source::Variable(name) => variable(name)
                .map(|value| vec![(name.clone(), password(&value.into_vec()).to_vec())])
                .ok_or_else(|| "the engine has no such variable in its environment".to_owned()),
        };
        match named {
            Ok(named) => take(source, named, &mut all, &mut held),
            Err(why) => held.wrong.push(format!("{source} is not looked for: {why}")),
        }
    }
    held.secrets = HostSecrets::new(all.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
    held
}

/// Takes what can be looked for, and notes by name what cannot.
fn take(source: &Source, named: Vec<(String, Vec<u8>)>, all: &mut Vec<(String, Vec<u8>)>, held: &mut Held) {
    let before = all.len();
    for (name, value) in named {
        let name = crate::alert::text::clean(&name, 80);
        match unfit(&value) {
            Some(why) => held.notes.push(format!("{name} of {source} is not looked for: {why}")),
            None if all.len() >= MAX => {
                held.wrong.push(format!("{name} of {source} is not looked for: there are {MAX} before it"));
                return;
            }
            None => all.push((name, value)),
        }
    }
    if all.len() == before {
        held.wrong.push(format!(
            "{source} is not looked for: it has no value of {SHORTEST} characters of two kinds and more"
        ));
    }
}

/// The bytes of a file. What an agent may have put in the place of a directory or of the file, a link, is not followed:
/// else it could have any file of this host compared with its guesses.
fn file(path: &Path, notes: &mut Vec<String>) -> Result<Vec<u8>, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened: Result<OwnedFd, _> = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let opened = opened.map_err(|error| match error {
        rustix::io::Errno::LOOP => {
            "a part of its path is a symbolic link, which is not followed; name the file itself".to_owned()
        }
        error => io::Error::from(error).to_string(),
    })?;
    let file = File::from(opened);
    let status = file.metadata().map_err(|error| error.to_string())?;
    if !status.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if status.len() > LARGEST {
        return Err(format!("it is larger than {} KiB", LARGEST >> 10));
    }
    let shown = path.display();
    if status.mode() & 0o004 != 0 {
        notes.push(format!("everybody on this host may read {shown}; take that away with `chmod o-r`"));
    }
    if status.mode() & 0o022 != 0 {
        notes.push(format!("others than its owner may change {shown}, and so what is looked for"));
    }
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// The secrets of a text by their names: lines of `NAME=VALUE` as in `.env` and of `name: value`, of a private key some
/// lines from its end, else every line, by `name`.
pub fn of_text(text: &[u8], name: &str) -> Vec<(String, Vec<u8>)> {
    let lines = || text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    if memchr::memmem::find(text, b"PRIVATE KEY-----").is_some() {
        let whole = lines().filter(|line| line.len() >= 40 && line.iter().all(|&byte| is_base64(byte)));
        let whole: Vec<_> = whole.collect();
        return whole.iter().rev().take(KEY_LINES).map(|line| (name.to_owned(), line.to_vec())).collect();
    }
    let said = || lines().filter(|line| !matches!(line, [b'#' | b';' | b'[', ..]));
    let named: Vec<_> = said().filter_map(assignment).collect();
    if named.is_empty() {
        return said().map(|line| (name.to_owned(), password(line).to_vec())).collect();
    }
    named
}

/// Name and value of a line.
fn assignment(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let line = line.strip_prefix(b"export ").unwrap_or(line);
    let at = line.iter().position(|&byte| matches!(byte, b'=' | b':'))?;
    let (name, value) = (line.get(..at)?.trim_ascii(), line.get(at + 1..)?);
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    // `user:password` and padding are values, and so is an address.
    let is_name = !name.is_empty() && name.iter().all(plain) && value.trim_ascii() != b"=";
    if !is_name || line.get(at) == Some(&b':') && !value.starts_with(b" ") || value.trim_ascii().is_empty() {
        return None;
    }
    let value = value.trim_ascii();
    let quoted =
        [b'"', b'\''].iter().find_map(|quote| value.strip_prefix(&[*quote])?.strip_suffix(&[*quote]));
    let name = String::from_utf8_lossy(name).into_owned();
    Some((name, password(quoted.unwrap_or(value)).to_vec()))
}

/// The password of an address that has one, else all of it.
fn password(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    let Some(at) = memchr::memmem::find(value, b"://") else { return value };
    let authority = value.get(at + 3..).unwrap_or_default();
    let authority = authority.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next().unwrap_or_default();
    let inside = authority.iter().rposition(|&byte| byte == b'@').and_then(|end| authority.get(..end));
    inside
        .and_then(|user| user.get(user.iter().position(|&byte| byte == b':')? + 1..))
        .filter(|password| !password.is_empty())
        .unwrap_or(value)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// Made for these tests; nothing accepts it.
    const SECRET: &str = "zV8-kq2/Rm5+Wt7xLp";

    fn held(text: &str, mode: u32) -> Held {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("secrets");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        read(&[Source::File(path)], |_| None)
    }

    fn name_of(held: &Held, text: &str) -> Option<String> {
        held.secrets.as_ref()?.find(text.as_bytes()).next().map(|hit| hit.name.to_owned())
    }

    #[test]
    fn every_form_of_file_is_read() {
        for (text, name) in [
            (format!("A=1\nexport TOKEN=\"{SECRET}\"\n"), "TOKEN"),
            (format!("[default]\naws_secret_access_key = {SECRET}\n"), "aws_secret_access_key"),
            (format!("# a comment\npassword: {SECRET}\n"), "password"),
            (format!("{SECRET}\n"), "secrets"),
        ] {
            let held = held(&text, 0o600);
            assert_eq!(name_of(&held, SECRET).as_deref(), Some(name), "{text}");
            assert!(held.wrong.is_empty(), "{:?}", held.wrong);
            assert!(!format!("{held:?}").contains(&SECRET[..8]), "shown");
        }
        // A slash ends the authority of an address.
        let password = SECRET.replace('/', "");
        let held = held(&format!("DATABASE_URL=postgres://app:{password}@db.internal:5432/app\n"), 0o600);
        assert_eq!(name_of(&held, &password).as_deref(), Some("DATABASE_URL"));
        assert_eq!(name_of(&held, "db.internal:5432"), None, "the host is no secret");
    }

    #[test]
    fn a_private_key_is_known_by_what_only_it_has() {
        let line = |seed: u32| -> String {
            let mut state = seed.wrapping_mul(0x9e37_79b1) | 1;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                char::from_digit(state % 36, 36).unwrap()
            };
            (0..64).map(|_| next()).collect()
        };
        let body: Vec<String> = (1..10).map(line).collect();
        let text = format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\nx7==\n-----END OPENSSH PRIVATE KEY-----\n",
            body.join("\n")
        );
        let held = held(&text, 0o600);
        assert_eq!(name_of(&held, &body[8]).as_deref(), Some("secrets"));
        assert_eq!(name_of(&held, &body[0]), None);
    }

    #[test]
    fn what_cannot_be_used_is_told_and_never_shown() {
        let open = held(&format!("TOKEN={SECRET}\nMODE=production\n"), 0o666);
        assert!(open.notes.iter().any(|note| note.contains("everybody on this host may read")), "{open:?}");
        assert!(open.notes.iter().any(|note| note.contains("may change")), "{open:?}");
        assert!(open.notes.iter().any(|note| note.starts_with("MODE of ")), "{open:?}");
        assert!(held("MODE=production\n", 0o600).wrong[0].contains("no value of 12"));
        assert!(held(&"x".repeat(70_000), 0o600).wrong[0].contains("larger than 64 KiB"));
        let many: String = (0..=MAX).map(|at| format!("T{at}={SECRET}{at}\n")).collect();
        let many = held(&many, 0o600);
        assert_eq!(many.secrets.map(|secrets| secrets.len()), Some(MAX));
        assert!(many.wrong[0].contains("512 before it"), "{:?}", many.wrong);
    }

    #[test]
    fn links_and_what_is_no_file_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().canonicalize().unwrap();
        fs::write(home.join("real"), SECRET).unwrap();
        std::os::unix::fs::symlink(home.join("real"), home.join("link")).unwrap();
        std::os::unix::fs::symlink(&home, home.join("inside")).unwrap();
        for (name, why) in [
            ("link", "symbolic link"),
            ("inside/real", "symbolic link"),
            (".", "no regular file"),
            ("none", "No such file"),
        ] {
            let held = read(&[Source::File(home.join(name))], |_| None);
            assert!(held.wrong[0].contains(why), "{name}: {:?}", held.wrong);
            assert!(held.secrets.is_none());
        }
        let held = read(&[Source::Variable("TOKEN".into())], |_| Some(SECRET.into()));
        assert_eq!(name_of(&held, SECRET).as_deref(), Some("TOKEN"));
        assert!(read(&[Source::Variable("TOKEN".into())], |_| None).wrong[0].contains("no such variable"));
    }

    #[test]
    fn sources_are_paths_and_variables() {
        assert_eq!("env:A_1".parse(), Ok(Source::Variable("A_1".into())));
        assert_eq!("/root/.env".parse(), Ok(Source::File("/root/.env".into())));
        for wrong in ["env:", "env:A B", ".env", "~/.env", "/a\0b"] {
            assert!(wrong.parse::<Source>().is_err(), "{wrong:?}");
        }
    }
}
