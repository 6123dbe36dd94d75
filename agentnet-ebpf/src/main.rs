//! The kernel programs: thin hooks over one verdict.
//!
//! | hook | file | duty |
//! | --- | --- | --- |
//! | cgroup/sock_create | `hooks/sock_create.rs` | refuses odd sockets, notes who made a socket |
//! | cgroup/setsockopt | `hooks/setsockopt.rs` | refuses options that would let packets pass the other hooks by |
//! | cgroup/connect4, connect6 | `hooks/connect.rs` | EPERM at once for the process |
//! | cgroup/sendmsg4, sendmsg6 | `hooks/sendmsg.rs` | the same for unconnected UDP |
//! | cgroup/sock_release | `hooks/sock_release.rs` | tells of datagram sockets that end |
//! | cgroup/connect_unix, sendmsg_unix | `hooks/unix.rs` | Unix sockets of others |
//! | sockops | `hooks/sockops.rs` | marks accepted sockets, forgets closed ones |
//! | cgroup_skb/egress | `hooks/skb_egress.rs` | the last word on every packet out |
//! | cgroup_skb/ingress | `hooks/skb_ingress.rs` | who may connect into the agent |
//! | sk_msg | `hooks/sk_msg.rs` | judges DNS queries over TCP before TCP takes them |
//! | sk_msg | `hooks/tls_msg.rs` | holds what TLS clients say to the names that opened the address |
//! | (handed over) | `hooks/skb_tls.rs` | lets out what `tls_msg.rs` has judged |
//! | (handed over) | `hooks/skb_query.rs`, `hooks/skb_answer.rs` | judges DNS queries, learns from answers |
//! | (handed over) | `hooks/skb_report.rs` | reports on packets |
//! | (handed over) | `hooks/skb_sample.rs` | samples payload that was let through |
//! | tcx | `hooks/tcx.rs` | containers from outside, packet sockets |
//!
//! Every hook is a shim around one `try_*` function; what a failure means is written once, in [`emit`].
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features, reason = "core::sync::atomic has no read-modify-write on the BPF target")]

mod acts;
mod agent;
mod dns;
mod emit;
mod hooks;
mod local;
mod maps;
mod neighbour;
mod opaque;
mod packet;
mod pins;
mod sample;
mod scratch;
mod series;
mod tables;
mod tls;
mod visitors;

/// A panic that the compiler could not remove becomes an endless loop, which the verifier refuses to load:
/// loud, where `unreachable_unchecked` would silently delete checks.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
