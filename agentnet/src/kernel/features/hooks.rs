//! Hooks: programs are loaded and attached as agentnet does it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use super::{
    Check, Purpose, Subject,
    bpf::{self, KERNEL, Map, Refusal, denied, judge},
    maps::{self, MAPS},
    privileges::Privileges,
    program::{Maps, Socket, Use, assemble},
    scratch::{Scratch, scratch},
};
use crate::kernel::sys;

/// What helps when only attaching is refused (`hierarchy_allows_attach`, kernel/bpf/cgroup.c).
const EXCLUSIVE: &str = "find with `bpftool cgroup tree` what another tool attached to a cgroup above without \
                         allowing others below it, and detach that";

// enum bpf_map_type, include/uapi/linux/bpf.h
const SOCKHASH: u32 = 18;

// enum bpf_prog_type
const SCHED_CLS: u32 = 3;
const CGROUP_SKB: u32 = 8;
const CGROUP_SOCK: u32 = 9;
const SOCK_OPS: u32 = 13;
const SK_MSG: u32 = 16;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_SOCKOPT: u32 = 25;

// enum bpf_attach_type
const SK_MSG_VERDICT: u32 = 7;
const TCX_INGRESS: u32 = 46;

/// Where the contexts keep the socket (include/uapi/linux/bpf.h): of `struct __sk_buff`,
const SKB_SK: Socket = Socket::Any(168);
/// of `struct bpf_sock_addr`,
const SOCK_ADDR_SK: Socket = Socket::Whole(64);
/// of `struct bpf_sock_ops`.
const SOCK_OPS_SK: Socket = Socket::Whole(184);

/// A program on a cgroup.
struct Hook {
    subject: Subject,
    prog_type: u32,
    /// `enum bpf_attach_type`.
    attach_type: u32,
    uses: &'static [Use],
}

const SKB: &[Use] = &[
    Use::CgroupStorage,
    Use::SocketStorage(SKB_SK),
    Use::Packet,
    Use::Tries,
    Use::TcpLookup,
    Use::UdpLookup,
    Use::Cookie,
    Use::Clock,
    Use::Ring,
];
const SOCK_ADDR: &[Use] = &[
    Use::CgroupStorage,
    Use::SocketStorage(SOCK_ADDR_SK),
    Use::Tries,
    Use::TcpLookup,
    Use::UdpLookup,
    Use::Process,
    Use::Cookie,
    Use::Clock,
    Use::Ring,
];
const SOCK_CREATE: &[Use] = &[
    Use::CgroupStorage,
    Use::SocketStorage(Socket::Context),
    Use::Process,
    Use::ReturnValue,
    Use::Clock,
    Use::Ring,
];
const SOCK_RELEASE: &[Use] =
    &[Use::CgroupStorage, Use::SocketStorage(Socket::Context), Use::Cookie, Use::Clock, Use::Ring];
const SOCKOPT: &[Use] = &[Use::CgroupStorage, Use::Process, Use::Clock, Use::Ring];
const SOCKOPS: &[Use] =
    &[Use::CgroupStorage, Use::SocketStorage(SOCK_OPS_SK), Use::StateCallback, Use::Cookie, Use::Clock];
const UNIX: &[Use] =
    &[Use::CgroupStorage, Use::Tries, Use::Process, Use::KernelMemory, Use::Cookie, Use::Clock, Use::Ring];

const fn hook(
    id: &'static str,
    title: &'static str,
    prog_type: u32,
    attach_type: u32,
    uses: &'static [Use],
) -> Hook {
    Hook { subject: Subject::required(id, title, Purpose::Enforcement), prog_type, attach_type, uses }
}

