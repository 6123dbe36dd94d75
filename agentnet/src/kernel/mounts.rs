//! Where the kernel's filesystems are mounted.
//!
//! Never a fixed path: cgroup v2 is at `/sys/fs/cgroup` on a unified host, at `/sys/fs/cgroup/unified` on a
//! hybrid one, and anywhere in a container.

use std::{io, path::PathBuf};

use rustix::mount::MountFlags;

use super::mountinfo::{self, Mount};

/// Filesystem type of cgroup v2.
pub const CGROUP2: &str = "cgroup2";
/// Filesystem type of the filesystem that holds pins.
pub const BPF: &str = "bpf";

/// Where bpffs belongs, and where [`ensure_bpffs`] mounts it. The kernel makes the directory.
const BPFFS_HOME: &str = "/sys/fs/bpf";

/// The mounts of the calling thread: it may be in another mount namespace than the rest of its process.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// Why a filesystem could not be found or mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The list of mounts cannot be read.
    #[error("cannot read {MOUNTINFO}: {0}; is /proc mounted?")]
    Unreadable(#[source] io::Error),
    /// There is no cgroup v2.
    #[error(
        "cgroup v2 is not mounted, and it is what tells agents apart: boot with \
         systemd.unified_cgroup_hierarchy=1, or mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    /// There is no bpffs.
    #[error("bpffs is not mounted; mount it with `mount -t bpf bpf {BPFFS_HOME}`")]
    NoBpffs,
    /// bpffs is not there and cannot be mounted either.
    #[error("cannot mount bpffs on {BPFFS_HOME}: {0}; it takes root and a kernel with CONFIG_BPF_SYSCALL")]
    MountBpffs(#[source] io::Error),
}

/// The mount of filesystem type `fstype` in `mountinfo`, the text of a mountinfo file.
///
/// Of several the one that shows the whole filesystem, then the first. A mount that is hidden below another
/// is passed over, and so is a line that cannot be read.
pub fn find<'a>(fstype: &str, mountinfo: &'a [u8]) -> Option<Mount<'a>> {
    let all: Vec<Mount<'_>> = mountinfo::mounts(mountinfo).collect();
    let mut found = all.iter().filter(|mount| mount.kind == fstype.as_bytes() && !is_hidden(mount, &all));
    let first = found.next()?;
    let whole = std::iter::once(first).chain(found).find(|mount| mount.root == b"/");
    Some(*whole.unwrap_or(first))
}

/// Where cgroup v2 is mounted.
///
/// # Errors
///
/// If it is not, or if the mounts cannot be read.
pub fn cgroup2_mount() -> Result<PathBuf, MountError> {
    find(CGROUP2, &mountinfo()?).map(|mount| mount.point()).ok_or(MountError::NoCgroup2)
}

/// Where bpffs is mounted.
///
/// # Errors
///
/// If it is not, or if the mounts cannot be read.
pub fn bpffs_mount() -> Result<PathBuf, MountError> {
    find(BPF, &mountinfo()?).map(|mount| mount.point()).ok_or(MountError::NoBpffs)
}

/// Where bpffs is mounted; mounts it where it belongs if it is not mounted at all. Needs root only then.
///
/// # Errors
///
/// If it cannot be mounted, or if the mounts cannot be read.
pub fn ensure_bpffs() -> Result<PathBuf, MountError> {
    match bpffs_mount() {
        Err(MountError::NoBpffs) => {
            // As systemd mounts it: nobody but root may enter.
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount(BPF, BPFFS_HOME, BPF, flags, Some(c"mode=0700"))
                .map_err(|errno| MountError::MountBpffs(errno.into()))?;
            Ok(BPFFS_HOME.into())
        }
        found => found,
    }
}

/// The mounts of the calling thread, as [`mountinfo::mounts`] reads them.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn mountinfo() -> Result<Vec<u8>, MountError> {
    std::fs::read(MOUNTINFO).map_err(MountError::Unreadable)
}

/// Whether a path to the mount point ends in another mount: one was made on top of it, or on a directory on
/// the way to it.
fn is_hidden(mount: &Mount<'_>, all: &[Mount<'_>]) -> bool {
    let (mut mount, mut child) = (mount, None);
    // As many steps as there are mounts: a loop in the parents would be a broken file.
    for _ in 0..all.len() {
        let covered = all.iter().any(|other| {
            let on_top = other.parent == mount.id && other.point == mount.point;
            let on_the_way = other.parent == mount.parent
                && other.point != mount.point
                && mount.point().starts_with(other.point());
            other.id != mount.id && Some(other.id) != child && (on_top || on_the_way)
        });
        if covered {
            return true;
        }
        match all.iter().find(|other| other.id == mount.parent && other.id != mount.id) {
            Some(parent) => (mount, child) = (parent, Some(mount.id)),
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "\
22 29 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
23 29 0:22 / /proc rw,nosuid,nodev,noexec,relatime shared:13 - proc proc rw
29 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
30 22 0:6 / /sys/kernel/security rw,nosuid,nodev,noexec,relatime shared:8 - securityfs securityfs rw
33 22 0:28 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
36 22 0:31 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:12 master:3 - bpf bpf rw,mode=700
";
    const HYBRID: &str = "\
23 27 0:22 / /sys rw,relatime - sysfs sysfs rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn point(fstype: &str, text: &str) -> Option<String> {
        find(fstype, text.as_bytes()).map(|mount| mount.point().display().to_string())
    }

    #[test]
    fn unified_and_hybrid_hosts() {
        assert_eq!(point(CGROUP2, UNIFIED).as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(point(BPF, UNIFIED).as_deref(), Some("/sys/fs/bpf"));
        assert_eq!(point(CGROUP2, HYBRID).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(point(BPF, HYBRID), None);
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(find(CGROUP2, b""), None);
        assert_eq!(find(CGROUP2, b"garbage\n1 2 3\n33 22 0:28 / /x rw shared:1 cgroup2 cgroup2 rw\n"), None);
    }

    #[test]
    fn the_whole_filesystem_wins_over_a_part_of_it() {
        // A cgroup namespace made elsewhere: the mount from outside shows a path above the namespace's root.
        let text = "\
50 1 0:40 / / rw - overlay overlay rw
61 50 0:28 /../.. /host/cgroup ro,nosuid - cgroup2 cgroup2 rw
62 50 0:28 /docker/4f /mnt/part rw,nosuid - cgroup2 cgroup2 rw
63 50 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw
";
        assert_eq!(point(CGROUP2, text).as_deref(), Some("/sys/fs/cgroup"));
        let parts: String = text.split_inclusive('\n').take(3).collect();
        let part = find(CGROUP2, parts.as_bytes()).expect("a part is better than nothing");
        assert_eq!((part.root, part.is_writable()), (&b"/../.."[..], false));
    }

    #[test]
    fn a_hidden_mount_is_passed_over() {
        let below_a_directory = format!("{UNIFIED}70 22 0:50 / /sys rw - tmpfs tmpfs rw\n");
        assert_eq!(point(CGROUP2, &below_a_directory), None, "a tmpfs covers all of /sys");
        let on_top = format!("{UNIFIED}71 33 0:51 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n");
        assert_eq!(point(CGROUP2, &on_top), None, "a tmpfs covers the mount itself");
        let again = format!("{on_top}72 71 0:28 / /sys/fs/cgroup/v2 rw - cgroup2 cgroup2 rw\n");
        assert_eq!(point(CGROUP2, &again).as_deref(), Some("/sys/fs/cgroup/v2"));
    }
}
