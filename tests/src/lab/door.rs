//! Unix sockets outside the agent, and what arrived at them.

use std::{
    io::{ErrorKind, Read as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram, UnixListener},
    },
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::hosts::Hosts;

/// A directory of its own with sockets in it.
pub struct Doors {
    directory: tempfile::TempDir,
}

impl Doors {
    /// Makes the directory.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::Builder::new().prefix("agentnet-doors-").tempdir()? })
    }

    /// The path of `name` in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// A stream socket that listens. Nothing is accepted until it is asked for.
pub struct Listener(UnixListener);

impl Listener {
    /// Listens at a path.
    ///
    /// # Errors
    /// If it cannot.
    pub fn at(path: &Path) -> Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// Listens at an abstract name on the agent's host.
    ///
    /// # Errors
    /// If it cannot.
    pub fn named(hosts: &Hosts, name: &str) -> Result<Self> {
        let listener = hosts.agent.run(|| {
            let address = SocketAddr::from_abstract_name(name)?;
            Ok(UnixListener::bind_addr(&address)?)
        })?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }

    /// What came by each connection so far; those who connected must be gone.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn arrived(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        loop {
            match self.0.accept() {
                Ok((mut stream, _)) => {
                    let mut text = String::new();
                    stream.read_to_string(&mut text)?;
                    all.push(text);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => bail!(error),
            }
        }
    }
}

/// A datagram socket.
pub struct Mailbox(UnixDatagram);

impl Mailbox {
    /// Receives at a path.
    ///
    /// # Errors
    /// If it cannot.
    pub fn at(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Receives at an abstract name on the agent's host.
    ///
    /// # Errors
    /// If it cannot.
    pub fn named(hosts: &Hosts, name: &str) -> Result<Self> {
        let socket = hosts.agent.run(|| {
            let address = SocketAddr::from_abstract_name(name)?;
            Ok(UnixDatagram::bind_addr(&address)?)
        })?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The datagrams that came so far.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn arrived(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        let mut buffer = [0; 256];
        loop {
            match self.0.recv(&mut buffer) {
                Ok(length) => all.push(String::from_utf8(buffer[..length].to_vec())?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(all),
                Err(error) => bail!(error),
            }
        }
    }
}
