//! BPF links and programs of this machine, by their identifiers.

use std::{
    collections::BTreeSet,
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::Result;

use crate::sys;

const MAP_LOOKUP_ELEM: libc::c_long = 1;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const OBJ_GET: libc::c_long = 7;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
/// `BPF_PROG_LOAD`.
pub const PROG_LOAD: libc::c_long = 5;
/// `BPF_LINK_CREATE`.
pub const LINK_CREATE: libc::c_long = 28;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
const LINK_GET_NEXT_ID: libc::c_long = 31;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_LINK_TYPE_CGROUP`.
const TYPE_CGROUP: u32 = 3;

/// A link of a program to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLink {
    /// Its identifier, never used again while the machine runs.
    pub id: u32,
    /// The program's.
    pub program: u32,
    /// The cgroup's, which is its directory's inode; 0 once the cgroup is gone.
    pub cgroup: u64,
}

/// bpf(2).
///
/// # Errors
/// As the call.
pub fn bpf(command: libc::c_long, attributes: &mut [u32; 32]) -> io::Result<i32> {
    // SAFETY: the attributes are readable and writable for their size; what pointers in them point to, their setters
    // keep alive and large enough.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    Ok(i32::try_from(sys::check(result)?).unwrap_or(-1))
}

/// Writes a pointer into the attributes from word `at` on. What it points to must live until the call.
pub fn set_pointer<T>(attributes: &mut [u32; 32], at: usize, pointer: *const T) {
    let bytes = (pointer as u64).to_ne_bytes();
    for (word, bytes) in attributes.iter_mut().skip(at).zip(bytes.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

/// All links to cgroups.
///
/// # Errors
/// As bpf(2), except for links that go while we look.
pub fn cgroup_links() -> Result<Vec<CgroupLink>> {
    let mut links = Vec::new();
    let mut id = 0;
    loop {
        let mut attributes = [0; 32];
        attributes[0] = id;
        match bpf(LINK_GET_NEXT_ID, &mut attributes) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(links),
            other => other?,
        };
        id = attributes[1];
        match info(id) {
            Ok(link) => links.extend(link),
            // It went, or somebody is about to make it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a link is, `None` if it is to something else than a cgroup.
fn info(id: u32) -> io::Result<Option<CgroupLink>> {
    let mut attributes = [0; 32];
    attributes[0] = id;
    let fd = bpf(LINK_GET_FD_BY_ID, &mut attributes)?;
    // SAFETY: the kernel has just given us this descriptor.
    let _fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct bpf_link_info: type, id, prog_id, padding, then for cgroups a 64-bit id.
    let mut info = [0_u64; 16];
    let mut attributes = [0; 32];
    attributes[0] = fd.unsigned_abs();
    attributes[1] = u32::try_from(size_of_val(&info)).unwrap_or(0);
    set_pointer(&mut attributes, 2, info.as_mut_ptr());
    bpf(OBJ_GET_INFO_BY_FD, &mut attributes)?;
    let words: Vec<u32> = info
        .iter()
        .flat_map(|word| {
            let bytes = word.to_ne_bytes();
            [[bytes[0], bytes[1], bytes[2], bytes[3]], [bytes[4], bytes[5], bytes[6], bytes[7]]]
        })
        .map(u32::from_ne_bytes)
        .collect();
    Ok((words[0] == TYPE_CGROUP).then_some(CgroupLink { id, program: words[2], cgroup: info[2] }))
}

/// The programs of a set of links.
pub fn programs(links: &[CgroupLink]) -> BTreeSet<u32> {
    links.iter().map(|link| link.program).collect()
}

/// A map of the kernel programs, as bytes: for what a test has to turn that nobody else may, time above all.
pub struct Map(OwnedFd);

impl Map {
    /// Opens a pinned one.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn open(pin: &Path) -> Result<Self> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut attributes = [0; 32];
        set_pointer(&mut attributes, 0, path.as_ptr());
        Self::of(bpf(OBJ_GET, &mut attributes)?)
    }

    #[expect(clippy::unnecessary_wraps, reason = "ends what can fail")]
    fn of(fd: i32) -> Result<Self> {
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The map that is an element of this one.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn inner(&self, key: &[u8]) -> Result<Self> {
        let id = self.get(key, 4)?;
        let mut attributes = [0; 32];
        attributes[0] = u32::from_ne_bytes([id[0], id[1], id[2], id[3]]);
        Self::of(bpf(MAP_GET_FD_BY_ID, &mut attributes)?)
    }

    /// An element, whose size must be that of the map's values.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn get(&self, key: &[u8], size: usize) -> Result<Vec<u8>> {
        let mut value = vec![0_u8; size];
        self.element(MAP_LOOKUP_ELEM, key, value.as_mut_ptr())?;
        Ok(value)
    }

    /// Writes an element, whose size must be that of the map's values.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.element(MAP_UPDATE_ELEM, key, value.as_ptr().cast_mut())
    }

    fn element(&self, command: libc::c_long, key: &[u8], value: *mut u8) -> Result<()> {
        let mut attributes = [0; 32];
        attributes[0] = self.0.as_raw_fd().unsigned_abs();
        set_pointer(&mut attributes, 2, key.as_ptr());
        set_pointer(&mut attributes, 4, value);
        Ok(bpf(command, &mut attributes).map(drop)?)
    }
}
