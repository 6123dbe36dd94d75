//! cgroup/connect_unix and sendmsg_unix: which Unix sockets a process may talk to by name.
//!
//! aya knows neither attach type, so the loader puts these into the kernel by hand; their section only says what
//! kind of program they are. They run before the kernel looks the name up.

use core::{ffi::c_void, mem::MaybeUninit};

use agentnet_common::{
    abi::{Door, SUN_PATH},
    addr::{Addr, Endpoint},
    door::{self, DoorName, Doors, PathWalk},
    event::Hook,
    verdict::{Reason, Verdict},
};
use aya_ebpf::{
    bindings::bpf_sock_addr,
    btf_maps::lpm_trie::Key,
    check_bounds_signed,
    helpers::generated::{bpf_get_socket_cookie, bpf_probe_read_kernel},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};

use super::code;
use crate::{
    agent::{config, current_process},
    emit::{Facts, conclude_door},
    maps::DOORS,
    opaque,
};

/// `AF_UNIX` (include/linux/socket.h).
const AF_UNIX: u16 = 1;

/// Where `struct bpf_sock_addr_kern` (include/linux/filter.h) has the address and its length. No other way leads to
/// them: the fields that programs are given are those of IP. [`read`] checks what it finds there.
const UADDR: usize = 8;
const UADDRLEN: usize = 32;

#[cgroup_sock_addr(connect4)]
pub fn an_connect_unix(ctx: SockAddrContext) -> i32 {
    code(try_unix(&ctx, Hook::ConnectUnix))
}

#[cgroup_sock_addr(connect4)]
pub fn an_sendmsg_unix(ctx: SockAddrContext) -> i32 {
    code(try_unix(&ctx, Hook::SendmsgUnix))
}

#[inline(always)]
fn try_unix(ctx: &SockAddrContext, hook: Hook) -> bool {
    let Some(cfg) = config() else { return false };
    let mut name = DoorName { bytes: [0; SUN_PATH], len: 0 };
    let verdict = match read(ctx, &mut name) {
        Some(walk) => door::decide(&Maps { walk }, cfg, &name),
        None => Verdict::Deny(Reason::UnixSocket),
    };
    let Verdict::Deny(reason) = verdict else { return true };
    // SAFETY: the context is the kernel's.
    let (kind, flow) = unsafe { ((*ctx.sock_addr).type_, bpf_get_socket_cookie(ctx.sock_addr.cast())) };
    let none = Endpoint::new(Addr::UNSPECIFIED, 0, 0);
    let facts = Facts {
        hook,
        remote: none,
        local: none,
        process: current_process(),
        flow,
        bytes: 0,
        detail: kind << 16 | name.len,
        sent: 0,
    };
    conclude_door(cfg, &facts, reason, &name.bytes)
}

/// Reads the name that the process has given; `None` if it cannot be found.
#[inline(always)]
fn read(ctx: &SockAddrContext, name: &mut DoorName) -> Option<PathWalk> {
    let ctx: *const bpf_sock_addr = ctx.sock_addr;
    let address = load::<u64>(ctx.cast(), UADDR)?;
    let bytes = load::<u32>(ctx.cast(), UADDRLEN)?;
    // SAFETY: the context is the kernel's.
    let family = unsafe { (*ctx).user_family };
    // The kernel takes the family by the same pointer: where they differ, the kernel is laid out differently.
    if family != u32::from(AF_UNIX) || load::<u16>(address as *const u8, 0)? != AF_UNIX {
        return None;
    }
    let len = i64::from(bytes) - 2;
    if !check_bounds_signed(len, 1, SUN_PATH as i64) {
        return None;
    }
    let from = address.wrapping_add(2) as *const c_void;
    // SAFETY: room for `len` bytes, of which the verifier knows that they are no more than there are.
    if unsafe { bpf_probe_read_kernel(name.bytes.as_mut_ptr().cast(), len as u32, from) } != 0 {
        return None;
    }
    let walk = walk(name, address as u32);
    name.len = if name.is_abstract() { len as u32 } else { walk.len };
    Some(walk)
}

/// Bytes after which it is asked whether the path has ended.
const STRIDE: usize = 12;

/// [`DoorName::walk`]; `unknown` as in [`opaque`]. Programs that are loaded without BTF cannot have callbacks, so this is
/// a loop, which the verifier is to walk once.
#[inline(always)]
fn walk(name: &DoorName, unknown: u32) -> PathWalk {
    let mut walk = PathWalk::START;
    for bytes in name.bytes.chunks_exact(STRIDE) {
        for byte in bytes {
            walk.step(*byte, |word| opaque::word(word, unknown));
        }
        walk = walk.map(|word| opaque::word(word, unknown));
        if walk.goes_on == 0 {
            break;
        }
    }
    walk.map(|word| opaque::word(word, unknown))
}

const _: () = assert!(SUN_PATH % STRIDE == 0);

/// Reads memory of the kernel.
#[inline(always)]
fn load<T>(base: *const u8, offset: usize) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let from = base.wrapping_add(offset).cast();
    // SAFETY: the helper writes all of the value or fails, whatever the address is.
    unsafe {
        let read = bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, from);
        (read == 0).then(|| value.assume_init())
    }
}

/// The doors that the loader filled, for a name that was read.
struct Maps {
    walk: PathWalk,
}

impl Doors for Maps {
    #[inline(always)]
    fn door(&self, slot: u32, name: &DoorName) -> Option<Door> {
        let key = Key::new(8 * SUN_PATH as u32, name.bytes);
        // SAFETY: a trie of a slot in use is never written to; a reload fills another one.
        DOORS.get(slot)?.get(&key).copied()
    }

    #[inline(always)]
    fn is_plain(&self, _name: &DoorName) -> bool {
        self.walk.is_plain()
    }
}
