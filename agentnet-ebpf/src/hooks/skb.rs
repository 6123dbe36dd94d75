//! What both packet hooks do with a packet that they cannot judge.

use agentnet_common::{
    abi::{AgentCfg, COMM_BYTES, Process},
    addr::{Addr, Endpoint},
    event::Hook,
    verdict::{Reason, Verdict},
};
use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie, programs::SkBuffContext};

use crate::emit::{Facts, conclude, remember_refused};

/// No process is known.
pub const NOBODY: Process = Process { pid: 0, uid: 0, comm: [0; COMM_BYTES] };

/// Refuses a packet without a verdict on its endpoint, for `reason`.
#[inline(always)]
pub fn unreadable(ctx: &SkBuffContext, cfg: &AgentCfg, hook: Hook, process: Process, reason: Reason) -> bool {
    let none = Endpoint::new(Addr::UNSPECIFIED, 0, 0);
    // SAFETY: the context is the kernel's. 0 without a socket.
    let flow = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if matches!(hook, Hook::Egress) && flow != 0 {
        // Whatever protocol it has: destroying asks TCP sockets only.
        remember_refused(cfg, flow);
    }
    let facts =
        Facts { hook, remote: none, local: none, process, flow, bytes: ctx.len(), detail: 0, sent: 0 };
    conclude(cfg, &facts, Verdict::Deny(reason), false)
}
