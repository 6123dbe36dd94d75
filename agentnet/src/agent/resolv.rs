//! Whom an agent asks for names: the resolvers of the host, and those of a container as far as the host vouches for
//! them.
//!
//! Who answers for an allowed name decides where it leads, so the file must not be one that the agent can write. The
//! host's belongs to the host. A container's lies in the container, where its root can write, and what a container
//! wrote before it was restarted is still there: of that file, only resolvers and search domains count that the
//! host knows from elsewhere. What is left out is told, for whoever writes the policy to add.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::{
    kernel::addrs,
    policy::{host::Host, resolvers::Resolution},
};

const FILE: &str = "etc/resolv.conf";
/// What systemd-resolved asks itself; docker gives it to containers where the host has the stub.
const UPLINKS: &str = "run/systemd/resolve/resolv.conf";

/// Most bytes of a file.
const LARGEST: u64 = 64 << 10;

/// How long a file in a container may take: it can be on a file system that the container itself serves.
const PATIENCE: Duration = Duration::from_secs(1);

/// Users and groups from here on are people's (`UID_MIN`, login.defs(5)).
const FIRST_PERSON: u32 = 1000;

/// docker's resolver, at this address in each container that is in a network of its user's.
const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

/// Whom somebody asks for names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Those that are known not to be of the agent's choice.
    pub resolution: Resolution,
    /// What else the file says.
    refused: Resolution,
    /// Who owns the file.
    owner: Option<u32>,
    /// Why the file does not count at all.
    problem: Option<String>,
}

/// Why a file does not count.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no regular file")]
    Kind,
    #[error("it is larger than {} KiB", LARGEST >> 10)]
    Large,
    #[error("user {0} can write it, who could have the agent ask whom they like")]
    Writable(u32),
    #[error("it was not read within {} s", PATIENCE.as_secs())]
    Slow,
}

/// A file as it was read.
#[derive(Debug, Default)]
struct Read {
    bytes: Vec<u8>,
    owner: Option<u32>,
}

impl Found {
    /// What whoever looks after the agent should know, if a policy asks `effective`.
    pub fn note(&self, effective: &Resolution) -> Option<String> {
        if let Some(problem) = &self.problem {
            return Some(format!(
                "its resolvers are not taken from /etc/resolv.conf: {problem}; list them in `resolvers` of [dns]"
            ));
        }
        let missing = |item: &&IpAddr| !effective.servers.contains(item);
        let servers = self.refused.servers.iter().filter(missing).map(ToString::to_string);
        let missing = |item: &&_| !effective.search.contains(item);
        let search = self.refused.search.iter().filter(missing).map(ToString::to_string);
        let (servers, search): (Vec<_>, Vec<_>) = (servers.collect(), search.collect());
        let lists = [("resolvers", &servers), ("search domains", &search)];
        let told: Vec<_> = lists
            .iter()
            .filter(|(_, items)| !items.is_empty())
            .map(|(what, items)| format!("the {what} {}", items.join(", ")))
            .collect();
        if told.is_empty() {
            return None;
        }
        let owner = self.owner.map_or_else(String::new, |owner| format!(", which user {owner} owns,"));
        Some(format!(
            "/etc/resolv.conf in its root{owner} has {}, which this host does not know and the agent may have \
             written: if they are right, list them in [dns] of the policy",
            told.join(" and ")
        ))
    }
}

/// This host, as the calling thread's network namespace has it.
///
/// # Errors
/// If its addresses cannot be listed.
pub fn this_host() -> io::Result<(Host, Option<String>)> {
    let local = addrs::local_addresses()?;
    let Found { resolution, problem, .. } = of_host();
    let problem = problem.map(|problem| {
        format!("the resolvers of this host are not taken from /etc/resolv.conf: {problem}; list them in `resolvers` of [dns]")
    });
    Ok((Host { local, resolution }, problem))
}

/// Whom this host asks.
pub fn of_host() -> Found {
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    match open_root(Path::new("/")).map_err(ReadError::from).and_then(|root| read_of_host(&root, FILE)) {
        Ok(Read { bytes, owner }) => {
            Found { resolution: Resolution::parse(&bytes, Some(&host_name)), owner, ..Found::default() }
        }
        Err(error) => Found { problem: Some(error.to_string()), ..Found::default() },
    }
}

