//! Where cgroups are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Mount points of a file system type, from `/proc/thread-self/mountinfo`.
///
/// # Errors
/// If that cannot be read.
pub fn mounts_of(kind: &str) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mounts = text.lines().filter_map(|line| {
        let (place, system) = line.split_once(" - ")?;
        (system.split(' ').next() == Some(kind)).then(|| place.split(' ').nth(4)).flatten()
    });
    Ok(mounts.map(PathBuf::from).collect())
}

/// Where cgroup v2 is mounted.
///
/// # Errors
/// If it is not.
pub fn mount_point() -> Result<PathBuf> {
    mounts_of("cgroup2")?.into_iter().next().context("cgroup v2 is not mounted")
}

/// The directory of the cgroup that a process (`self` or a number) is in.
///
/// # Errors
/// If there is no such process.
pub fn of_process(mount: &Path, pid: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).context("not in cgroup v2")?;
    Ok(mount.join(path.trim_start_matches('/')))
}

/// Cgroups below `mount`, at any depth, whose name holds `needle`.
pub fn named(mount: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![mount.to_owned()];
    while let Some(dir) = open.pop() {
        // A cgroup may go while we walk.
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().contains(needle) {
                    found.push(entry.path());
                }
                open.push(entry.path());
            }
        }
    }
    found
}
