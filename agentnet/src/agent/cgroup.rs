//! Cgroups of agents (cgroup v2, Documentation/admin-guide/cgroup-v2.rst).
//!
//! An agent's cgroup is made by root, below `agentnet` at the top of the hierarchy or below the agent whose
//! child it is. Never below a directory that was delegated to the user: whoever may write the
//! `cgroup.procs` of a common ancestor can move processes out of the agent again.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use procfs::process::Process;

use crate::{
    agent::AgentName,
    kernel::mounts::{self, MountError},
};

/// The directory, at the top of the hierarchy, that holds the cgroups of agents.
const HOME: &str = "agentnet";

/// Something went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// There is no hierarchy.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The kernel refused an operation on a cgroup.
    #[error("cannot {action} the cgroup {}: {error}", path.display())]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// The directory of the cgroup.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// A process cannot be looked at.
    #[error("cannot tell the cgroup of process {pid}: {error}")]
    Process {
        /// The process.
        pid: i32,
        /// Why.
        #[source]
        error: procfs::ProcError,
    },
    /// A process has no cgroup that is visible here.
    #[error("process {pid} is in no cgroup below the one that is mounted here")]
    Outside {
        /// The process.
        pid: i32,
    },
    /// A process that was moved is not where it was moved to.
    #[error("process {pid} did not stay in the cgroup {}", path.display())]
    NotPlaced {
        /// The process.
        pid: i32,
        /// Where it should be.
        path: PathBuf,
    },
}

type Result<T, E = CgroupError> = std::result::Result<T, E>;

/// The mounted cgroup v2 hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    point: PathBuf,
}

impl Hierarchy {
    /// Finds it, wherever it is mounted.
    ///
    /// # Errors
    /// If it is not mounted or the mounts cannot be read.
    pub fn find() -> Result<Self> {
        Ok(Self { point: mounts::cgroup2_mount()? })
    }

    /// The hierarchy mounted at `point`.
    pub fn at(point: impl Into<PathBuf>) -> Self {
        Self { point: point.into() }
    }

    /// The cgroup at the top.
    pub fn top(&self) -> Cgroup {
        Cgroup { path: self.point.clone() }
    }

    /// Whether a cgroup at `path` could be seen here, if there is one.
    pub fn covers(&self, path: &Path) -> bool {
        path.starts_with(&self.point)
    }

    /// The directory below which agents are made that have no agent above them.
    pub fn home(&self) -> PathBuf {
        self.point.join(HOME)
    }

    /// The cgroup of the process `pid`.
    ///
    /// # Errors
    /// If the process is gone or its cgroup is outside what is mounted here.
    pub fn of(&self, pid: i32) -> Result<Cgroup> {
        let groups = Process::new(pid)
            .and_then(|process| process.cgroups())
            .map_err(|error| CgroupError::Process { pid, error })?;
        let own = groups.into_iter().find(|group| group.hierarchy == 0);
        own.and_then(|group| self.resolve(&group.pathname)).ok_or(CgroupError::Outside { pid })
    }

    /// The cgroup that `/proc/PID/cgroup` calls `name`. A name that climbs (`/../x`) is outside the
    /// reader's cgroup namespace.
    fn resolve(&self, name: &str) -> Option<Cgroup> {
        // The kernel marks a cgroup that was removed under a process; nothing can be made below it.
        let name = name.strip_prefix('/')?;
        if name.ends_with(" (deleted)") || name.split('/').any(|part| part == "..") {
            return None;
        }
        Some(Cgroup { path: if name.is_empty() { self.point.clone() } else { self.point.join(name) } })
    }
}

