//! Mounts of a test's own: what is mounted and unmounted there, nobody else sees.

use std::{ffi::CStr, path::Path, thread};

use anyhow::{Context as _, Result, anyhow};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::{UnshareFlags, unshare_unsafe},
};

use super::cgroup::mounts_of;

/// Runs `body` in a thread with mounts of its own. Commands that it starts have them as well, and they go
/// with the last of them.
///
/// # Errors
/// Without root, and those of `body`.
pub fn with_own_mounts<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: only this thread's view changes; its working directory becomes its own with it.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("a mount namespace needs root")?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            body()
        });
        thread.join().map_err(|_| anyhow!("a thread of the lab panicked"))?
    })
}

/// Takes every mount of a file system type away from the calling thread.
///
/// # Errors
/// As the kernel says.
pub fn unmount_all(kind: &str) -> Result<()> {
    while let Some(point) = mounts_of(kind)?.pop() {
        unmount(&point, UnmountFlags::DETACH).with_context(|| format!("unmount {}", point.display()))?;
    }
    Ok(())
}

/// Covers a directory with an empty tmpfs, whose `options` are those of tmpfs(5).
///
/// # Errors
/// As the kernel says.
pub fn cover(place: &Path, options: &CStr) -> Result<()> {
    mount_at("tmpfs", place, options)
}

/// Mounts the cgroup hierarchy at a directory that is made for it.
///
/// # Errors
/// As the kernel says.
pub fn mount_cgroups(place: &Path) -> Result<()> {
    std::fs::create_dir_all(place)?;
    mount_at("cgroup2", place, c"")
}

fn mount_at(kind: &str, place: &Path, options: &CStr) -> Result<()> {
    rustix::mount::mount(kind, place, kind, MountFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} at {}", place.display()))
}
