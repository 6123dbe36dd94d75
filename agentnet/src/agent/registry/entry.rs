//! What is written down about one agent.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Exclusive, LOCK, META, Result, SOCKET, failed};

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
    /// Its number in the maps of its engine.
    pub id: u32,
    /// The kind of its engine.
    pub engine: EngineKind,
    /// Whether the cgroup was made for it, and goes with it; else it was found.
    pub made: bool,
}

/// What looks after an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineKind {
    /// An engine for this agent alone, started by `agentnet run`.
    Run,
    /// The daemon.
    Daemon,
}

/// An entry with its owner lock. Dropping it releases the lock and leaves everything else as it is.
#[derive(Debug)]
pub struct Entry {
    pub(super) directory: PathBuf,
    pub(super) _lock: File,
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
pub(super) fn remove_entry(_: &Exclusive, directory: &Path) -> io::Result<()> {
    for file in [SOCKET, "meta.new", META, LOCK] {
        match fs::remove_file(directory.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::remove_dir(directory)
}
