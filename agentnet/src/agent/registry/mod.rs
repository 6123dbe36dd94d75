//! Which agents exist on this host: one directory each below `/run/agentnet/agents`.
//!
//! An engine holds an exclusive `flock` on its entry's `lock` for as long as it lives: the owner lock. The
//! kernel releases it however the engine dies, so "locked" means "has a living owner" and nothing has to
//! be trusted to a pid. Enforcement does not depend on the owner: links and maps are pinned. What has no
//! owner and no process left is cleared by the next command about agents that is root, [`Registry::collect`].
//!
//! Every change of the registry and of what its entries name (cgroup, pins) happens under a second lock,
//! [`Registry::exclusive`], so that two collectors, or a collector and an engine that starts under the same
//! name, take turns.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::AgentName;

mod collect;
mod daemon;
mod entry;
#[cfg(test)]
mod tests;

pub use collect::Host;
pub use daemon::DaemonLock;
pub use entry::{EngineKind, Entry, Meta};

/// Where the registry is. Cleared by the kernel's own hand at a reboot, like cgroups and pins.
const SYSTEM: &str = "/run/agentnet";

const LOCK: &str = "lock";
const META: &str = "meta.json";
const SOCKET: &str = "control.sock";

/// Something went wrong with the registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A file of it cannot be used.
    #[error("cannot use {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The name belongs to a running agent.
    #[error("an agent called `{0}` is running already")]
    InUse(AgentName),
    /// There is a daemon.
    #[error("the agentnet daemon runs already; see it with `agentnet status`")]
    DaemonRuns,
    /// The name belongs to an agent whose engine died.
    #[error(
        "an agent called `{0}` still has processes, though its engine is gone; it stays under its policy"
    )]
    Ownerless(AgentName),
}

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// Whether somebody looks after an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An engine holds the lock.
    Alive,
    /// Nobody does.
    Gone,
    /// The caller may not know; root may.
    Unknown,
}

/// An entry as [`Registry::list`] finds it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The agent.
    pub name: AgentName,
    /// Whether its engine lives.
    pub owner: Owner,
    /// What is written down; `None` if nothing can be read.
    pub meta: Option<Meta>,
    /// Where its engine answers.
    pub socket: PathBuf,
}

/// The registry.
#[derive(Clone, Debug)]
pub struct Registry {
    root: PathBuf,
}

/// The right to change the registry, held until dropped.
#[derive(Debug)]
pub struct Exclusive {
    _lock: File,
}

impl Registry {
    /// The registry of this host.
    pub fn system() -> Self {
        Self { root: SYSTEM.into() }
    }

    /// Whether any agent was ever registered since the host started.
    pub fn exists(&self) -> bool {
        self.agents().is_dir()
    }

    /// Waits for the right to change the registry. Its holders are quick.
    ///
    /// # Errors
    /// If the directory cannot be made or locked, as without root.
    pub fn exclusive(&self) -> Result<Exclusive> {
        let agents = self.agents();
        DirBuilder::new().recursive(true).mode(0o755).create(&agents).map_err(failed(&agents))?;
        let path = self.root.join(LOCK);
        let lock = lock_file(true, &path)?;
        lock.lock().map_err(failed(&path))?;
        Ok(Exclusive { _lock: lock })
    }

    /// Takes the name `name`.
    ///
    /// # Errors
    /// If it is taken, or the entry cannot be made.
    pub fn claim(&self, _: &Exclusive, name: &AgentName) -> Result<Entry> {
        let directory = self.agents().join(name);
        let made = match DirBuilder::new().mode(0o755).create(&directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(&directory)(error)),
        };
        let path = directory.join(LOCK);
        let lock = lock_file(true, &path)?;
        match lock.try_lock() {
            // What is left of an entry that `collect` could not clear is not to be written over.
            Ok(()) if !made && directory.join(META).exists() => Err(RegistryError::Ownerless(name.clone())),
            Ok(()) => Ok(Entry { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RegistryError::InUse(name.clone())),
            Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
        }
    }

    /// Takes over the entry of an agent whose engine is gone.
    ///
    /// # Errors
    /// If somebody else has it, or there is none.
    pub fn adopt(&self, _: &Exclusive, name: &AgentName) -> Result<Entry> {
        let directory = self.agents().join(name);
        let path = directory.join(LOCK);
        let lock = lock_file(false, &path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Entry { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RegistryError::InUse(name.clone())),
            Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
        }
    }

    /// Every entry, by name.
    ///
    /// # Errors
    /// If the directory cannot be read. That it is not there means that there are no agents.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let agents = self.agents();
        let entries = match fs::read_dir(&agents) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&agents)(error)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok());
        let mut names: Vec<AgentName> = names.collect();
        names.sort();
        Ok(names.into_iter().map(|name| self.look_up(name)).collect())
    }

    fn look_up(&self, name: AgentName) -> Listed {
        let directory = self.agents().join(&name);
        let owner = match lock_file(false, &directory.join(LOCK)) {
            // Shared: a look must not make another's look, or an engine's claim, fail.
            Ok(lock) => match lock.try_lock_shared() {
                Ok(()) => Owner::Gone,
                Err(TryLockError::WouldBlock) => Owner::Alive,
                Err(TryLockError::Error(_)) => Owner::Unknown,
            },
            Err(_) => Owner::Unknown,
        };
        let meta = fs::read(directory.join(META)).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Listed { name, owner, meta, socket: directory.join(SOCKET) }
    }

    fn agents(&self) -> PathBuf {
        self.root.join("agents")
    }
}

fn lock_file(create: bool, path: &Path) -> Result<File> {
    // Root's only: any reader could take the lock, and pass for an owner.
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).mode(0o600);
    options.open(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    move |error| RegistryError::File { path: path.to_owned(), error }
}
