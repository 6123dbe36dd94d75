//! Empty programs, attached beside those under test: what the kernel's own bookkeeping of run times costs is
//! what these show, and is taken off.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

use crate::lab::bpf;

/// A program type and where it is attached, with the numbers of include/uapi/linux/bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// `BPF_PROG_TYPE_CGROUP_SKB` at `BPF_CGROUP_INET_EGRESS`.
    Skb,
    /// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` at `BPF_CGROUP_INET4_CONNECT`.
    Connect,
}

impl Place {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Skb, Self::Connect];

    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Skb => (8, 1),
            Self::Connect => (18, 10),
        }
    }

    /// The program's name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Skb => "bench_empty_skb",
            Self::Connect => "bench_empty_con",
        }
    }
}

/// An attached empty program; detached when dropped.
pub struct Empty {
    _link: OwnedFd,
    _program: OwnedFd,
}

impl Empty {
    /// Loads one and attaches it to a cgroup.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn attach(place: Place, cgroup: &Path) -> Result<Self> {
        let (kind, attach_type) = place.numbers();
        let program = load(place, kind, attach_type).with_context(|| format!("load {}", place.name()))?;
        let cgroup = File::open(cgroup)?;
        let mut attributes = [0; 32];
        attributes[0] = program.as_raw_fd().unsigned_abs();
        attributes[1] = cgroup.as_raw_fd().unsigned_abs();
        attributes[2] = attach_type;
        let link = fd(bpf::bpf(bpf::LINK_CREATE, &mut attributes))
            .with_context(|| format!("attach {}", place.name()))?;
        Ok(Self { _link: link, _program: program })
    }
}

fn fd(result: io::Result<i32>) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just given us this descriptor.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(place: Place, kind: u32, attach_type: u32) -> io::Result<OwnedFd> {
    // r0 = 1; exit: "let it through" for both types.
    let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    let mut attributes = [0; 32];
    attributes[0] = kind;
    attributes[1] = 2;
    bpf::set_pointer(&mut attributes, 2, code.as_ptr());
    bpf::set_pointer(&mut attributes, 4, license.as_ptr());
    // log_level, log_size, log_buf (two words), kern_version, prog_flags: zero; then the name.
    for (word, bytes) in attributes[12..16].iter_mut().zip(place.name().as_bytes().chunks(4)) {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_ne_bytes(padded);
    }
    // prog_ifindex, then expected_attach_type.
    attributes[17] = attach_type;
    fd(bpf::bpf(bpf::PROG_LOAD, &mut attributes))
}
