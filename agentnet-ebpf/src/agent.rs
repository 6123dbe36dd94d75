//! Identity: whose packet or call this is, and what is remembered with its socket.

use core::{ffi::c_void, ptr};

use agentnet_common::abi::{AgentCfg, COMM_BYTES, Process, SockState, UdpPeers};
use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{bpf_get_current_comm, bpf_get_local_storage, bpf_sk_storage_get},
    },
};

use crate::maps::{CFG, PEERS, SOCK};

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

/// What is remembered with `sk`; made if `create` and not there yet.
///
/// `sk` must be a socket pointer that the verifier knows not to be null.
#[inline(always)]
pub fn sock_state(sk: *mut c_void, create: bool) -> Option<&'static mut SockState> {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: the verifier checks `sk`; the returned storage lives as long as the socket, which outlives
    // this run. Two CPUs may work on one socket: fields are integers and every verdict that rests on them
    // is checked against the packet at hand.
    unsafe { bpf_sk_storage_get(SOCK.as_ptr(), sk, ptr::null_mut(), flags).cast::<SockState>().as_mut() }
}

/// Whom the UDP socket `sk` may answer; made if `create` and not there yet. `sk` as for [`sock_state`].
#[inline(always)]
pub fn udp_peers(sk: *mut c_void, create: bool) -> Option<&'static mut UdpPeers> {
    let flags = if create { u64::from(BPF_SK_STORAGE_GET_F_CREATE) } else { 0 };
    // SAFETY: as for `sock_state`.
    unsafe { bpf_sk_storage_get(PEERS.as_ptr(), sk, ptr::null_mut(), flags).cast::<UdpPeers>().as_mut() }
}

/// The task that runs now. Only in process context: connect, sendmsg, sock_create, setsockopt.
#[inline(always)]
pub fn current_process() -> Process {
    let mut comm = [0_u8; COMM_BYTES];
    // SAFETY: `comm` is a buffer of the size given; on failure it stays zero.
    unsafe { bpf_get_current_comm(comm.as_mut_ptr().cast(), COMM_BYTES as u32) };
    Process {
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm,
    }
}
