//! `/proc/self/mountinfo`, read without allocating: the child reads it after it has a mount namespace of its
//! own, so that the list is that of the namespace it changes.

use std::ffi::CStr;

use rustix::mount::MountFlags;

/// The kernel's PATH_MAX.
pub(super) const PATH_MAX: usize = 4096;

/// One mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mount<'a> {
    /// The directory of the file system that is mounted, escaped.
    pub(super) root: &'a [u8],
    /// Where, escaped.
    pub(super) point: &'a [u8],
    /// Options of this mount, comma separated.
    pub(super) options: &'a [u8],
    /// The file system's type.
    pub(super) kind: &'a [u8],
}

/// The mounts in `text`, in the kernel's order. Lines of another form are left out.
pub(super) fn mounts(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|&b| b == b'\n').filter_map(parse)
}

/// `id parent major:minor root point options [optional…] - type source options`
fn parse(line: &[u8]) -> Option<Mount<'_>> {
    let mut fields = line.split(|&b| b == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let options = fields.next()?;
    let kind = fields.skip_while(|f| *f != b"-").nth(1)?;
    Some(Mount { root, point, options, kind })
}

impl Mount<'_> {
    /// The flags to repeat when the mount is changed, since a change sets them all.
    pub(super) fn flags(&self) -> MountFlags {
        self.options.split(|&b| b == b',').fold(MountFlags::empty(), |flags, option| {
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

/// Writes `escaped` plus `suffix` into `buffer` as a C string: `\040` and its like become the byte they stand
/// for. `None` if it does not fit.
pub(super) fn path<'b>(escaped: &[u8], suffix: &[u8], buffer: &'b mut [u8; PATH_MAX]) -> Option<&'b CStr> {
    let mut rest = escaped;
    let mut free = buffer.iter_mut();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), tail)
            }
            _ => (byte, after),
        };
        *free.next()? = byte;
        rest = after;
    }
    for byte in suffix {
        *free.next()? = *byte;
    }
    *free.next()? = 0;
    CStr::from_bytes_until_nul(buffer).ok()
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
        assert_eq!((all[0].point, all[0].kind), (&b"/proc"[..], &b"proc"[..]));
        assert_eq!(all[0].flags(), MountFlags::RELATIME);
        assert_eq!((all[1].root, all[1].kind), (&b"/a\\040b"[..], &b"cgroup2"[..]));
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
        let point = mounts(TEXT).nth(1).unwrap().point;
        assert_eq!(path(point, b"/sys", &mut buffer), Some(c"/mnt/with space\\/sys"));
        assert_eq!(path(b"/\\09x", b"", &mut buffer), Some(c"/\\09x"), "no escape");
        assert_eq!(path(&[b'x'; PATH_MAX], b"", &mut buffer), None);
        assert_eq!(path(&[b'x'; PATH_MAX - 1], b"", &mut buffer).unwrap().count_bytes(), PATH_MAX - 1);
    }

    #[test]
    fn the_kernels_own_list_is_understood() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let lines = text.split(|&b| b == b'\n').filter(|l| !l.is_empty()).count();
        assert_eq!(mounts(&text).count(), lines);
    }
}
