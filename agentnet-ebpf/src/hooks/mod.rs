//! One file per hook; the test of the same name is in `tests/`.

mod connect;
mod msg;
mod sendmsg;
mod setsockopt;
mod sk_msg;
mod skb;
mod skb_answer;
mod skb_egress;
mod skb_ingress;
mod skb_query;
mod skb_report;
mod skb_sample;
mod skb_tls;
mod sock_addr;
mod sock_create;
mod sock_release;
mod sockops;
mod tcx;
mod tcx_gate;
mod tls_msg;
mod unix;

/// Let the operation through.
const ALLOW: i32 = 1;
/// Refuse it: EPERM for calls, a drop for packets.
const DENY: i32 = 0;
/// The state of a listening socket (include/net/tcp_states.h).
const TCP_LISTEN: u32 = 10;
/// The state of a closed socket.
const TCP_CLOSE: u32 = 7;

/// The family of IPv4 (include/linux/socket.h).
const AF_INET: u32 = 2;
/// The family of IPv6.
const AF_INET6: u32 = 10;

/// The return value of a hook.
const fn code(allow: bool) -> i32 {
    if allow { ALLOW } else { DENY }
}