/// One cgroup: its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Makes the cgroup `name` below `parent`, and `parent` itself if it is not there.
    ///
    /// # Errors
    /// If the kernel refuses, among others because it exists.
    pub fn create(parent: &Path, name: &AgentName) -> Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o755);
        let cgroup = Self::at(parent.join(name));
        match builder.create(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Self::at(parent).failed("make")(error));
            }
            _ => builder.create(&cgroup.path).map_err(cgroup.failed("make"))?,
        }
        Ok(cgroup)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the process `pid` with all its threads here and looks whether it arrived.
    ///
    /// # Errors
    /// If the kernel refuses or the process is not here afterwards.
    pub fn place(&self, hierarchy: &Hierarchy, pid: i32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string(), "move a process into")?;
        if hierarchy.of(pid)? == *self {
            Ok(())
        } else {
            Err(CgroupError::NotPlaced { pid, path: self.path.clone() })
        }
    }

    /// Kills every process in it and below, also those that are being made.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1", "kill the processes of")
    }

    /// Whether a process lives in it or below. A cgroup that is gone holds none.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn is_populated(&self) -> Result<bool> {
        match fs::read_to_string(self.events()) {
            Ok(text) => Ok(populated(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed("read")(error)),
        }
    }

    /// The file that tells of changes: a poll on it returns `POLLPRI` when it changes.
    pub fn events(&self) -> PathBuf {
        self.path.join("cgroup.events")
    }

    /// How many processes live in it and below.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn processes(&self) -> Result<usize> {
        Ok(self.pids()?.len())
    }

    /// The processes that live in it and below; 0 stands for one in a PID namespace that cannot be seen.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for path in self.subtree()? {
            match fs::read_to_string(path.join("cgroup.procs")) {
                Ok(text) => pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok())),
                // Removed meanwhile, or a threaded cgroup, whose processes its parent lists.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                    ) => {}
                Err(error) => return Err(self.failed("read")(error)),
            }
        }
        Ok(pids)
    }

    /// The identifiers of it and of all below it: the inode numbers of their directories.
    ///
    /// # Errors
    /// If the directories cannot be read.
    pub fn ids(&self) -> Result<Vec<u64>> {
        let ids = self.subtree()?.into_iter().filter_map(|path| fs::metadata(path).ok());
        Ok(ids.map(|metadata| metadata.ino()).collect())
    }

    /// Whether nobody but root can move processes in or out of it.
    pub fn is_roots(&self) -> bool {
        let closed = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o022 == 0)
        };
        closed(&self.path) && closed(&self.path.join("cgroup.procs"))
    }

    /// Removes it and all below it; that it is gone already is no error.
    ///
    /// # Errors
    /// If a process lives in one of them.
    pub fn remove(&self) -> Result<()> {
        for path in self.subtree()?.into_iter().rev() {
            match fs::remove_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Self::at(path).failed("remove")(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// It and every cgroup below, a parent before its children. Without recursion: an agent that is root
    /// may make them as deep as it likes.
    fn subtree(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open = vec![self.path.clone()];
        while let Some(path) = open.pop() {
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Self::at(path).failed("read")(error)),
            };
            let directories = entries
                .filter_map(std::result::Result::ok)
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(directories.map(|entry| entry.path()));
            found.push(path);
        }
        Ok(found)
    }

    fn write(&self, file: &str, text: &str, action: &'static str) -> Result<()> {
        // Not created if missing: a plain directory in the place of a cgroup would take any file.
        let written = fs::OpenOptions::new()
            .write(true)
            .open(self.path.join(file))
            .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(self.failed(action))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
        let path = self.path.clone();
        move |error| CgroupError::Cgroup { action, path, error }
    }
}

/// Reads `cgroup.events`. What cannot be read counts as populated: an agent is not given up by mistake.
fn populated(events: &str) -> bool {
    !events.lines().any(|line| line.trim_end() == "populated 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_say_nothing_mean_populated() {
        assert!(!populated("populated 0\nfrozen 0\n"));
        assert!(populated("populated 1\nfrozen 0\n"));
        assert!(populated("populated 01\n"));
        assert!(populated(""));
    }

    #[test]
    fn names_are_resolved_below_the_mount() {
        let hierarchy = Hierarchy { point: "/cg".into() };
        let at = |name: &str| hierarchy.resolve(name).map(|cgroup| cgroup.path.display().to_string());
        assert_eq!(at("/").as_deref(), Some("/cg"));
        assert_eq!(at("/user.slice/a b").as_deref(), Some("/cg/user.slice/a b"));
        assert_eq!(at("/../sibling"), None, "outside the cgroup namespace");
        assert_eq!(at("/agentnet/x (deleted)"), None);
        assert_eq!(at("relative"), None);
    }

    #[test]
    fn a_tree_is_listed_parents_first_and_removed_children_first() {
        let root = tempfile::tempdir().unwrap();
        let name: AgentName = "agent".parse().unwrap();
        let cgroup = Cgroup::create(&root.path().join("agentnet"), &name).unwrap();
        assert!(Cgroup::create(&root.path().join("agentnet"), &name).is_err(), "it exists");
        fs::create_dir_all(cgroup.path().join("a/b/c")).unwrap();
        fs::create_dir(cgroup.path().join("d")).unwrap();
        let tree = cgroup.subtree().unwrap();
        assert_eq!(tree.len(), 5);
        for (index, path) in tree.iter().enumerate() {
            assert!(!tree.iter().skip(index + 1).any(|later| path.starts_with(later)), "{path:?} is late");
        }
        assert_eq!(cgroup.ids().unwrap().len(), 5);
        cgroup.remove().unwrap();
        assert!(!cgroup.path().exists());
        cgroup.remove().expect("it is gone already");
        assert!(!cgroup.is_populated().unwrap());
    }

    #[test]
    fn nothing_is_written_into_a_plain_directory() {
        let root = tempfile::tempdir().unwrap();
        assert!(Cgroup::at(root.path()).kill().is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
