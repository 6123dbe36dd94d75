//! The list of mounts as the kernel writes it, proc_pid_mountinfo(5).
//!
//! Nothing here allocates but [`Mount::point`]: the child of a launch reads the list between fork and exec,
//! when it has a mount namespace of its own.

use std::{
    ffi::{CStr, OsString},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use rustix::mount::MountFlags;

/// The kernel's PATH_MAX.
pub const PATH_MAX: usize = 4096;

/// One mount, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Its number.
    pub id: &'a [u8],
    /// The number of the mount that it is made on.
    pub parent: &'a [u8],
    /// The directory of the filesystem that is mounted, escaped.
    pub root: &'a [u8],
    /// Where, escaped.
    pub point: &'a [u8],
    /// Options of this mount, comma separated.
    pub options: &'a [u8],
    /// The filesystem's type.
    pub kind: &'a [u8],
    /// Options of the filesystem, comma separated.
    pub super_options: &'a [u8],
}

/// The mounts in `text`, in the kernel's order. Lines of another form are left out.
pub fn mounts(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|&b| b == b'\n').filter_map(Mount::parse)
}

impl<'a> Mount<'a> {
    /// `id parent major:minor root point options [optional…] - type source super-options`
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let (id, parent) = (fields.next()?, fields.next()?);
        let (root, point, options) = (fields.nth(1)?, fields.next()?, fields.next()?);
        fields.by_ref().find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let super_options = fields.nth(1).unwrap_or_default();
        Some(Self { id, parent, root, point, options, kind, super_options })
    }

    /// Where it is mounted.
    pub fn point(&self) -> PathBuf {
        OsString::from_vec(unescape(self.point).collect()).into()
    }

    /// Whether it can be written to, as far as the mount and its filesystem are concerned.
    pub fn is_writable(&self) -> bool {
        let mut options = [self.options, self.super_options].into_iter().flat_map(split_options);
        options.all(|option| option != b"ro")
    }

    /// The flags to repeat when the mount is changed, since a change sets them all.
    pub fn flags(&self) -> MountFlags {
        split_options(self.options).fold(MountFlags::empty(), |flags, option| {
            flags
                | match option {
                    b"ro" => MountFlags::RDONLY,
                    b"nosuid" => MountFlags::NOSUID,
                    b"nodev" => MountFlags::NODEV,
                    b"noexec" => MountFlags::NOEXEC,
                    b"noatime" => MountFlags::NOATIME,
                    b"nodiratime" => MountFlags::NODIRATIME,
                    b"relatime" => MountFlags::RELATIME,
                    _ => MountFlags::empty(),
                }
        })
    }
}

fn split_options(options: &[u8]) -> impl Iterator<Item = &[u8]> {
    options.split(|&b| b == b',')
}

/// Writes `escaped` plus `suffix` into `buffer` as a C string, escapes undone. `None` if it does not fit.
pub fn c_path<'b>(escaped: &[u8], suffix: &[u8], buffer: &'b mut [u8; PATH_MAX]) -> Option<&'b CStr> {
    let mut free = buffer.iter_mut();
    for byte in unescape(escaped).chain(suffix.iter().copied()).chain([0]) {
        *free.next()? = byte;
    }
    CStr::from_bytes_until_nul(buffer).ok()
}

/// Undoes the kernel's escapes: space, tab, newline and backslash are three octal digits.
fn unescape(escaped: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = escaped;
    std::iter::from_fn(move || {
        let (byte, tail) = match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            [byte, tail @ ..] => (*byte, tail),
            [] => return None,
        };
        rest = tail;
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 27 0:21 / /proc rw,relatime - proc proc rw\n\
        41 31 0:38 /a\\040b /mnt/with\\040space\\134 ro,nosuid,nodev,noexec,relatime shared:9 master:1 - cgroup2 cgroup2 rw\n\
        broken line\n";

    #[test]
    fn fields_are_found_with_and_without_optional_ones() {
        let all: Vec<_> = mounts(TEXT).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].id, all[0].parent), (&b"22"[..], &b"27"[..]));
        assert_eq!((all[0].point, all[0].kind), (&b"/proc"[..], &b"proc"[..]));
        assert_eq!(all[0].flags(), MountFlags::RELATIME);
        assert_eq!((all[1].root, all[1].kind), (&b"/a\\040b"[..], &b"cgroup2"[..]));
        assert_eq!(all[1].super_options, b"rw");
        let expected = MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC
            | MountFlags::RELATIME;
        assert_eq!(all[1].flags(), expected);
    }

    #[test]
    fn escapes_are_undone_and_length_is_kept() {
        let mut buffer = [0xff; PATH_MAX];
        let mount = mounts(TEXT).nth(1).unwrap();
        assert_eq!(c_path(mount.point, b"/sys", &mut buffer), Some(c"/mnt/with space\\/sys"));
        assert_eq!(mount.point(), PathBuf::from("/mnt/with space\\"));
        assert_eq!(
            c_path(b"/\\011x\\012\\09x", b"", &mut buffer),
            Some(c"/\tx\n\\09x"),
            "the last is no escape"
        );
        assert_eq!(c_path(&[b'x'; PATH_MAX], b"", &mut buffer), None);
        assert_eq!(c_path(&[b'x'; PATH_MAX - 1], b"", &mut buffer).unwrap().count_bytes(), PATH_MAX - 1);
    }

    #[test]
    fn read_only_by_mount_or_by_filesystem() {
        let writable = |mount, fs| {
            let line = format!("33 22 0:28 / /cg {mount},nosuid - cgroup2 none {fs}");
            mounts(line.as_bytes()).next().unwrap().is_writable()
        };
        assert!(writable("rw", "rw"));
        assert!(!writable("ro", "rw"));
        assert!(!writable("rw", "ro"));
    }

    #[test]
    fn the_kernels_own_list_is_understood() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count();
        assert_eq!(mounts(&text).count(), lines);
    }
}
