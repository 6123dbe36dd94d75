//! Inherited descriptors: a socket made before the agent existed carries another identity than the agent's, a
//! directory opened outside the agent's mount namespace leads around it. Such descriptors do not get to the
//! command; pipes, files and terminals do (a make jobserver, a shell's process substitution).

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::fs::{FileType, FsWord, OFlags, fcntl_getfl, fstat, fstatfs, major, minor, readlink};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;

use super::LaunchError;

/// A descriptor the command was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Its number in the caller.
    pub fd: RawFd,
    /// What it is, with its article: `a socket`.
    pub what: &'static str,
}

const STDIO: [&str; 3] = ["standard input", "standard output", "standard error"];

// <linux/magic.h>
pub(super) const CGROUP: FsWord = 0x0027_e0eb;
pub(super) const CGROUP2: FsWord = 0x6367_7270;
pub(super) const BPFFS: FsWord = 0xcafe_4a11;
pub(super) const PROC: FsWord = rustix::fs::PROC_SUPER_MAGIC;
const NSFS: FsWord = 0x6e73_6673;
const PIDFS: FsWord = 0x5049_4446;

/// Anonymous inodes that only wake their holder. All others (io_uring, bpf, pidfd, perf, userfaultfd, seccomp
/// and mount contexts …) act on something outside the agent.
const HARMLESS_ANONYMOUS: [&[u8]; 5] =
    [b"[eventfd]", b"[eventpoll]", b"[signalfd]", b"[timerfd]", b"inotify"];

/// Character devices by major and minor number (Documentation/admin-guide/devices.txt) that carry packets.
const NETWORK_DEVICES: [(u32, u32); 4] = [
    (10, 200), // /dev/net/tun
    (10, 238), // /dev/vhost-net
    (10, 241), // /dev/vhost-vsock
    (108, 0),  // /dev/ppp
];

/// Marks every inherited descriptor that the command must not have close-on-exec and returns them.
///
/// Safe against races: descriptors that this process opens itself are close-on-exec from the start, so the
/// set looked at is the one inherited, which only shrinks.
///
/// # Errors
/// [`LaunchError::Stdio`] if one of the three standard streams is such a descriptor; an `AF_UNIX` socket is
/// accepted there, as ssh and other programs give their children one.
pub(super) fn close_inherited() -> Result<Vec<Closed>, LaunchError> {
    let list = |source| LaunchError::System { what: "reading /proc/self/fd", source };
    let mut closed = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(list)? {
        let name = entry.map_err(list)?.file_name();
        let Some(fd) = name.to_str().and_then(|n| n.parse::<RawFd>().ok()) else { continue };
        // SAFETY: the kernel has just listed it. It may have been closed meanwhile by another thread, or be the
        // listing's own; then the calls below fail with EBADF or find it close-on-exec.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let verdict = match examine(borrowed, fd) {
            Ok(verdict) => verdict,
            Err(Errno::BADF) => continue,
            Err(errno) => return Err(LaunchError::system("examining an inherited descriptor")(errno)),
        };
        let Some(what) = verdict else { continue };
        if let Some(name) = usize::try_from(fd).ok().and_then(|n| STDIO.get(n)).copied() {
            return Err(LaunchError::Stdio { name, what });
        }
        fcntl_setfd(borrowed, FdFlags::CLOEXEC)
            .map_err(LaunchError::system("closing an inherited descriptor"))?;
        closed.push(Closed { fd, what });
    }
    closed.sort_by_key(|c| c.fd);
    Ok(closed)
}

