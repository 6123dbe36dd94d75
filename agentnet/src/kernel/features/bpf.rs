//! Programs and maps made by hand, so that the verifier itself answers.

use std::{
    fmt, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use aya_obj::generated::bpf_cmd;
use zerocopy::{Immutable, IntoBytes};

use super::{Check, Subject, program::Insn};
use crate::kernel::sys::{self, address, bpf_fd};

/// Bytes of the verifier's log.
const LOG_BYTES: usize = 1 << 16;

/// What a kernel needs that lacks a map or hook. The version is the oldest on which all of it was seen to work.
pub(super) const KERNEL: &str = "use Linux 6.12 or later with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y";
/// What helps root that is refused.
pub(super) const FORBIDDEN: &str =
    "run it on the host itself, outside any container; if this is the host, an LSM policy forbids eBPF";

/// What the kernel said no to.
#[derive(Debug)]
pub(super) struct Refusal {
    call: &'static str,
    source: io::Error,
    /// What the verifier complained about, if it got that far.
    complaint: Option<String>,
}

impl Refusal {
    pub(super) fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, source, complaint: None }
    }

    /// Whether it is a matter of who asks.
    pub(super) fn is_permission(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied && self.complaint.is_none()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.complaint {
            Some(complaint) => write!(f, "the verifier says: {complaint}"),
            None => write!(f, "{}: {}", self.call, self.source),
        }
    }
}

/// The check of something that the kernel accepted or refused.
pub(super) fn judge(subject: Subject, result: Result<(), Refusal>, works: &str, fix: &str) -> Check {
    match result {
        Ok(()) => subject.ok(works),
        Err(refusal) => {
            let detail = refusal.to_string();
            denied(subject, &refusal, detail, fix)
        }
    }
}

/// The check of something that the kernel refused.
pub(super) fn denied(subject: Subject, refusal: &Refusal, detail: String, fix: &str) -> Check {
    subject.missing(detail, if refusal.is_permission() { FORBIDDEN } else { fix })
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: i32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_fd: i32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
}

/// A map to be made.
#[derive(Default)]
pub(super) struct Map<'a> {
    /// `BPF_MAP_TYPE_*`.
    pub(super) kind: u32,
    pub(super) key_bytes: u32,
    pub(super) value_bytes: u32,
    pub(super) entries: u32,
    /// `BPF_F_*`.
    pub(super) flags: u32,
    /// Shape of the maps in a map of maps.
    pub(super) inner: Option<BorrowedFd<'a>>,
    /// Key and value are described as `int`, which socket storage asks for.
    pub(super) btf: bool,
}

impl Map<'_> {
    pub(super) fn create(&self) -> Result<OwnedFd, Refusal> {
        let btf = self.btf.then(int_btf).transpose()?;
        let type_id = u32::from(self.btf);
        let attributes = MapCreate {
            map_type: self.kind,
            key_size: self.key_bytes,
            value_size: self.value_bytes,
            max_entries: self.entries,
            map_flags: self.flags,
            inner_map_fd: self.inner.map_or(0, |fd| fd.as_raw_fd()),
            btf_fd: btf.as_ref().map_or(0, AsRawFd::as_raw_fd),
            btf_key_type_id: type_id,
            btf_value_type_id: type_id,
            ..MapCreate::default()
        };
        bpf_fd(bpf_cmd::BPF_MAP_CREATE, &attributes).map_err(|source| Refusal::new("creating a map", source))
    }
}

/// Loads a program of `BPF_PROG_TYPE_*` for `BPF_*` attachment.
pub(super) fn load(prog_type: u32, attach_type: u32, program: &[Insn]) -> Result<OwnedFd, Refusal> {
    let source = match sys::prog_load(prog_type, attach_type, program.as_bytes(), "", None) {
        Ok(program) => return Ok(program),
        Err(source) => source,
    };
    // The log is asked for only when there is something to read: one that is too small is an error as well.
    let mut log = vec![0_u8; LOG_BYTES];
    let again = sys::prog_load(prog_type, attach_type, program.as_bytes(), "", Some(&mut log));
    let complaint = again.is_err().then(|| last_complaint(&log)).flatten();
    Err(Refusal { call: "loading a program", source, complaint })
}

/// The verifier's last line but its statistics: the one that says why.
fn last_complaint(log: &[u8]) -> Option<String> {
    let text = log.split(|byte| *byte == 0).next().map(String::from_utf8_lossy)?;
    let line = text.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed "))?;
    Some(line.to_owned())
}

/// Attaches a program for as long as the returned link is held.
pub(super) fn attach(program: BorrowedFd<'_>, target: i32, attach_type: u32) -> Result<OwnedFd, Refusal> {
    sys::link_create(program, target, attach_type)
        .map_err(|source| Refusal::new("attaching a program", source))
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct BtfLoad {
    btf: u64,
    log_buf: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}

/// `struct btf_header` and what follows it (Documentation/bpf/btf.rst).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct IntBtf {
    magic: u16,
    version: u8,
    flags: u8,
    header_bytes: u32,
    type_offset: u32,
    type_bytes: u32,
    string_offset: u32,
    string_bytes: u32,
    name_offset: u32,
    info: u32,
    size: u32,
    encoding: u32,
    strings: [u8; 8],
}

/// Type information with one type, number 1: a signed integer of 32 bits.
fn int_btf() -> Result<OwnedFd, Refusal> {
    let btf = IntBtf {
        magic: 0xeb9f,
        version: 1,
        flags: 0,
        header_bytes: 24,
        type_offset: 0,
        type_bytes: 16,
        string_offset: 16,
        string_bytes: 8,
        name_offset: 1,
        info: 1 << 24, // BTF_KIND_INT
        size: 4,
        encoding: 1 << 24 | 32, // BTF_INT_SIGNED, 32 bits
        strings: *b"\0int\0\0\0\0",
    };
    let bytes = btf.as_bytes();
    let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let attributes = BtfLoad { btf: address(bytes), size, ..BtfLoad::default() };
    bpf_fd(bpf_cmd::BPF_BTF_LOAD, &attributes)
        .map_err(|source| Refusal::new("loading type information", source))
}
