//! cgroup/connect4 and connect6: the process learns at once that it may not.

use agentnet_common::event::Hook;
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::{
    code,
    sock_addr::{Family, decide_call},
};

#[cgroup_sock_addr(connect4)]
pub fn an_connect4(ctx: SockAddrContext) -> i32 {
    code(decide_call(&ctx, Family::V4, Hook::Connect))
}

/// Also sees IPv4-mapped destinations of IPv6 sockets.
#[cgroup_sock_addr(connect6)]
pub fn an_connect6(ctx: SockAddrContext) -> i32 {
    code(decide_call(&ctx, Family::V6, Hook::Connect))
}
