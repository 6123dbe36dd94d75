//! bpf(2), for what aya does not offer in the form needed: links of any type by number, cgroup storage with
//! the shared key, programs and maps made by hand.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya_obj::generated::{bpf_cmd, bpf_map_type};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Runs one command with its attributes (`union bpf_attr`, include/uapi/linux/bpf.h).
fn bpf<A: IntoBytes + Immutable>(command: bpf_cmd, attributes: &A) -> io::Result<i64> {
    let bytes = attributes.as_bytes();
    // SAFETY: the attributes are readable for the length given; what they point to outlives the call and is
    // writable where the command writes, as every caller holds it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as u32, bytes.as_ptr(), bytes.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs one command that makes a file descriptor.
pub(super) fn bpf_fd<A: IntoBytes + Immutable>(command: bpf_cmd, attributes: &A) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor, nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An address as `union bpf_attr` carries it, of bytes that the kernel reads.
pub(super) fn address(bytes: &[u8]) -> u64 {
    bytes.as_ptr().expose_provenance() as u64
}

/// The same of bytes that the kernel writes.
pub(super) fn address_mut(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// Loads a program of `BPF_PROG_TYPE_*` for `BPF_*` attachment; 15 bytes of its name are kept. With a `log`, the verifier
/// writes there what it thinks, and fails if it finds no room for it.
pub(super) fn prog_load(
    prog_type: u32,
    attach_type: u32,
    instructions: &[u8],
    name: &str,
    log: Option<&mut [u8]>,
) -> io::Result<OwnedFd> {
    let mut attributes = ProgLoad {
        prog_type,
        insn_cnt: u32::try_from(instructions.len() / 8).map_err(io::Error::other)?,
        insns: address(instructions),
        license: address(b"GPL\0"),
        expected_attach_type: attach_type,
        ..ProgLoad::default()
    };
    for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    if let Some(log) = log {
        attributes.log_level = 1;
        attributes.log_size = u32::try_from(log.len()).unwrap_or(u32::MAX);
        attributes.log_buf = address_mut(log);
    }
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &attributes)
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreate {
    program: i32,
    target: i32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to `target`, the descriptor of a cgroup or a map or the index of an interface, for as
/// long as the link is held or pinned. No flag: links are always of the kind that coexists with others.
pub(super) fn link_create(program: BorrowedFd<'_>, target: i32, attach_type: u32) -> io::Result<OwnedFd> {
    let attributes = LinkCreate { program: program.as_raw_fd(), target, attach_type, flags: 0 };
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &attributes)
}

/// The beginning of the list of programs of an interface (`BPF_F_BEFORE` of nothing).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProgAttach {
    target: i32,
    program: i32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program without a link, to a map of sockets: it stays as long as the map does, and takes the place of the
/// one before.
pub(super) fn prog_attach(
    program: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<()> {
    let (target, program) = (target.as_raw_fd(), program.as_raw_fd());
    bpf(bpf_cmd::BPF_PROG_ATTACH, &ProgAttach { target, program, attach_type, flags: 0 })?;
    Ok(())
}

const BPF_F_BEFORE: u32 = 1 << 3;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct TcxLinkCreate {
    program: i32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// Attaches a program to an interface of the calling thread's network namespace (since Linux 6.6), before all
/// that are there.
pub(super) fn tcx_link_create(
    program: BorrowedFd<'_>,
    interface: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let attributes = TcxLinkCreate {
        program: program.as_raw_fd(),
        interface,
        attach_type,
        flags: BPF_F_BEFORE,
        relative: 0,
        pad: 0,
        revision: 0,
    };
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &attributes)
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinkUpdate {
    link: i32,
    program: i32,
    flags: u32,
    old: u32,
}

/// Puts `program` in the place of the one that `link` runs, in one step (since Linux 5.8).
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let (link, program) = (link.as_raw_fd(), program.as_raw_fd());
    bpf(bpf_cmd::BPF_LINK_UPDATE, &LinkUpdate { link, program, flags: 0, old: 0 })?;
    Ok(())
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ObjPin {
    path: u64,
    fd: i32,
    flags: u32,
}

/// Pins an object: it stays when this process is gone.
pub(super) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let path = address(path.as_bytes_with_nul());
    bpf(bpf_cmd::BPF_OBJ_PIN, &ObjPin { path, fd: fd.as_raw_fd(), flags: 0 })?;
    Ok(())
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pinned object.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let path = address(path.as_bytes_with_nul());
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &ObjGet { path, fd: 0, flags: 0 })
}

/// What the kernel says of a link to a cgroup: the beginning of `struct bpf_link_info`.
#[derive(Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct CgroupLink {
    kind: u32,
    id: u32,
    /// The program it runs now.
    pub(super) program: u32,
    pad: u32,
    /// The cgroup it is attached to; 0 when that is gone.
    pub(super) cgroup: u64,
    /// `BPF_CGROUP_*`.
    pub(super) attach_type: u32,
    pad2: u32,
}

/// What the kernel says of a link to an interface: the beginning of `struct bpf_link_info`.
#[derive(Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct TcxLink {
    /// `BPF_LINK_TYPE_*`.
    pub(super) kind: u32,
    id: u32,
    /// The program it runs now.
    pub(super) program: u32,
    pad: u32,
    /// The index of the interface; 0 when that is gone.
    pub(super) interface: u32,
    /// `BPF_TCX_*`.
    pub(super) attach_type: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// Asks the kernel about a link that was made for a cgroup.
pub(super) fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    info(link)
}

