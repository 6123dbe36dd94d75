//! The network namespaces of this host.
//!
//! Sockets are listed and destroyed in one namespace at a time. An agent's may be in another than that of
//! whoever takes it down: it is cleared by whatever agentnet command comes next.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use crate::kernel::{mountinfo, mounts};

/// Filesystem type of a namespace that is mounted, as `ip netns` does to keep it.
const NSFS: &[u8] = b"nsfs";

/// Every network namespace that a process is in or that is mounted somewhere, each once, the caller's own
/// first. Of any other the kernel has purged the sockets, or is about to.
///
/// # Errors
/// If the processes or mounts cannot be listed, or a namespace cannot be opened.
pub fn all() -> io::Result<Vec<OwnedFd>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut add = |path: &Path| -> io::Result<()> {
        // The target's identity, without opening it: opened once, not once for every process.
        let metadata = fs::metadata(path)?;
        if seen.insert((metadata.dev(), metadata.ino())) {
            found.push(OwnedFd::from(File::open(path)?));
        }
        Ok(())
    };
    add(Path::new("/proc/thread-self/ns/net"))?;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if is_process {
            gone_is_fine(add(&path.join("ns/net")))?;
        }
    }
    for mount in nsfs_mounts()? {
        gone_is_fine(add(&mount))?;
    }
    Ok(found)
}

fn nsfs_mounts() -> io::Result<Vec<PathBuf>> {
    let list = mounts::mountinfo().map_err(io::Error::other)?;
    let networks =
        mountinfo::mounts(&list).filter(|mount| mount.kind == NSFS && mount.root.starts_with(b"net:"));
    Ok(networks.map(|mount| mount.point()).collect())
}

/// A process that ended, and a namespace that was unmounted, are not there any more. A process that even
/// root may not look into belongs to what supervises this host (an init that holds more than root does
/// here, a process guarded by a security module); no agent, which has less than root, can become one.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::EACCES)) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_one_is_first_and_none_is_twice() {
        if !rustix::process::geteuid().is_root() {
            // Other users' processes do not show theirs.
            return;
        }
        let all = all().unwrap();
        let identity =
            |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).unwrap();
        let identities: Vec<_> = all.into_iter().map(|fd| identity(&File::from(fd))).collect();
        let own = File::open("/proc/self/ns/net").unwrap();
        assert_eq!(identities.first(), Some(&identity(&own)));
        assert_eq!(identities.iter().collect::<HashSet<_>>().len(), identities.len());
    }
}
