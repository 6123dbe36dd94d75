//! A cgroup to attach to without touching anybody.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::FlockOperation;

use crate::kernel::mounts;

/// A cgroup of our own, without processes, that is removed at the end.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
    pub(super) directory: File,
}

const SCRATCH_PREFIX: &str = "agentnet-doctor-";

/// Makes one, and removes what a doctor left that was killed.
pub(super) fn scratch() -> Result<Scratch, String> {
    let mount = mounts::cgroup2_mount().map_err(|_| "no cgroup to attach to".to_owned())?;
    reap(&mount);
    Scratch::new(&mount).map_err(|error| format!("cannot make a cgroup in {}: {error}", mount.display()))
}

impl Scratch {
    fn new(mount: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = mount.join(format!("{SCRATCH_PREFIX}{pid}-{count}"));
        fs::create_dir(&path)?;
        let directory = File::open(&path).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })?;
        let scratch = Self { path, directory };
        rustix::fs::flock(&scratch.directory, FlockOperation::NonBlockingLockShared)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind after all is empty, and the next doctor removes it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes what a doctor left that was killed: nobody holds its lock.
fn reap(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(SCRATCH_PREFIX)) else { continue };
        let pid = pid.split('-').next().unwrap_or_default();
        // Not one that is just being made and has no lock yet.
        if Path::new("/proc").join(pid).exists() {
            continue;
        }
        let abandoned = File::open(entry.path()).is_ok_and(|directory| {
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        });
        if abandoned {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
