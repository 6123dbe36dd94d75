//! Who asks, and what they may ask. Everything here is the kernel's word, nothing is the caller's own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::{
    net::sockopt::socket_peercred,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::peer::{self, Peer};
use crate::{
    act::By,
    agent::cgroup::{Cgroup, Hierarchy},
};

/// Groups whose members may ask for something without being root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// May read everything.
    pub read: Option<u32>,
    /// May have their own commands governed.
    pub run: Option<u32>,
}

/// The process at the other end of a connection, as it was when it connected.
#[derive(Debug)]
pub struct Caller {
    /// Its process and user.
    pub peer: Peer,
    /// All its groups.
    pub gids: Vec<u32>,
    /// What names the process for ever, whatever becomes of its number.
    pidfd: OwnedFd,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Attach, detach, reload, act.
    pub steer: bool,
    /// Read about every agent; its own agents everybody may read about who is not governed.
    pub read_all: bool,
    /// Read about its own agents.
    pub read_own: bool,
    /// Have a child governed.
    pub run: bool,
}

impl Caller {
    /// Asks the kernel about the other end of `socket`.
    ///
    /// # Errors
    /// If the kernel does not say, or the process is not visible here or gone.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let credentials = socket_peercred(socket)?;
        let peer = Peer::of(socket)?;
        let pidfd = match getsockopt(&socket, PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Before Linux 6.5. The process has just connected: its number is not likely another's yet.
            Err(nix::errno::Errno::ENOPROTOOPT) => {
                let pid = Pid::from_raw(peer.pid).ok_or(io::ErrorKind::NotFound)?;
                pidfd_open(pid, PidfdFlags::empty())?
            }
            Err(errno) => return Err(errno.into()),
        };
        let mut gids = groups(socket)?;
        gids.push(credentials.gid.as_raw());
        Ok(Self { peer, gids, pidfd })
    }

    /// The cgroup it is in now.
    ///
    /// # Errors
    /// If it is gone, or in no cgroup that is visible here: then nobody can say whether it is governed.
    pub fn cgroup(&self, hierarchy: &Hierarchy) -> Result<Cgroup, String> {
        let pid = peer::pid(self.pidfd.as_fd()).map_err(|_| "the process that asked is gone".to_owned())?;
        let cgroup = hierarchy.of(pid).map_err(|error| error.to_string())?;
        // While the pidfd still names it, what was read belongs to it and not to a successor of its number.
        match peer::pid(self.pidfd.as_fd()) {
            Ok(still) if still == pid => Ok(cgroup),
            _ => Err("the process that asked is gone".to_owned()),
        }
    }

    /// Who it is, for the record.
    pub fn by(&self) -> By {
        let Peer { pid, uid, .. } = self.peer;
        let name = |uid: u32| {
            let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
            user.map_or_else(|| format!("uid {uid}"), |user| user.name)
        };
        // Set at login and inherited, through sudo too; -1 for what nobody has logged in for. Believed only while the
        // pidfd still names the process.
        let login = std::fs::read_to_string(format!("/proc/{pid}/loginuid"));
        let login = login.ok().and_then(|text| text.trim().parse::<u32>().ok());
        let is_same = peer::pid(self.pidfd.as_fd()).is_ok_and(|still| still == pid);
        let login = login.filter(|login| is_same && *login != u32::MAX && *login != uid).map(name);
        By {
            uid,
            user: nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name),
            login,
            pid,
        }
    }

    /// What it may do. `governed`: it lives under some agent's policy, and so may not touch what governs it,
    /// whoever it claims to be.
    pub fn rights(&self, groups: Groups, governed: bool) -> Rights {
        let member = |group: Option<u32>| group.is_some_and(|gid| self.gids.contains(&gid));
        let root = self.peer.uid == 0;
        Rights {
            steer: root && !governed,
            read_all: (root || member(groups.read)) && !governed,
            read_own: !governed,
            // Below its own cgroup both policies apply: it can only lose by it.
            run: root || member(groups.run) || governed,
        }
    }
}

/// The supplementary groups of the other end (`SO_PEERGROUPS`, since Linux 4.13).
fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut gids: Vec<u32> = vec![0; 64];
    loop {
        let mut len = libc::socklen_t::try_from(size_of_val(gids.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the buffer is as long as `len` says, and the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                gids.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = usize::try_from(len).map_err(io::Error::other)? / size_of::<u32>();
        match result {
            0 => {
                gids.truncate(count);
                return Ok(gids);
            }
            _ => match io::Error::last_os_error() {
                // The kernel says how much room it takes.
                error if error.raw_os_error() == Some(libc::ERANGE) && count > gids.len() => {
                    gids.resize(count, 0);
                }
                error => return Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn caller(uid: u32, gids: &[u32]) -> Caller {
        let (left, _right) = UnixStream::pair().unwrap();
        let mut caller = Caller::of(left.as_fd()).unwrap();
        caller.peer.uid = uid;
        caller.gids = gids.to_vec();
        caller
    }

    #[test]
    fn the_kernel_says_which_groups() {
        let (left, _right) = UnixStream::pair().unwrap();
        let caller = Caller::of(left.as_fd()).unwrap();
        assert!(caller.gids.contains(&rustix::process::getegid().as_raw()), "{:?}", caller.gids);
        for group in rustix::process::getgroups().unwrap() {
            assert!(caller.gids.contains(&group.as_raw()), "{:?}", caller.gids);
        }
        assert_eq!(peer::pid(caller.pidfd.as_fd()).unwrap(), caller.peer.pid);
    }

    #[test]
    fn rights_go_by_user_and_group_and_a_governed_process_may_only_go_deeper() {
        let groups = Groups { read: Some(7), run: Some(8) };
        let rights = |uid, gids: &[u32], governed| {
            let Rights { steer, read_all, read_own, run } = caller(uid, gids).rights(groups, governed);
            [steer, read_all, read_own, run]
        };
        assert_eq!(rights(0, &[], false), [true, true, true, true]);
        assert_eq!(rights(1000, &[7], false), [false, true, true, false]);
        assert_eq!(rights(1000, &[8], false), [false, false, true, true]);
        assert_eq!(rights(1000, &[9], false), [false, false, true, false]);
        for (uid, gids) in [(0, vec![]), (1000, vec![7, 8]), (1000, vec![])] {
            assert_eq!(rights(uid, &gids, true), [false, false, false, true], "uid {uid}");
        }
        let nobody = caller(1000, &[0]).rights(Groups::default(), false);
        assert!(
            !nobody.steer && !nobody.read_all && !nobody.run,
            "a group that is not configured has no members"
        );
    }
}
