//! Which process holds a socket, and the socket itself.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    net::sockopt::socket_cookie,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::agent::target::Member;

/// A socket as a process holds it.
pub(super) struct Held {
    /// The first process that was found to hold it.
    pub(super) process: Member,
    /// The same socket, open here; `None` if the process may not be looked into.
    pub(super) socket: Option<OwnedFd>,
}

/// Who holds the sockets `wanted` (cookies by inode), by cookie: `first` are asked first, then, if some are
/// still missing, every process of the host, because a process may have been moved or passed its socket on.
///
/// # Errors
/// If the processes cannot be listed.
pub(super) fn find(wanted: &HashMap<u64, u64>, first: &[i32]) -> io::Result<HashMap<u64, Held>> {
    let mut found = HashMap::new();
    for &pid in first {
        search(pid, wanted, &mut found);
    }
    if found.len() == wanted.len() {
        return Ok(found);
    }
    let asked: HashSet<i32> = first.iter().copied().collect();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| !asked.contains(pid)) {
            search(pid, wanted, &mut found);
        }
        if found.len() == wanted.len() {
            break;
        }
    }
    Ok(found)
}

/// A process that ends meanwhile, or closes a socket, holds nothing.
fn search(pid: i32, wanted: &HashMap<u64, u64>, found: &mut HashMap<u64, Held>) {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    let pidfd = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    for entry in entries.filter_map(Result::ok) {
        let Some(inode) = fs::read_link(entry.path()).ok().and_then(|link| inode(&link.to_string_lossy()))
        else {
            continue;
        };
        let Some(&cookie) = wanted.get(&inode) else { continue };
        if found.contains_key(&cookie) {
            continue;
        }
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let socket = pidfd.as_ref().zip(number).and_then(|(pidfd, number)| {
            let socket = pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).ok()?;
            // The process may have put another under the number since.
            (socket_cookie(socket.as_fd()).ok()? == cookie).then_some(socket)
        });
        found.insert(cookie, Held { process: Member::of(pid), socket });
    }
}

/// The inode of `socket:[4711]`.
fn inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::unix::fs::MetadataExt as _};

    use super::*;

    #[test]
    fn links_of_sockets() {
        assert_eq!(inode("socket:[4711]"), Some(4711));
        assert_eq!(inode("pipe:[4711]"), None);
        assert_eq!(inode("socket:[]"), None);
    }

    #[test]
    fn the_holder_of_a_socket_is_found_with_the_socket() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&socket).unwrap();
        let fd = socket.as_fd().try_clone_to_owned().unwrap();
        let inode = fs::File::from(fd).metadata().unwrap().ino();
        let pid = std::process::id().cast_signed();
        let found = find(&HashMap::from([(inode, cookie)]), &[pid]).unwrap();
        let held = &found[&cookie];
        assert_eq!(held.process.pid, pid);
        assert_eq!(held.socket.as_ref().map(|same| socket_cookie(same).unwrap()), Some(cookie));
    }
}