/// Asks the kernel about a link that was made for an interface.
pub(super) fn tcx_link(link: BorrowedFd<'_>) -> io::Result<TcxLink> {
    info(link)
}

/// The kernel's number of a program: the second word of `struct bpf_prog_info`.
pub(super) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    let [_kind, id] = info::<[u32; 2]>(program)?;
    Ok(id)
}

/// The beginning of what the kernel says of an object.
fn info<T: FromBytes + IntoBytes>(object: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::new_zeroed();
    let target = info.as_mut_bytes();
    let len = u32::try_from(target.len()).map_err(io::Error::other)?;
    let attributes = GetInfo { fd: object.as_raw_fd().cast_unsigned(), len, info: address_mut(target) };
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    Ok(info)
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Element {
    map: i32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The attributes of a new map up to its flags: `union bpf_attr`, include/uapi/linux/bpf.h.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct NewMap {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

/// Makes a map of `entries` elements, with keys and values of so many bytes.
pub(super) fn map_create(
    kind: bpf_map_type,
    (key, value): (usize, usize),
    entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let attributes = NewMap { kind: kind as u32, key: size(key)?, value: size(value)?, entries, flags };
    bpf_fd(bpf_cmd::BPF_MAP_CREATE, &attributes)
}

/// Writes one element.
pub(super) fn map_update<K: IntoBytes + Immutable, V: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
    value: &V,
) -> io::Result<()> {
    let (key, value) = (address(key.as_bytes()), address(value.as_bytes()));
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &Element { map: map.as_raw_fd(), pad: 0, key, value, flags: 0 })?;
    Ok(())
}

/// Deletes one element.
pub(super) fn map_delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    let key = address(key.as_bytes());
    bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &Element { map: map.as_raw_fd(), pad: 0, key, value: 0, flags: 0 })?;
    Ok(())
}

/// Reads one element. `V` must be as large as the map's value.
pub(super) fn map_lookup<K: IntoBytes + Immutable, V: FromBytes + IntoBytes + KnownLayout + Immutable>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<V> {
    let mut value = V::new_zeroed();
    let (key, target) = (address(key.as_bytes()), address_mut(value.as_mut_bytes()));
    let attributes = Element { map: map.as_raw_fd(), pad: 0, key, value: target, flags: 0 };
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &attributes)?;
    Ok(value)
}