/// What is wrong with `fd`; `None` if it may be passed on or is closed by exec anyway.
fn examine(fd: BorrowedFd<'_>, number: RawFd) -> Result<Option<&'static str>, Errno> {
    if number > 2 && fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC) {
        return Ok(None);
    }
    let stat = fstat(fd)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Socket {
        let unix = number <= 2 && socket_domain(fd) == Ok(AddressFamily::UNIX);
        return Ok((!unix).then_some("a socket"));
    }
    if fcntl_getfl(fd)?.contains(OFlags::PATH) {
        return Ok(Some("a path descriptor"));
    }
    match kind {
        FileType::Directory => return Ok(Some("a directory")),
        FileType::BlockDevice => return Ok(Some("a block device")),
        FileType::CharacterDevice
            if NETWORK_DEVICES.contains(&(major(stat.st_rdev), minor(stat.st_rdev))) =>
        {
            return Ok(Some("a network device"));
        }
        _ => {}
    }
    match fstatfs(fd)?.f_type {
        CGROUP | CGROUP2 => return Ok(Some("a file of the cgroup file system")),
        BPFFS => return Ok(Some("a file of the bpf file system")),
        NSFS => return Ok(Some("a namespace")),
        PIDFS => return Ok(Some("a pidfd")),
        _ => {}
    }
    let target = readlink(format!("/proc/self/fd/{number}"), Vec::new())?;
    Ok(match target.to_bytes().strip_prefix(b"anon_inode:") {
        Some(name) if !HARMLESS_ANONYMOUS.contains(&name) => Some("a handle on a kernel object"),
        _ => None,
    })
}

/// # Errors
/// [`LaunchError::WorkingDirectory`] if the working directory would lead around the read-only view of the
/// kernel's file systems that the command is given.
pub(super) fn check_working_directory(hidden: &[&std::path::Path]) -> Result<(), LaunchError> {
    let statfs = rustix::fs::statfs(".").map_err(LaunchError::system("examining the working directory"))?;
    let what = match statfs.f_type {
        CGROUP | CGROUP2 => "the cgroup file system",
        BPFFS => "the bpf file system",
        PROC => "procfs",
        _ => {
            let inside = |d: &io::Result<std::path::PathBuf>| {
                d.as_ref().is_ok_and(|d| hidden.iter().any(|h| d.starts_with(h)))
            };
            if !inside(&std::env::current_dir()) {
                return Ok(());
            }
            "agentnet's own state"
        }
    };
    Err(LaunchError::WorkingDirectory { what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};

    fn what(fd: &OwnedFd) -> Option<&'static str> {
        fcntl_setfd(fd, FdFlags::empty()).unwrap();
        let verdict = examine(fd.as_fd(), fd.as_raw_fd()).unwrap();
        fcntl_setfd(fd, FdFlags::CLOEXEC).unwrap();
        assert_eq!(examine(fd.as_fd(), fd.as_raw_fd()).unwrap(), None, "closed by exec anyway");
        verdict
    }

    #[test]
    fn what_carries_data_out_is_told_from_what_does_not() {
        use rustix::fs::{Mode, open};
        let flags = OFlags::CLOEXEC;
        let at = |path: &str, extra| open(path, flags | extra, Mode::empty()).unwrap();

        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(what(&udp.into()), Some("a socket"));
        assert_eq!(what(&unix.into()), Some("a socket"));
        assert_eq!(what(&at("/", OFlags::DIRECTORY)), Some("a directory"));
        assert_eq!(what(&at("/dev/null", OFlags::PATH)), Some("a path descriptor"));
        assert_eq!(what(&at("/proc/self/ns/net", OFlags::RDONLY)), Some("a namespace"));
        let pidfd =
            rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
        assert!(what(&pidfd.unwrap()).is_some());

        assert_eq!(what(&rustix::pipe::pipe().unwrap().0), None);
        assert_eq!(what(&at("/dev/null", OFlags::RDWR)), None);
        assert_eq!(what(&at("/proc/self/exe", OFlags::RDONLY)), None);
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(what(&epoll), None);
    }

    #[test]
    fn a_unix_socket_may_be_a_standard_stream() {
        let (unix, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(examine(unix.as_fd(), 0).unwrap(), None);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(examine(tcp.as_fd(), 0).unwrap(), Some("a socket"));
    }
}
