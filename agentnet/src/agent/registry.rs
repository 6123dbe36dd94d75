//! Which agents exist on this host: one directory each below `/run/agentnet/agents`.
//!
//! An engine holds an exclusive `flock` on its entry's `lock` for as long as it lives: the owner lock. The
//! kernel releases it however the engine dies, so "locked" means "has a living owner" and nothing has to
//! be trusted to a pid. Enforcement does not depend on the owner: links and maps are pinned. What has no
//! owner and no process left is cleared by the next agentnet command that is root, [`Registry::collect`].
//!
//! Every change of the registry and of what its entries name (cgroup, pins) happens under a second lock,
//! [`Registry::exclusive`], so that two collectors, or a collector and an engine that starts under the same
//! name, take turns.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::AgentName;

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
    /// The name belongs to an agent whose engine died.
    #[error(
        "an agent called `{0}` still has processes, though its engine is gone; it stays under its policy"
    )]
    Ownerless(AgentName),
}

type Result<T, E = RegistryError> = std::result::Result<T, E>;

/// What is written down about an agent, so that another process can find and clear what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// The directory of its cgroup.
    pub cgroup: PathBuf,
    /// The directory of its pinned links and maps.
    pub pins: PathBuf,
    /// When it was started.
    pub started: Timestamp,
    /// The name of its policy.
    pub policy: String,
    /// Whether the policy only audits.
    pub audit: bool,
    /// The client that asked for it.
    pub client: i32,
    /// The client's user.
    pub uid: u32,
}

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

/// What [`Registry::collect`] needs to know of and do to the host.
pub trait Host {
    /// Whether a process lives in the agent's cgroup or below.
    ///
    /// # Errors
    /// If it cannot be known; the agent is then left alone.
    fn is_populated(&self, meta: &Meta) -> io::Result<bool>;

    /// Takes down the agent's pins and cgroup.
    ///
    /// # Errors
    /// If something stays; the entry is then kept.
    fn clear(&self, meta: &Meta) -> io::Result<()>;
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

/// An entry with its owner lock. Dropping it releases the lock and leaves everything else as it is.
#[derive(Debug)]
pub struct Entry {
    directory: PathBuf,
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

    /// Clears every entry that has no owner and no process left, and returns the names of those that were
    /// cleared. What cannot be cleared stays under its policy and is reported with the reason.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub fn collect(
        &self,
        exclusive: &Exclusive,
        host: &dyn Host,
    ) -> Result<Vec<(AgentName, io::Result<()>)>> {
        let mut collected = Vec::new();
        for listed in self.list()? {
            let directory = self.agents().join(&listed.name);
            let path = directory.join(LOCK);
            // Locked for as long as it is being taken down, against an engine that claims without asking.
            let lock = match lock_file(false, &path) {
                Ok(lock) => lock,
                Err(_) if !path.exists() => {
                    // An engine died between making the directory and the lock: nothing else exists.
                    collected.push((listed.name, remove_entry(exclusive, &directory)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if lock.try_lock().is_err() {
                continue;
            }
            let cleared = match &listed.meta {
                Some(meta) => match host.is_populated(meta) {
                    Ok(true) => continue,
                    Ok(false) => host.clear(meta),
                    Err(error) => Err(error),
                },
                // Written before the cgroup and the pins are made: none of it, nothing to take down.
                None if !directory.join(META).exists() => Ok(()),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "its entry cannot be read")),
            };
            let cleared = cleared.and_then(|()| remove_entry(exclusive, &directory));
            collected.push((listed.name, cleared));
        }
        Ok(collected)
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

impl Entry {
    /// Writes down what belongs to the agent. To be called before any of it is made.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, meta: &Meta) -> Result<()> {
        let path = self.directory.join(META);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec(meta).map_err(|error| failed(&path)(error.into()))?;
        // Whoever reads it sees all of it or nothing.
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o644)
            .open(&fresh)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&fresh, &path));
        written.map_err(failed(&path))
    }

    /// Where the owner answers requests.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// Removes the entry, after all that belongs to it was taken down.
    ///
    /// # Errors
    /// If a file of it cannot be removed.
    pub fn remove(&self, exclusive: &Exclusive) -> Result<()> {
        remove_entry(exclusive, &self.directory).map_err(failed(&self.directory))
    }
}

