//! Which program goes to which attach point, and attaching them all.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
};

use aya::{Ebpf, programs::Program};
use aya_obj::generated::bpf_attach_type;

use super::{KernelError, object::cgroup_id, pins, sys, tcx};

/// A program of the object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program in the object and in the kernel.
    pub program: &'static str,
    /// What it guards, as `status` says it.
    pub door: &'static str,
    attach_type: bpf_attach_type,
}

/// Every hook. An agent is enforced when all of them are attached to its cgroup.
pub const HOOKS: [Hook; 9] = [
    hook("an_skb_egress", "packets out", bpf_attach_type::BPF_CGROUP_INET_EGRESS),
    hook("an_skb_ingress", "packets in", bpf_attach_type::BPF_CGROUP_INET_INGRESS),
    hook("an_sockops", "accepted connections", bpf_attach_type::BPF_CGROUP_SOCK_OPS),
    hook("an_sock_create", "socket creation", bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE),
    hook("an_setsockopt", "socket options", bpf_attach_type::BPF_CGROUP_SETSOCKOPT),
    hook("an_connect4", "connect, IPv4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    hook("an_connect6", "connect, IPv6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    hook("an_sendmsg4", "UDP send, IPv4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    hook("an_sendmsg6", "UDP send, IPv6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
];

const fn hook(program: &'static str, door: &'static str, attach_type: bpf_attach_type) -> Hook {
    Hook { program, door, attach_type }
}

/// Loads every program into the kernel. Nothing is attached.
pub(super) fn load_programs(object: &mut Ebpf) -> Result<(), KernelError> {
    for hook in &HOOKS {
        let program =
            object.program_mut(hook.program).ok_or(KernelError::NoProgram { program: hook.program })?;
        let loaded = match program {
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSockopt(program) => program.load(),
            Program::SockOps(program) => program.load(),
            _ => return Err(KernelError::NoProgram { program: hook.program }),
        };
        loaded.map_err(|source| KernelError::Load { program: hook.program, source: Box::new(source) })?;
    }
    tcx::load_programs(object)
}

/// Why the links pinned in `pins` do not guard `cgroup`, a hook each, as the kernel tells it; empty if they
/// all do.
pub fn unguarded(pins: &Path, cgroup: &Path) -> Vec<String> {
    match cgroup_id(cgroup) {
        Ok(id) => problems(pins, id),
        Err(error) => vec![error.to_string()],
    }
}

/// As [`unguarded`], for the cgroup with the number `id`.
pub(super) fn problems(pins: &Path, id: u64) -> Vec<String> {
    HOOKS.iter().filter_map(|&hook| problem(hook, &pins::link_path(pins, hook.program), id)).collect()
}

/// Why a hook does not guard cgroup `id` as the pin says it does, if so.
fn problem(hook: Hook, pin: &Path, id: u64) -> Option<String> {
    let door = hook.door;
    match sys::obj_get(pin).and_then(|link| sys::cgroup_link(link.as_fd())) {
        Ok(link) if link.cgroup == id && link.attach_type == hook.attach_type as u32 => None,
        Ok(link) => Some(format!("{door}: the pinned link guards cgroup {} instead of {id}", link.cgroup)),
        Err(error) => Some(format!("{door}: not attached ({error})")),
    }
}

/// A link and the program behind it.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) hook: Hook,
    pub(super) link: OwnedFd,
}

/// Attaches every program to the cgroup. On an error what was attached is let go again.
pub(super) fn attach_all(object: &Ebpf, cgroup: &Path) -> Result<Vec<Attached>, KernelError> {
    let directory =
        File::open(cgroup).map_err(|source| KernelError::Cgroup { cgroup: cgroup.to_owned(), source })?;
    HOOKS
        .iter()
        .map(|&hook| {
            let program = object
                .program(hook.program)
                .and_then(|program| program.fd().ok())
                .ok_or(KernelError::NoProgram { program: hook.program })?;
            let attach_type = hook.attach_type as u32;
            let link = sys::link_create(program.as_fd(), directory.as_raw_fd(), attach_type)
                .map_err(|source| KernelError::Attach { program: hook.program, source })?;
            Ok(Attached { hook, link })
        })
        .collect()
}
