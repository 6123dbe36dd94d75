//! Identity: whose packet or call this is, and what is remembered with its socket.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use agentnet_common::abi::{
    AgentCfg, COMM_BYTES, Dialog, Hello, OWNERS as OWNER_PLACES, Process, Queries, SockState, UdpPeers,
};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_get_current_comm, bpf_get_local_storage, bpf_sk_storage_delete, bpf_sk_storage_get},
    },
};

use crate::maps::{CFG, DIALOG, HELLO, OWNERS, PEERS, QUERIES, SOCK};

/// No process is known.
pub const NOBODY: Process = Process { pid: 0, uid: 0, comm: [0; COMM_BYTES] };

/// The configuration of the cgroup this program is attached to, whatever child cgroup the socket is in.
///
/// `None` until the first write: such a cgroup sends nothing.
#[inline(always)]
pub fn config() -> Option<&'static AgentCfg> {
    // SAFETY: the helper returns the storage of the attach cgroup and cannot fail; the kernel replaces the
    // value as a whole, so a reader sees the old or the new one.
    let cfg = unsafe { &*bpf_get_local_storage(CFG.as_ptr(), 0).cast::<AgentCfg>() };
    cfg.is_configured().then_some(cfg)
}

/// What `map`, a storage of sockets with values of this type, has of `sk`; made if `create` and not there yet.
#[inline(always)]
fn stored<T>(map: *mut c_void, sk: *mut c_void, create: bool) -> Option<&'static mut T> {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the verifier checks `sk`; the returned storage lives as long as the socket, which outlives
    // this run. Two CPUs may work on one socket: fields are integers, and no verdict rests on several of
    // them but for TCP, which holds the socket's lock.
    unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), flags).cast::<T>().as_mut() }
}

/// What is remembered with `sk`; made if `create` and not there yet.
///
/// `sk` must be a socket pointer that the verifier knows not to be null.
#[inline(always)]
pub fn sock_state(sk: *mut c_void, create: bool) -> Option<&'static mut SockState> {
    stored(SOCK.as_ptr(), sk, create)
}

/// Whom the UDP socket `sk` may answer; made if `create` and not there yet. `sk` as for [`sock_state`].
#[inline(always)]
pub fn udp_peers(sk: *mut c_void, create: bool) -> Option<&'static mut UdpPeers> {
    stored(PEERS.as_ptr(), sk, create)
}

/// The queries of the socket `sk`; made if `create` and not there yet. `sk` as for [`sock_state`].
#[inline(always)]
pub fn queries(sk: *mut c_void, create: bool) -> Option<&'static mut Queries> {
    stored(QUERIES.as_ptr(), sk, create)
}

/// What was judged of the connection `sk` to a resolver; made if `create` and not there yet. `sk` as for
/// [`sock_state`].
#[inline(always)]
pub fn dialog(sk: *mut c_void, create: bool) -> Option<&'static mut Dialog> {
    stored(DIALOG.as_ptr(), sk, create)
}

/// What was judged of the connection `sk` that has yet to say a name; made if `create` and not there yet. `sk` as for
/// [`sock_state`].
#[inline(always)]
pub fn hello(sk: *mut c_void, create: bool) -> Option<&'static mut Hello> {
    stored(HELLO.as_ptr(), sk, create)
}

/// Gives up what [`hello`] has. `sk` as for [`sock_state`].
#[inline(always)]
pub fn forget_hello(sk: *mut c_void) {
    // SAFETY: the verifier checks `sk`. An error means that there is nothing.
    unsafe { bpf_sk_storage_delete(HELLO.as_ptr(), sk) };
}

/// Remembers who connected the TCP socket `flow`.
#[inline(always)]
pub fn note_owner(flow: u64, process: &Process) {
    let Some(owner) = OWNERS.get_ptr_mut(flow as u32 & (OWNER_PLACES - 1)) else { return };
    // SAFETY: a map value, aligned. Another CPU may write the same place: what a reader finds between equal
    // cookies belongs to one socket, or names the wrong process of this agent in a report.
    unsafe {
        (&raw mut (*owner).flow).write_volatile(0);
        (*owner).process = *process;
        (&raw mut (*owner).flow).write_volatile(flow);
    }
}

/// Who connected the TCP socket `flow`, as far as it is remembered.
#[inline(always)]
pub fn owner(flow: u64) -> Process {
    let Some(owner) = OWNERS.get_ptr(flow as u32 & (OWNER_PLACES - 1)) else { return NOBODY };
    // SAFETY: as in `note_owner`.
    unsafe {
        let process =
            if (&raw const (*owner).flow).read_volatile() == flow { (*owner).process } else { NOBODY };
        if (&raw const (*owner).flow).read_volatile() == flow { process } else { NOBODY }
    }
}

/// The task that runs now. Only in process context: connect, sendmsg, sock_create, setsockopt, listen.
#[inline(always)]
pub fn current_process() -> Process {
    let mut comm = MaybeUninit::<[u8; COMM_BYTES]>::uninit();
    // SAFETY: a buffer of the size given, all of which the helper writes, zeros on failure.
    let comm = unsafe {
        bpf_get_current_comm(comm.as_mut_ptr().cast(), COMM_BYTES as u32);
        comm.assume_init()
    };
    Process { pid: (bpf_get_current_pid_tgid() >> 32) as u32, uid: bpf_get_current_uid_gid() as u32, comm }
}
