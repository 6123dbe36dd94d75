//! Where the kernel's filesystems are mounted, read from mountinfo (proc_pid_mountinfo(5)).
//!
//! Never a fixed path: cgroup v2 is at `/sys/fs/cgroup` on a unified host, at `/sys/fs/cgroup/unified` on a
//! hybrid one, and anywhere in a container.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use rustix::mount::MountFlags;

/// Filesystem type of cgroup v2.
pub const CGROUP2: &str = "cgroup2";
/// Filesystem type of the filesystem that holds pins.
pub const BPF: &str = "bpf";

/// Where bpffs belongs, and where [`ensure_bpffs`] mounts it. The kernel makes the directory.
const BPFFS_HOME: &str = "/sys/fs/bpf";

/// The mounts of the calling thread: it may be in another mount namespace than the rest of its process.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Directory of the filesystem that is visible at `point`: `/` unless only a part of it was mounted.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Whether it can be written to.
    pub writable: bool,
}

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
pub fn find(fstype: &str, mountinfo: &str) -> Option<Mount> {
    let entries: Vec<Entry> = mountinfo.lines().filter_map(Entry::parse).collect();
    let mut found = entries.iter().filter(|entry| entry.fstype == fstype && !entry.is_hidden(&entries));
    let first = found.next()?;
    let whole = std::iter::once(first).chain(found).find(|entry| entry.mount.root == Path::new("/"));
    Some(whole.unwrap_or(first).mount.clone())
}

/// Where cgroup v2 is mounted.
///
/// # Errors
///
/// If it is not, or if the mounts cannot be read.
pub fn cgroup2_mount() -> Result<PathBuf, MountError> {
    find(CGROUP2, &mountinfo()?).map(|mount| mount.point).ok_or(MountError::NoCgroup2)
}

/// Where bpffs is mounted.
///
/// # Errors
///
/// If it is not, or if the mounts cannot be read.
pub fn bpffs_mount() -> Result<PathBuf, MountError> {
    find(BPF, &mountinfo()?).map(|mount| mount.point).ok_or(MountError::NoBpffs)
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

/// The mounts of the calling thread, as text.
///
/// # Errors
///
/// If the file cannot be read.
pub(crate) fn mountinfo() -> Result<String, MountError> {
    let bytes = std::fs::read(MOUNTINFO).map_err(MountError::Unreadable)?;
    // A stranger's mount point may be any bytes; it must not hide the mounts that matter.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One line of mountinfo.
struct Entry<'a> {
    id: &'a str,
    parent: &'a str,
    fstype: &'a str,
    mount: Mount,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // 41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:7 - cgroup2 cgroup2 rw
        let mut fields = line.split(' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        let (root, point) = (fields.nth(1)?, fields.next()?);
        let options = fields.next()?;
        // Optional fields, any number of them, end with a lone dash.
        fields.by_ref().find(|field| *field == "-")?;
        let fstype = fields.next()?;
        let super_options = fields.nth(1)?;
        let read_only = [options, super_options].iter().any(|list| list.split(',').any(|o| o == "ro"));
        let mount = Mount { root: unescape(root), point: unescape(point), writable: !read_only };
        Some(Self { id, parent, fstype, mount })
    }

    /// Whether a path to the mount point ends in another mount: one was made on top of it, or on a
    /// directory on the way to it.
    fn is_hidden(&self, all: &[Entry<'_>]) -> bool {
        let (mut entry, mut child) = (self, None);
        // As many steps as there are mounts: a loop in the parents would be a broken file.
        for _ in 0..all.len() {
            let covered = all.iter().any(|other| {
                let on_top = other.parent == entry.id && other.mount.point == entry.mount.point;
                let on_the_way = other.parent == entry.parent
                    && other.mount.point != entry.mount.point
                    && entry.mount.point.starts_with(&other.mount.point);
                other.id != entry.id && Some(other.id) != child && (on_top || on_the_way)
            });
            if covered {
                return true;
            }
            match all.iter().find(|other| other.id == entry.parent && other.id != entry.id) {
                Some(parent) => (entry, child) = (parent, Some(entry.id)),
                None => return false,
            }
        }
        false
    }
}

/// Undoes the kernel's escapes: space, tab, newline and backslash are three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { rest.get(4..).unwrap_or_default() } else { tail };
    }
    OsString::from_vec(bytes).into()
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
        find(fstype, text).map(|mount| mount.point.display().to_string())
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
        assert_eq!(find(CGROUP2, ""), None);
        assert_eq!(find(CGROUP2, "garbage\n1 2 3\n33 22 0:28 / /x rw shared:1 cgroup2 cgroup2 rw\n"), None);
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
        let part = find(CGROUP2, text.split_inclusive('\n').take(3).collect::<String>().as_str());
        let part = part.expect("a part is better than nothing");
        assert_eq!((part.root.to_str(), part.writable), (Some("/../.."), false));
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

    #[test]
    fn escapes_are_undone() {
        let text = r"33 22 0:28 / /my\040cgroups\134\011x\012\04 rw - cgroup2 none rw";
        assert_eq!(point(CGROUP2, text).as_deref(), Some("/my cgroups\\\tx\n\\04"));
    }

    #[test]
    fn read_only_by_mount_or_by_filesystem() {
        let text = |mount, fs| format!("33 22 0:28 / /cg {mount},nosuid - cgroup2 none {fs}");
        let writable = |text: String| find(CGROUP2, &text).map(|mount| mount.writable);
        assert_eq!(writable(text("rw", "rw")), Some(true));
        assert_eq!(writable(text("ro", "rw")), Some(false));
        assert_eq!(writable(text("rw", "ro")), Some(false));
    }
}
