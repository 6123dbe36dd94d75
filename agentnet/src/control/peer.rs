//! Who is at the other end of a socket, and whose child a process is. All of it is what the kernel says;
//! nothing the other end says about itself is believed.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
};

use procfs::process::Process;
use rustix::net::sockopt::socket_peercred;

/// The credentials that the kernel noted when the other end connected or listened (`SO_PEERCRED`,
/// unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

impl Peer {
    /// Asks the kernel about the other end of `socket`.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        Ok(Self { pid: credentials.pid.as_raw_nonzero().get(), uid: credentials.uid.as_raw() })
    }

    /// Whether it is root or `uid`.
    pub const fn may_act_for(&self, uid: u32) -> bool {
        self.uid == 0 || self.uid == uid
    }
}

/// A process that a client wants governed and may not, or that is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// The descriptor is not a pidfd.
    #[error("the client sent something else than a process")]
    NotAPidfd,
    /// The process is gone.
    #[error("the process to be governed ended before it was")]
    Gone,
    /// It is somebody else's.
    #[error("process {child} is no child of the client, process {client}")]
    NotAChild {
        /// The process.
        child: i32,
        /// The client.
        client: i32,
    },
    /// It has another user.
    #[error("process {child} is run by user {owner} and the client by user {client}")]
    OtherUser {
        /// The process.
        child: i32,
        /// Its user.
        owner: u32,
        /// The client's user.
        client: u32,
    },
}

/// The process behind `pidfd`, in the caller's pid namespace.
///
/// # Errors
/// If it is not a pidfd or its process is gone.
pub fn pid(pidfd: BorrowedFd<'_>) -> Result<i32, ChildError> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = fs::read_to_string(path).map_err(|_| ChildError::NotAPidfd)?;
    parse_pid(&text)
}

/// Reads the field `Pid` of a pidfd's fdinfo (proc(5)): -1 when reaped, 0 when in a namespace that is not
/// visible.
fn parse_pid(fdinfo: &str) -> Result<i32, ChildError> {
    let field = fdinfo.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(ChildError::NotAPidfd)?;
    match field.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(_) => Err(ChildError::Gone),
        Err(_) => Err(ChildError::NotAPidfd),
    }
}

/// The process behind `pidfd`, if `client` started it and may have it governed.
///
/// # Errors
/// See [`ChildError`].
pub fn child(client: Peer, pidfd: BorrowedFd<'_>) -> Result<i32, ChildError> {
    let child = pid(pidfd)?;
    let gone = |_| ChildError::Gone;
    let status = Process::new(child).and_then(|process| process.status()).map_err(gone)?;
    // While the pidfd still names it, what was read belongs to it and not to a successor of its number.
    if pid(pidfd)? != child {
        return Err(ChildError::Gone);
    }
    if status.ppid != client.pid {
        return Err(ChildError::NotAChild { child, client: client.pid });
    }
    if !client.may_act_for(status.ruid) {
        return Err(ChildError::OtherUser { child, owner: status.ruid, client: client.uid });
    }
    Ok(child)
}

/// Makes reads and writes of `socket` fail after a while, against a peer that says nothing.
///
/// # Errors
/// If the kernel refuses.
pub fn set_timeout(socket: &UnixStream, timeout: Option<std::time::Duration>) -> io::Result<()> {
    socket.set_read_timeout(timeout)?;
    socket.set_write_timeout(timeout)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{PidfdFlags, getpid, getuid, pidfd_open};

    use super::*;

    #[test]
    fn the_kernel_says_who_it_is() {
        let (left, _right) = UnixStream::pair().unwrap();
        let peer = Peer::of(&left).unwrap();
        let own = Peer { pid: getpid().as_raw_nonzero().get(), uid: getuid().as_raw() };
        assert_eq!(peer, own);
    }

    #[test]
    fn users_act_for_themselves_and_root_for_all() {
        let peer = |uid| Peer { pid: 1, uid };
        assert!(peer(1000).may_act_for(1000) && peer(0).may_act_for(1000));
        assert!(!peer(1001).may_act_for(1000) && !peer(1001).may_act_for(0));
    }

    #[test]
    fn only_a_child_of_the_client_is_governed() {
        let own = Peer { pid: getpid().as_raw_nonzero().get(), uid: getuid().as_raw() };
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let id = i32::try_from(sleeper.id()).unwrap();
        let pidfd = pidfd_open(rustix::process::Pid::from_raw(id).unwrap(), PidfdFlags::empty()).unwrap();
        assert_eq!(child(own, pidfd.as_fd()).unwrap(), id);
        let stranger = Peer { pid: 1, ..own };
        assert!(matches!(child(stranger, pidfd.as_fd()), Err(ChildError::NotAChild { .. })));
        let other = Peer { uid: own.uid + 1, ..own };
        assert!(matches!(child(other, pidfd.as_fd()), Err(ChildError::OtherUser { .. })));
        let itself = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        assert!(matches!(child(own, itself.as_fd()), Err(ChildError::NotAChild { .. })));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(matches!(child(own, pidfd.as_fd()), Err(ChildError::Gone)));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(child(own, file.as_fd()), Err(ChildError::NotAPidfd)));
    }

    #[test]
    fn a_reaped_and_an_invisible_process_are_gone() {
        for text in ["pos:\t0\nPid:\t-1\nNSpid:\t-1\n", "Pid:\t0\n"] {
            assert!(matches!(parse_pid(text), Err(ChildError::Gone)));
        }
        assert!(matches!(parse_pid("pos:\t0\n"), Err(ChildError::NotAPidfd)));
    }
}
