//! Taking down what an agent has on this host, by its own engine or for one that died.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use agentnet_common::abi::ABI_VERSION;

use super::netns;
use crate::{
    agent::{
        AgentName,
        cgroup::{Cgroup, CgroupError, Hierarchy},
        registry::{EngineKind, Entry, Exclusive, Host, Meta, Registry, RegistryError},
    },
    kernel::{
        pins,
        sockdiag::{self, State},
    },
};

/// The pin directory of the daemon below the mount point of bpffs.
///
/// The version is part of it: two versions of agentnet never open each other's maps.
pub fn daemon_pins(bpffs: &Path) -> PathBuf {
    bpffs.join("agentnet").join(format!("v{ABI_VERSION}"))
}

/// The pin directory of the engine that `run` has started for the agent `name`.
pub fn run_pins(bpffs: &Path, name: &AgentName) -> PathBuf {
    daemon_pins(bpffs).join("run").join(name)
}

/// Clears what engines have left that died. To be done by every command about agents that is root.
///
/// # Errors
/// If the registry cannot be used. What could not be cleared is among the results.
pub fn collect() -> Result<Vec<(AgentName, io::Result<()>)>, RegistryError> {
    let registry = Registry::system();
    if !registry.exists() {
        return Ok(Vec::new());
    }
    registry.collect(&registry.exclusive()?, &System)
}