/// Whom a process asks, where that is not what `host` does: its root is another. `None` as well if it is gone.
pub fn of_process(pid: i32, host: &Host) -> Option<Found> {
    let (answer, answered) = mpsc::sync_channel(1);
    // Not waited for: a file system that never answers keeps this thread and nobody else.
    let reader = thread::Builder::new().name("resolv.conf".to_owned()).spawn(move || {
        // Nobody listens any more: it took too long.
        let _ = answer.send(read_of_process(pid));
    });
    let read = match reader {
        Ok(_) => answered.recv_timeout(PATIENCE).unwrap_or(Err(ReadError::Slow)),
        Err(error) => Err(error.into()),
    };
    let found = match read {
        Ok(None) => return None,
        Ok(Some(read)) => sort(&read, host, &uplinks(), shares_network(pid)),
        Err(error) => Found { problem: Some(error.to_string()), ..Found::default() },
    };
    // That of a process that ended meanwhile may have been another's.
    fs::exists(format!("/proc/{pid}/root")).unwrap_or(false).then_some(found)
}

/// What counts of a file that the agent may have written.
fn sort(read: &Read, host: &Host, uplinks: &Resolution, shares_network: bool) -> Found {
    let mut found = Found { owner: read.owner, ..Found::default() };
    let written = Resolution::parse(&read.bytes, None);
    for server in written.servers {
        let known = if server.is_loopback() && !shares_network {
            server == EMBEDDED
        } else {
            let known = [&host.resolution.servers, &uplinks.servers, &host.local];
            known.iter().any(|known| known.contains(&server))
        };
        if known { &mut found.resolution } else { &mut found.refused }.add_server(server);
    }
    for suffix in written.search {
        let known = host.resolution.search.contains(&suffix) || uplinks.search.contains(&suffix);
        if known { &mut found.resolution } else { &mut found.refused }.add_suffix(suffix);
    }
    found
}

fn uplinks() -> Resolution {
    let read = open_root(Path::new("/")).map_err(ReadError::from).and_then(|root| read(&root, UPLINKS));
    match read {
        Ok((bytes, metadata)) if is_hosts(&metadata).is_ok() => Resolution::parse(&bytes, None),
        // Most hosts have none.
        _ => Resolution::default(),
    }
}

/// Whether the process is in the network namespace of the caller; if that cannot be told, it is not.
fn shares_network(pid: i32) -> bool {
    let own = fs::metadata("/proc/thread-self/ns/net").map(|metadata| (metadata.dev(), metadata.ino()));
    let its = fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((own, its), (Ok(own), Ok(its)) if own == its)
}

/// The file in the root of a process; `None` if it is that of this host, or the process is gone.
fn read_of_process(pid: i32) -> Result<Option<Read>, ReadError> {
    let Ok(root) = open_root(Path::new(&format!("/proc/{pid}/root"))) else { return Ok(None) };
    let own = open_root(Path::new("/"))?;
    let (its_file, own_file) = (open(&root, FILE), open(&own, FILE));
    let same = match (&its_file, &own_file) {
        (Ok(its), Ok(own)) => id(its)? == id(own)?,
        _ => id(&root)? == id(&own)?,
    };
    if same {
        return Ok(None);
    }
    match its_file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Read::default())),
        Err(error) => Err(error.into()),
        Ok(file) => {
            let (bytes, metadata) = read_file(&file)?;
            Ok(Some(Read { bytes, owner: Some(metadata.uid()) }))
        }
    }
}

/// A file of this host that only the host can have written; empty if it is not there.
fn read_of_host(root: &OwnedFd, path: &str) -> Result<Read, ReadError> {
    match read(root, path) {
        Ok((bytes, metadata)) => {
            is_hosts(&metadata)?;
            Ok(Read { bytes, owner: Some(metadata.uid()) })
        }
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Read::default()),
        Err(error) => Err(error),
    }
}

/// Whether only root and accounts of the system can write it.
fn is_hosts(metadata: &fs::Metadata) -> Result<(), ReadError> {
    const GROUP: u32 = 0o020;
    const OTHERS: u32 = 0o002;
    let by_others = metadata.mode() & OTHERS != 0;
    let by_group = metadata.mode() & GROUP != 0 && metadata.gid() >= FIRST_PERSON;
    if metadata.uid() >= FIRST_PERSON || by_others || by_group {
        return Err(ReadError::Writable(metadata.uid()));
    }
    Ok(())
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Finds a file without opening it: a pipe or a device does something when it is opened. Links lead nowhere but
/// below `root`.
fn open(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within)?)
}