const HOOKS: &[Hook] = &[
    hook("hook_egress", "cgroup_skb egress", CGROUP_SKB, 1, SKB),
    hook("hook_ingress", "cgroup_skb ingress", CGROUP_SKB, 0, SKB),
    hook("hook_connect4", "connect4", CGROUP_SOCK_ADDR, 10, SOCK_ADDR),
    hook("hook_connect6", "connect6", CGROUP_SOCK_ADDR, 11, SOCK_ADDR),
    hook("hook_sendmsg4", "sendmsg4", CGROUP_SOCK_ADDR, 14, SOCK_ADDR),
    hook("hook_sendmsg6", "sendmsg6", CGROUP_SOCK_ADDR, 15, SOCK_ADDR),
    hook("hook_sock_create", "sock_create", CGROUP_SOCK, 2, SOCK_CREATE),
    hook("hook_sock_release", "sock_release", CGROUP_SOCK, 34, SOCK_RELEASE),
    hook("hook_setsockopt", "setsockopt", CGROUP_SOCKOPT, 22, SOCKOPT),
    hook("hook_sock_ops", "sock_ops", SOCK_OPS, 3, SOCKOPS),
];

const fn unix_hook(id: &'static str, title: &'static str, attach_type: u32) -> Hook {
    let subject = Subject::optional(id, title, Purpose::Enforcement);
    Hook { subject, prog_type: CGROUP_SOCK_ADDR, attach_type, uses: UNIX }
}

const UNIX_HOOKS: &[Hook] =
    &[unix_hook("hook_connect_unix", "connect_unix", 49), unix_hook("hook_sendmsg_unix", "sendmsg_unix", 50)];

const KILL: Subject = Subject::required("cgroup_kill", "cgroup.kill", Purpose::Run);
const TCX: Subject = Subject::optional("hook_tcx", "tcx", Purpose::Containers);
const MSG: Subject = Subject::required("hook_sk_msg", "sk_msg", Purpose::Enforcement);

/// What is lost without tcx, and how to get it.
const NO_TCX: &str = "use Linux 6.6 or later with CONFIG_NET_XGRESS=y; until then what attached containers send without \
                      a socket (packet sockets, TUN devices) is not judged";

/// What is lost without the hooks at Unix sockets, and how to get them.
const NO_UNIX: &str = "use Linux 6.7 or later with CONFIG_CGROUP_BPF=y, not in lockdown for confidentiality; until then agents \
                       may talk to every Unix socket of this host that file permissions let them";

/// Tries them all. `cgroup.kill` is among them: it shows only in a cgroup below the top, and here is one.
pub(super) fn probe(privileges: &Privileges) -> Vec<Check> {
    if !privileges.may_load() {
        let hooks = HOOKS.iter().chain(UNIX_HOOKS).map(|hook| hook.subject);
        return MAPS.into_iter().chain(hooks).chain([KILL, TCX, MSG]).map(Subject::needs_root).collect();
    }
    let (maps, mut checks) = maps::create();
    let scratch = scratch();
    checks.extend(HOOKS.iter().chain(UNIX_HOOKS).map(|hook| hook.check(&maps, scratch.as_ref())));
    checks.push(match &scratch {
        Ok(scratch) if scratch.path.join("cgroup.kill").exists() => KILL.ok("there"),
        Ok(_) => KILL.missing("there is no such file", "use Linux 5.14 or later"),
        Err(error) => KILL.unknown(error),
    });
    checks.push(judge(TCX, tcx(), "loads and attaches", NO_TCX));
    checks.push(sk_msg());
    checks
}

impl Hook {
    fn check(&self, maps: &Maps, scratch: Result<&Scratch, &String>) -> Check {
        let fix = if self.subject.required { KERNEL } else { NO_UNIX };
        let Some(program) = assemble(self.uses, maps) else {
            return self.subject.unknown("cannot be tried without the maps above");
        };
        let program = match bpf::load(self.prog_type, self.attach_type, &program) {
            Ok(program) => program,
            Err(refusal) => {
                let detail = match self.culprits(maps) {
                    culprits if culprits.is_empty() => refusal.to_string(),
                    culprits => format!("cannot use {}; {refusal}", culprits.join(", ")),
                };
                return denied(self.subject, &refusal, detail, fix);
            }
        };
        match scratch {
            Ok(scratch) => {
                let link = bpf::attach(program.as_fd(), scratch.directory.as_raw_fd(), self.attach_type);
                match link {
                    Ok(_) => self.subject.ok("loads and attaches"),
                    Err(refusal) => {
                        let fix = if refusal.is_permission() { EXCLUSIVE } else { fix };
                        self.subject.missing(format!("loads; {refusal}"), fix)
                    }
                }
            }
            Err(error) => self.subject.unknown(format!("loads; {error}")),
        }
    }