/// The lock goes last: as long as it is there, what is left of the entry can be found and cleared.
fn remove_entry(_: &Exclusive, directory: &Path) -> io::Result<()> {
    for file in [SOCKET, "meta.new", META, LOCK] {
        match fs::remove_file(directory.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(directory)
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A host on which the cgroups in `populated` have processes.
    #[derive(Default)]
    struct Fake {
        populated: Vec<PathBuf>,
        stuck: bool,
        cleared: RefCell<Vec<PathBuf>>,
    }

    impl Host for Fake {
        fn is_populated(&self, meta: &Meta) -> io::Result<bool> {
            Ok(self.populated.contains(&meta.cgroup))
        }

        fn clear(&self, meta: &Meta) -> io::Result<()> {
            if self.stuck {
                return Err(io::ErrorKind::ResourceBusy.into());
            }
            self.cleared.borrow_mut().push(meta.cgroup.clone());
            Ok(())
        }
    }

    fn registry() -> (tempfile::TempDir, Registry) {
        let root = tempfile::tempdir().unwrap();
        let registry = Registry { root: root.path().join("agentnet") };
        (root, registry)
    }

    fn name(text: &str) -> AgentName {
        text.parse().unwrap()
    }

    fn meta(cgroup: &str) -> Meta {
        Meta {
            cgroup: cgroup.into(),
            pins: "/pins".into(),
            started: Timestamp::UNIX_EPOCH,
            policy: "coding".into(),
            audit: false,
            client: 7,
            uid: 1000,
        }
    }

    fn claim(registry: &Registry, agent: &str) -> Result<Entry> {
        let entry = registry.claim(&registry.exclusive().unwrap(), &name(agent))?;
        entry.write(&meta(agent)).unwrap();
        Ok(entry)
    }

    fn collect(registry: &Registry, host: &Fake) -> Vec<(String, bool)> {
        let collected = registry.collect(&registry.exclusive().unwrap(), host).unwrap();
        collected.into_iter().map(|(name, result)| (name.to_string(), result.is_ok())).collect()
    }

    #[test]
    fn a_living_owner_is_left_alone() {
        let (_root, registry) = registry();
        assert!(registry.list().unwrap().is_empty(), "no directory, no agents");
        let entry = claim(&registry, "a").unwrap();
        assert!(matches!(claim(&registry, "a"), Err(RegistryError::InUse(_))));
        assert_eq!(collect(&registry, &Fake::default()), []);
        let listed = registry.list().unwrap();
        assert_eq!((listed.len(), listed[0].owner), (1, Owner::Alive));
        assert_eq!(listed[0].meta, Some(meta("a")));
        entry.remove(&registry.exclusive().unwrap()).unwrap();
        assert!(registry.list().unwrap().is_empty());
        assert!(claim(&registry, "a").is_ok(), "the name is free again");
    }

    #[test]
    fn a_dead_owner_is_cleared_when_its_cgroup_is_empty() {
        let (_root, registry) = registry();
        drop(claim(&registry, "full").unwrap());
        drop(claim(&registry, "empty").unwrap());
        let mut host = Fake { populated: vec!["full".into()], ..Fake::default() };
        assert_eq!(collect(&registry, &host), [("empty".to_owned(), true)]);
        assert_eq!(*host.cleared.borrow(), [PathBuf::from("empty")]);
        let listed = registry.list().unwrap();
        assert_eq!((listed.len(), listed[0].owner), (1, Owner::Gone));
        assert!(matches!(claim(&registry, "full"), Err(RegistryError::Ownerless(_))));

        host.populated.clear();
        host.stuck = true;
        assert_eq!(collect(&registry, &host), [("full".to_owned(), false)], "reported and kept");
        assert_eq!(registry.list().unwrap().len(), 1);
        host.stuck = false;
        assert_eq!(collect(&registry, &host), [("full".to_owned(), true)]);
        assert!(registry.list().unwrap().is_empty());
    }

    #[test]
    fn what_a_crash_leaves_half_made_is_cleared() {
        let (_root, registry) = registry();
        drop(registry.claim(&registry.exclusive().unwrap(), &name("no-meta")).unwrap());
        fs::create_dir(registry.agents().join("no-lock")).unwrap();
        drop(claim(&registry, "unreadable").unwrap());
        fs::write(registry.agents().join("unreadable").join(META), "{").unwrap();
        let collected = collect(&registry, &Fake::default());
        let expected = [("no-lock", true), ("no-meta", true), ("unreadable", false)];
        assert_eq!(collected, expected.map(|(name, ok)| (name.to_owned(), ok)));
    }

    #[test]
    fn collectors_take_turns() {
        let (_root, registry) = registry();
        for index in 0..20 {
            drop(claim(&registry, &format!("a{index}")).unwrap());
        }
        // Each entry is cleared by exactly one of them, and by none twice.
        let counts = std::thread::scope(|scope| {
            let collectors: Vec<_> =
                (0..4).map(|_| scope.spawn(|| collect(&registry, &Fake::default()).len())).collect();
            collectors.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(counts, 20);
        assert!(registry.list().unwrap().is_empty());
    }
}