fn id(file: &impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn read(root: &OwnedFd, path: &str) -> Result<(Vec<u8>, fs::Metadata), ReadError> {
    read_file(&open(root, path)?)
}

fn read_file(found: &OwnedFd) -> Result<(Vec<u8>, fs::Metadata), ReadError> {
    let through = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    if !fs::metadata(&through)?.is_file() {
        return Err(ReadError::Kind);
    }
    let file = File::open(&through)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(ReadError::Large);
    }
    Ok((bytes, metadata))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::policy::name::Name;

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::parse(name).unwrap()).collect()
    }

    fn host() -> Host {
        Host {
            local: ips(&["127.0.0.1", "192.0.2.9", "10.89.0.1"]),
            resolution: Resolution { servers: ips(&["127.0.0.53"]), search: names(&["corp.example"]) },
        }
    }

    fn sorted(text: &str, shares_network: bool) -> Found {
        let uplinks = Resolution { servers: ips(&["192.0.2.53"]), search: Vec::new() };
        let read = Read { bytes: text.into(), owner: Some(100_000) };
        sort(&read, &host(), &uplinks, shares_network)
    }

    #[test]
    fn of_a_containers_file_only_what_the_host_knows_counts() {
        for (server, known) in [
            ("192.0.2.53", true),
            ("127.0.0.11", true),
            // The gateway of its network, at which podman has its resolver.
            ("10.89.0.1", true),
            ("203.0.113.66", false),
            ("10.96.0.10", false),
            // Those are the container's own.
            ("127.0.0.53", false),
            ("127.0.0.1", false),
        ] {
            let found = sorted(&format!("nameserver {server}\n"), false);
            let (counts, not) = if known { (1, 0) } else { (0, 1) };
            assert_eq!(
                (found.resolution.servers.len(), found.refused.servers.len()),
                (counts, not),
                "{server}"
            );
        }
        let found = sorted("nameserver 192.0.2.53\nsearch corp.example evil.example\n", false);
        assert_eq!(found.resolution.search, names(&["corp.example"]));
        assert_eq!(found.refused.search, names(&["evil.example"]));
    }

    #[test]
    fn on_the_hosts_network_loopback_is_the_hosts() {
        assert_eq!(sorted("nameserver 127.0.0.53\n", true).resolution.servers, ips(&["127.0.0.53"]));
        assert_eq!(sorted("nameserver 127.0.0.11\n", true).refused.servers, ips(&["127.0.0.11"]));
    }

    #[test]
    fn what_does_not_count_is_told_unless_the_policy_has_it() {
        let found = sorted("nameserver 10.96.0.10\nnameserver 192.0.2.53\nsearch svc.cluster.local\n", false);
        insta::assert_snapshot!(found.note(&found.resolution).unwrap(), @"/etc/resolv.conf in its root, which user 100000 owns, has the resolvers 10.96.0.10 and the search domains svc.cluster.local, which this host does not know and the agent may have written: if they are right, list them in [dns] of the policy");
        let listed = Resolution { servers: ips(&["10.96.0.10"]), search: names(&["svc.cluster.local"]) };
        assert_eq!(found.note(&listed), None);
        assert_eq!(sorted("nameserver 192.0.2.53\n", false).note(&Resolution::default()), None);
    }

    #[test]
    fn links_stay_in_the_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let file = root.path().join(FILE);
        let fd = open_root(root.path()).unwrap();
        let text = || read(&fd, FILE).map(|(bytes, _)| String::from_utf8(bytes).unwrap());
        for target in ["/etc/hostname", "../../../../../../etc/hostname"] {
            symlink(target, &file).unwrap();
            assert!(matches!(text(), Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound));
            fs::write(root.path().join("etc/hostname"), "inside").unwrap();
            assert_eq!(text().unwrap(), "inside");
            fs::remove_file(root.path().join("etc/hostname")).unwrap();
            fs::remove_file(&file).unwrap();
        }
        symlink("/proc/self/root/etc/hostname", &file).unwrap();
        assert!(text().is_err());
    }

    #[test]
    fn what_is_no_small_file_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let file = root.path().join(FILE);
        let fd = open_root(root.path()).unwrap();
        rustix::fs::mkfifoat(CWD, &file, Mode::RUSR).unwrap();
        assert!(matches!(read(&fd, FILE), Err(ReadError::Kind)));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(matches!(read(&fd, FILE), Err(ReadError::Kind)));
        fs::remove_dir(&file).unwrap();
        fs::write(&file, vec![b'#'; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
        assert!(matches!(read(&fd, FILE), Err(ReadError::Large)));
        fs::write(&file, vec![b'#'; usize::try_from(LARGEST).unwrap()]).unwrap();
        assert!(read(&fd, FILE).is_ok());
    }

    #[test]
    fn a_file_that_a_person_can_write_is_not_the_hosts() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let file = root.path().join(FILE);
        let fd = open_root(root.path()).unwrap();
        assert!(read_of_host(&fd, FILE).unwrap().bytes.is_empty(), "none is like an empty one");
        fs::write(&file, "nameserver 192.0.2.1\n").unwrap();
        let may = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read_of_host(&fd, FILE).is_ok()
        };
        // Whose tests these are decides about the owner.
        let mine = fs::metadata(&file).unwrap().uid() < FIRST_PERSON;
        assert_eq!((may(0o644), may(0o646)), (mine, false));
    }
}
