//! What the programs remember with a socket, read and written from outside: socket storage takes a descriptor of
//! the socket for a key (`bpf_fd_sk_storage_update_elem`, net/core/bpf_sk_storage.c).
//!
//! Sockets that were there before their cgroup was governed carry no mark, and without one the programs take a
//! listener of the agent's for somebody else's, and a connection that came in for one that went out.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use agentnet_common::abi::{SockState, maps};

use super::{pins, sys};

/// The socket storage of an engine.
#[derive(Debug)]
pub struct Marks {
    map: OwnedFd,
}

impl Marks {
    /// That of the engine whose pins are below `pins`.
    ///
    /// # Errors
    /// If it is not pinned there.
    pub fn open(pins: &Path) -> io::Result<Self> {
        sys::obj_get(&pins::map_path(pins, maps::SOCK)).map(|map| Self { map })
    }

    /// That of the map `map`, which must be [`maps::SOCK`].
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated.
    pub fn of(map: BorrowedFd<'_>) -> io::Result<Self> {
        map.try_clone_to_owned().map(|map| Self { map })
    }

    /// What is remembered with `socket`; `None` if nothing is.
    ///
    /// # Errors
    /// If it is no socket that can have any.
    pub fn read(&self, socket: BorrowedFd<'_>) -> io::Result<Option<SockState>> {
        match sys::map_lookup(self.map.as_fd(), &socket.as_raw_fd()) {
            Ok(state) => Ok(Some(state)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has `state` remembered with `socket`, instead of whatever was.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn write(&self, socket: BorrowedFd<'_>, state: &SockState) -> io::Result<()> {
        sys::map_update(self.map.as_fd(), &socket.as_raw_fd(), state)
    }
}
