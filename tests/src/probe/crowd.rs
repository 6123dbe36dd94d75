//! Very many TCP sockets with refused data at once.
//!
//! A connection to a listener of one's own is allowed. One whose queue is full does not answer, so the sockets
//! wait and repeat their SYN after a second; by then the listener is gone, and each repetition is refused.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    io::ioctl_fionbio,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use crate::sys;

/// Sockets for one listener. The more there are, the longer the kernel looks for a free port for the next.
const PER_LISTENER: usize = 2000;

/// Sockets for one process, if it may have as many.
const PER_PROCESS: usize = 16_000;

/// Descriptors beside those of the sockets.
const OTHERS: u64 = 100;

/// How many such sockets one process can have, within the limit of descriptors that it may set itself.
pub fn most() -> usize {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).saturating_sub(OTHERS);
    usize::try_from(limit).map_or(PER_PROCESS, |limit| limit.min(PER_PROCESS))
}

/// Makes `count` such sockets, a few of which get through before the queues are full.
///
/// # Errors
/// Of the socket calls, as when they are more than [`most`].
pub fn gather(count: usize) -> io::Result<Vec<OwnedFd>> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    let tcp = || sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
    let mut crowd = Vec::with_capacity(count);
    while crowd.len() < count {
        let listener = tcp()?;
        sys::bind(&listener, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        sys::listen(&listener)?;
        let to = sys::local_addr(&listener)?;
        for _ in 0..PER_LISTENER.min(count - crowd.len()) {
            let fd = tcp()?;
            ioctl_fionbio(&fd, true)?;
            match sys::connect(&fd, to) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                _ => crowd.push(fd),
            }
        }
    }
    Ok(crowd)
}