    /// What of it the verifier refuses when it stands alone; empty if it refuses even an empty program.
    fn culprits(&self, maps: &Maps) -> Vec<&'static str> {
        let loads = |uses: &[Use]| {
            let program = assemble(uses, maps)?;
            bpf::load(self.prog_type, self.attach_type, &program).ok()
        };
        if loads(&[]).is_none() {
            return Vec::new();
        }
        self.uses.iter().filter(|one| loads(&[**one]).is_none()).map(|one| one.helpers()).collect()
    }
}

/// Attaches to the loopback interface of a network namespace that ends with the thread.
fn tcx() -> Result<(), Refusal> {
    /// Loopback is the first interface of every namespace.
    const LOOPBACK: i32 = 1;
    let probe = || {
        // SAFETY: file descriptors stay shared; only this thread's network namespace changes.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .map_err(|errno| Refusal::new("making a network namespace", errno.into()))?;
        let program = assemble(&[], &Maps::default()).unwrap_or_default();
        let program = bpf::load(SCHED_CLS, TCX_INGRESS, &program)?;
        bpf::attach(program.as_fd(), LOOPBACK, TCX_INGRESS).map(drop)
    };
    std::thread::scope(|scope| scope.spawn(probe).join())
        .unwrap_or_else(|_| Err(Refusal::new("trying tcx", io::ErrorKind::Other.into())))
}

fn sk_msg() -> Check {
    let program = assemble(&[], &Maps::default()).unwrap_or_default();
    let sockets = Map { kind: SOCKHASH, key_bytes: 8, value_bytes: 4, entries: 1, ..Map::default() };
    let made = sockets.create().and_then(|map| Ok((map, bpf::load(SK_MSG, SK_MSG_VERDICT, &program)?)));
    let (map, program) = match made {
        Ok(made) => made,
        Err(refusal) => {
            return judge(MSG, Err(refusal), "", "use Linux 4.20 or later with CONFIG_NET_SOCK_MSG=y");
        }
    };
    match sys::prog_attach(program.as_fd(), map.as_fd(), SK_MSG_VERDICT) {
        Ok(()) => MSG.ok("loads and attaches"),
        Err(error) => MSG.missing(format!("loads, and cannot be attached: {error}"), KERNEL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::{State, bpf::FORBIDDEN};

    /// A hook that asks for the packet where there is none.
    const WRONG: Hook = hook("wrong", "wrong", CGROUP_SOCK_ADDR, 10, &[Use::Clock, Use::Packet, Use::Cookie]);

    #[test]
    fn a_hook_that_is_refused_says_what_for() {
        let check = WRONG.check(&Maps::default(), Err(&"there is no cgroup".to_owned()));
        assert_eq!(check.state, State::Missing, "{check:?}");
        if Privileges::of_this_process().may_load() {
            assert!(
                check.detail.starts_with("cannot use bpf_skb_load_bytes; the verifier says: "),
                "{check:?}"
            );
            assert_eq!(check.fix.as_deref(), Some(KERNEL));
        } else {
            assert_eq!(check.fix.as_deref(), Some(FORBIDDEN), "{check:?}");
        }
    }

    #[test]
    fn a_hook_without_its_maps_or_cgroup_is_unknown() {
        let needs_map = hook("map", "map", CGROUP_SKB, 1, SKB);
        let check = needs_map.check(&Maps::default(), Err(&String::new()));
        assert_eq!(check.state, State::Unknown, "{check:?}");

        let bare = hook("bare", "bare", CGROUP_SKB, 1, &[]);
        let check = bare.check(&Maps::default(), Err(&"there is no cgroup".to_owned()));
        if Privileges::of_this_process().may_load() {
            assert_eq!((check.state, check.detail.as_str()), (State::Unknown, "loads; there is no cgroup"));
        }
    }
}
