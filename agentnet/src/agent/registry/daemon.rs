//! The place of the daemon, of which a host has one.

use std::{
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

use super::{LOCK, Registry, RegistryError, Result, SOCKET, failed, lock_file};

/// The place, held until dropped.
#[derive(Debug)]
pub struct DaemonLock {
    directory: PathBuf,
    _lock: File,
}

impl Registry {
    /// Takes the place of this host's daemon.
    ///
    /// # Errors
    /// If another daemon has it, or the directory cannot be made.
    pub fn daemon(&self) -> Result<DaemonLock> {
        let directory = self.root.join("daemon");
        DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(failed(&directory))?;
        let path = directory.join(LOCK);
        let lock = lock_file(true, &path)?;
        match lock.try_lock() {
            Ok(()) => Ok(DaemonLock { directory, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RegistryError::DaemonRuns),
            Err(TryLockError::Error(error)) => Err(failed(&path)(error)),
        }
    }
}

impl DaemonLock {
    /// Where the daemon answers requests.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }
}
