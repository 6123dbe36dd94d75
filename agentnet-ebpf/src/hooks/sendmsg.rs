//! cgroup/sendmsg4 and sendmsg6: unconnected UDP. Connected sockets passed connect.

use agentnet_common::event::Hook;
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::{
    code,
    sock_addr::{Family, decide_call},
};

/// Also sees IPv4-mapped destinations of IPv6 sockets.
#[cgroup_sock_addr(sendmsg4)]
pub fn an_sendmsg4(ctx: SockAddrContext) -> i32 {
    code(decide_call(&ctx, Family::V4, Hook::Sendmsg))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn an_sendmsg6(ctx: SockAddrContext) -> i32 {
    code(decide_call(&ctx, Family::V6, Hook::Sendmsg))
}
