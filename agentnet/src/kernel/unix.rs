//! The programs at Unix sockets: loaded by hand, because aya knows neither of their attach types, and left out on
//! kernels that have none.

use std::{
    collections::HashSet,
    fmt, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use agentnet_common::{
    abi::{Door, SUN_PATH},
    door::DoorName,
};
use aya::maps::lpm_trie::Key;
use aya_obj::{
    Object, Program,
    generated::{bpf_attach_type, bpf_insn, bpf_prog_type},
};

use super::{
    links::{Hook, hook},
    object::Kernel,
    pins, sys,
};

/// Every hook at Unix sockets (since Linux 6.7).
pub const HOOKS: [Hook; 2] = [
    hook("an_connect_unix", "connect, Unix", bpf_attach_type::BPF_CGROUP_UNIX_CONNECT),
    hook("an_sendmsg_unix", "send, Unix", bpf_attach_type::BPF_CGROUP_UNIX_SENDMSG),
];

/// The kind of program they are.
const KIND: u32 = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;

/// `return 1`: a program that lets everything through, to ask the kernel whether it has a hook.
const NOTHING: [u64; 2] = [1 << 32 | 0xb7, 0x95];

/// The programs in the kernel.
#[derive(Debug)]
pub(super) enum Programs {
    /// All of them, in the order of [`HOOKS`].
    Loaded(Vec<OwnedFd>),
    /// None; why.
    Missing(String),
}

impl Programs {
    /// Loads them from `object` onto the maps that are pinned below `pins`. A kernel without the hooks is no error:
    /// what agentnet otherwise does does not depend on them.
    ///
    /// # Errors
    /// If the kernel has the hooks and refuses the programs.
    pub(super) fn load(object: Object, pins: &Path) -> io::Result<Self> {
        match has_hooks() {
            Ok(()) => load_all(object, pins).map(Self::Loaded),
            Err(error) => Ok(Self::Missing(format!(
                "this kernel has no hooks for them ({error}); use Linux 6.7 or later"
            ))),
        }
    }

    /// Each hook with its program; nothing if they are missing.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static Hook, &OwnedFd)> {
        let programs = match self {
            Self::Loaded(programs) => programs.as_slice(),
            Self::Missing(_) => &[],
        };
        HOOKS.iter().zip(programs)
    }
}

/// Asks the kernel whether it has the hooks.
///
/// # Errors
/// What it says if it has not.
pub fn has_hooks() -> io::Result<()> {
    let nothing = zerocopy::IntoBytes::as_bytes(&NOTHING);
    HOOKS.iter().try_for_each(|hook| sys::prog_load(KIND, hook.attach_type(), nothing, "", None).map(drop))
}

fn load_all(object: Object, pins: &Path) -> io::Result<Vec<OwnedFd>> {
    let (object, _maps) = relocated(object, pins)?;
    HOOKS
        .iter()
        .map(|hook| {
            let program = object.programs.get(hook.program).ok_or(io::ErrorKind::NotFound)?;
            let function = object.functions.get(&program.function_key()).ok_or(io::ErrorKind::NotFound)?;
            let bytes: Vec<u8> = function.instructions.iter().flat_map(encoded).collect();
            sys::prog_load(KIND, hook.attach_type(), &bytes, hook.program, None)
        })
        .collect()
}

/// The programs with the descriptors of their maps and the functions they call put in, as aya does it.
fn relocated(mut object: Object, pins: &Path) -> io::Result<(Object, Vec<OwnedFd>)> {
    let failed = |error: &dyn std::error::Error| io::Error::other(error.to_string());
    let with_code: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let of_programs: HashSet<_> = object.programs.values().map(Program::function_key).collect();
    object.programs.retain(|name, _| HOOKS.iter().any(|hook| hook.program == name));
    let wanted: HashSet<_> = object.programs.values().map(Program::function_key).collect();
    // What belongs to no program is there to be called.
    object.functions.retain(|key, _| wanted.contains(key) || !of_programs.contains(key));
    let named = object.maps.clone().into_iter().filter(|(name, _)| !name.starts_with('.'));
    let opened = named.map(|(name, map)| Ok((sys::obj_get(&pins::map_path(pins, &name))?, name, map)));
    let opened = opened.collect::<io::Result<Vec<_>>>()?;
    let descriptors = opened.iter().map(|(fd, name, map)| (name.as_str(), fd.as_raw_fd(), map));
    object.relocate_maps(descriptors, &with_code).map_err(|error| failed(&error))?;
    object.relocate_calls(&with_code).map_err(|error| failed(&error))?;
    // The descriptors are in the code and have to be open when the kernel reads it.
    Ok((object, opened.into_iter().map(|(fd, ..)| fd).collect()))
}

/// An instruction as the kernel takes it (RFC 9669, 3).
fn encoded(instruction: &bpf_insn) -> [u8; 8] {
    let [o0, o1] = instruction.off.to_ne_bytes();
    let [i0, i1, i2, i3] = instruction.imm.to_ne_bytes();
    let registers = instruction.dst_reg() & 15 | instruction.src_reg() << 4;
    [instruction.code, registers, o0, o1, i0, i1, i2, i3]
}

/// A name or a directory that a policy opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorEntry {
    /// The name; of a directory its path with the last slash.
    pub name: DoorName,
    /// Whether everything in it is meant.
    pub below: bool,
}

impl DoorEntry {
    /// The key in the trie, with its length in bits.
    pub(super) const fn key(&self) -> Key<[u8; SUN_PATH]> {
        let len = self.name.len;
        // The zero behind a path ends it. An abstract name may have one in it, so that its length decides.
        let ends = self.below || self.name.is_abstract() || len as usize >= SUN_PATH;
        Key::new(8 * if ends { len } else { len + 1 }, self.name.bytes)
    }

    pub(super) const fn value(&self) -> Door {
        Door { len: if self.below { 0 } else { self.name.len } }
    }

    /// What the trie has for `name` if this is the longest entry that `name` begins with.
    pub fn door(&self, name: &DoorName) -> Option<Door> {
        let key = self.key();
        let bits = usize::try_from(key.prefix_len()).unwrap_or(usize::MAX);
        let bytes = key.data();
        let begins = bytes.iter().zip(&name.bytes).take(bits / 8).all(|(own, other)| own == other);
        begins.then(|| self.value())
    }
}

impl fmt::Display for DoorEntry {
    /// As policies write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.text())
    }
}

impl Kernel {
    /// Why Unix sockets are not guarded by this kernel, if so.
    pub fn unguarded_unix(&self) -> Option<&str> {
        match self.unix() {
            Programs::Loaded(_) => None,
            Programs::Missing(why) => Some(why),
        }
    }
}