/// This host.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Host for System {
    /// A cgroup that was found is given back by those who have it governed, and by nobody else while it exists:
    /// its next process is to be governed as the last one was.
    fn is_populated(&self, meta: &Meta) -> io::Result<bool> {
        // In a mount namespace without the hierarchy every cgroup seems to be gone, and its agent may run on.
        if !Hierarchy::find().is_ok_and(|hierarchy| hierarchy.covers(&meta.cgroup)) {
            return Ok(true);
        }
        if !meta.made {
            return Ok(meta.cgroup.exists());
        }
        Cgroup::at(&meta.cgroup).is_populated().map_err(io::Error::other)
    }

    fn clear(&self, name: &AgentName, meta: &Meta) -> io::Result<()> {
        let cgroup = Cgroup::at(&meta.cgroup);
        // Nobody knows any more whether all refused sockets are on the list, and no process is left that
        // another socket of this cgroup could serve.
        destroy_sockets(&refused(meta)?, Some(&cgroup)).map_err(io::Error::other)?;
        clear_pins(name, meta)?;
        if meta.made {
            remove_cgroup(&cgroup).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

/// The agent's sockets that may hold refused data, as far as the pins tell; none if there are no pins.
fn refused(meta: &Meta) -> io::Result<HashSet<u64>> {
    let refused = pins::refused_sockets(&meta.pins).map_err(io::Error::other)?;
    Ok(refused.into_iter().filter(|(_, agent)| *agent == meta.id).map(|(cookie, _)| cookie).collect())
}

/// Removes what the agent has pinned: **enforcement ends here**.
fn clear_pins(name: &AgentName, meta: &Meta) -> io::Result<()> {
    match meta.engine {
        EngineKind::Run => {
            pins::clear_pins(&meta.pins)?;
            prune(&meta.pins);
            Ok(())
        }
        // The maps are all agents'.
        EngineKind::Daemon => pins::clear_agent(&meta.pins, name),
    }
}

/// Destroys the TCP sockets with these cookies and, where given, all that were made in `cgroup` or below, in
/// whatever network namespace they are. Their queues may hold data that was refused, and it would leave as
/// soon as nobody refuses it. Who waits for others goes on waiting: a listener sends nothing, though what is refused of
/// its half-open connections is told of it.
///
/// # Errors
/// If one of them may still be there.
pub fn destroy_sockets(refused: &HashSet<u64>, cgroup: Option<&Cgroup>) -> Result<usize, SocketsError> {
    let ids: HashSet<u64> = cgroup.map_or_else(|| Ok(Vec::new()), Cgroup::ids)?.into_iter().collect();
    if refused.is_empty() && ids.is_empty() {
        return Ok(0);
    }
    let mut destroyed = 0;
    for namespace in netns::all().map_err(SocketsError::Namespaces)? {
        // A cookie names one socket of the host, whatever its namespace.
        destroyed += sockdiag::destroy_tcp(Some(namespace.as_fd()), &|socket| {
            socket.state != State::Listen
                && (refused.contains(&socket.cookie) || socket.cgroup.is_some_and(|id| ids.contains(&id)))
        })?;
    }
    Ok(destroyed)
}

/// Why sockets with refused data may still be there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketsError {
    /// The agent's cgroups cannot be listed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The namespaces they may be in are not known.
    #[error("cannot list the network namespaces: {0}")]
    Namespaces(#[source] io::Error),
    /// They cannot be destroyed.
    #[error(transparent)]
    SockDiag(#[from] sockdiag::SockDiagError),
}

/// Removes an agent's cgroup, and the directory of all agents if it was the last.
///
/// # Errors
/// If a process lives in it.
pub fn remove_cgroup(cgroup: &Cgroup) -> Result<(), CgroupError> {
    cgroup.remove()?;
    if let Ok(hierarchy) = Hierarchy::find()
        && cgroup.path().parent() == Some(&hierarchy.home())
    {
        // Refused while another agent is there, which is why it can be tried.
        let _ = fs::remove_dir(hierarchy.home());
    }
    Ok(())
}

/// Removes the directories above an engine's pins that have become empty.
fn prune(pins: &Path) {
    for directory in pins.ancestors().skip(1).take(3) {
        if fs::remove_dir(directory).is_err() {
            return;
        }
    }
}

/// What an agent has on this host: its cgroup, its pins and its entry with the owner lock.
///
/// Dropped before [`Footprint::keep`] it is taken down. Afterwards it stays whatever becomes of the engine,
/// until [`Footprint::remove`].
#[derive(Debug)]
pub struct Footprint {
    entry: Entry,
    name: AgentName,
    meta: Meta,
    exclusive: Option<Exclusive>,
    cgroup_made: bool,
    origin: Option<(Cgroup, i32)>,
    kept: bool,
}

/// Something of an agent is left. The next command about agents that is root tries again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// Its pins.
    #[error("cannot remove the pins below {}: {error}", path.display())]
    Pins {
        /// Their directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Its cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its entry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Footprint {
    /// What `meta` names and `entry` stands for; none of it needs to be there yet.
    pub fn new(exclusive: Exclusive, entry: Entry, name: &AgentName, meta: &Meta) -> Self {
        Self {
            entry,
            name: name.clone(),
            meta: meta.clone(),
            exclusive: Some(exclusive),
            cgroup_made: false,
            origin: None,
            kept: false,
        }
    }

    /// Of an agent that is governed already.
    pub fn adopted(entry: Entry, name: &AgentName, meta: &Meta) -> Self {
        Self {
            entry,
            name: name.clone(),
            meta: meta.clone(),
            exclusive: None,
            cgroup_made: meta.made,
            origin: None,
            kept: true,
        }
    }

    /// What is written down about it.
    pub const fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Writes something else down.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn rewrite(&mut self, meta: Meta) -> Result<(), RegistryError> {
        self.entry.write(&meta)?;
        self.meta = meta;
        Ok(())
    }

    /// The cgroup was made, so that it is to be removed.
    pub const fn has_cgroup(&mut self) {
        self.cgroup_made = true;
    }

    /// The process `pid` is about to be moved from the cgroup `origin`.
    pub fn takes_from(&mut self, origin: Cgroup, pid: i32) {
        self.origin = Some((origin, pid));
    }

    /// Where the engine is to answer requests.
    pub fn socket(&self) -> PathBuf {
        self.entry.socket()
    }

    /// Lets it stay from now on, and others change the registry.
    pub fn keep(&mut self) {
        self.kept = true;
        self.origin = None;
        self.exclusive = None;
    }

    /// Takes everything down: **enforcement ends here**.
    ///
    /// # Errors
    /// If something stays; its entry stays as well.
    pub fn remove(&mut self) -> Result<(), RemoveError> {
        let exclusive = match self.exclusive.take() {
            Some(exclusive) => exclusive,
            None => Registry::system().exclusive()?,
        };
        clear_pins(&self.name, &self.meta)
            .map_err(|error| RemoveError::Pins { path: self.meta.pins.clone(), error })?;
        if self.cgroup_made {
            remove_cgroup(&Cgroup::at(&self.meta.cgroup))?;
        }
        self.entry.remove(&exclusive)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Footprint {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Some((origin, pid)) = self.origin.take()
            && let Err(error) = Hierarchy::find().and_then(|hierarchy| origin.place(&hierarchy, pid))
        {
            tracing::error!(%error, pid, "cannot move the process back");
        }
        if let Err(error) = self.remove() {
            tracing::error!(%error, "something of the agent is left");
        }
    }
}

/// Names of agents with pins that the registry does not know: somebody has cleared `/run`.
///
/// # Errors
/// If bpffs cannot be read, as without root.
pub fn unregistered(_: &Exclusive, bpffs: &Path, known: &[AgentName]) -> io::Result<Vec<AgentName>> {
    let daemon = daemon_pins(bpffs);
    let mut names = Vec::new();
    for pins in pins::others(&daemon)?.into_iter().chain([daemon]) {
        names.extend(pins::agents(&pins)?);
        match fs::read_dir(pins.join("run")) {
            Ok(entries) => names
                .extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    names.retain(|name| !known.contains(name));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
