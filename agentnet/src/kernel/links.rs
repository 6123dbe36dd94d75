//! Which program goes to which attach point, attaching them all, and moving links to newer programs.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use agentnet_common::abi::{TAIL_DNS, TAIL_DNS_STREAM, TAIL_REPORT, TAIL_SAMPLE, TAIL_TLS, maps};
use aya::{
    Ebpf,
    maps::{MapError, ProgramArray},
    programs::{Program, ProgramFd},
};
use aya_obj::generated::bpf_attach_type;

use super::{
    KernelError,
    object::{cgroup_id, map_data},
    pins, sys,
    unix::{self, Programs},
};
use crate::agent::AgentName;

/// A program of the object and where it belongs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// Name of the program in the object and in the kernel.
    pub program: &'static str,
    /// What it guards, as `status` says it.
    pub door: &'static str,
    attach_type: bpf_attach_type,
}

impl Hook {
    /// `BPF_CGROUP_*`.
    pub(super) const fn attach_type(&self) -> u32 {
        self.attach_type as u32
    }
}

/// Every hook but those of [`unix::HOOKS`]. An agent is enforced when all of them are attached to its cgroup.
pub const HOOKS: [Hook; 10] = [
    hook("an_skb_egress", "packets out", bpf_attach_type::BPF_CGROUP_INET_EGRESS),
    hook("an_skb_ingress", "packets in", bpf_attach_type::BPF_CGROUP_INET_INGRESS),
    hook("an_sockops", "accepted connections", bpf_attach_type::BPF_CGROUP_SOCK_OPS),
    hook("an_sock_create", "socket creation", bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE),
    hook("an_sock_release", "ended sockets", bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE),
    hook("an_setsockopt", "socket options", bpf_attach_type::BPF_CGROUP_SETSOCKOPT),
    hook("an_connect4", "connect, IPv4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    hook("an_connect6", "connect, IPv6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    hook("an_sendmsg4", "UDP send, IPv4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    hook("an_sendmsg6", "UDP send, IPv6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
];

pub(super) const fn hook(program: &'static str, door: &'static str, attach_type: bpf_attach_type) -> Hook {
    Hook { program, door, attach_type }
}

/// A program that the packet hooks hand packets to.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    /// Name of the program in the object and in the kernel.
    pub program: &'static str,
    /// What it does, as tables say it.
    pub duty: &'static str,
    map: &'static str,
    index: u32,
}

/// Every program that is handed packets.
pub const TAILS: [Tail; 8] = [
    tail("an_report_out", "reports, out", maps::TAILS_OUT, TAIL_REPORT),
    tail("an_report_in", "reports, in", maps::TAILS_IN, TAIL_REPORT),
    tail("an_dns_query", "DNS queries", maps::TAILS_OUT, TAIL_DNS),
    tail("an_dns_answer", "DNS answers", maps::TAILS_IN, TAIL_DNS),
    tail("an_dns_stream", "DNS answers, TCP", maps::TAILS_IN, TAIL_DNS_STREAM),
    tail("an_tls_out", "TLS, out", maps::TAILS_OUT, TAIL_TLS),
    tail("an_sample_out", "samples, out", maps::TAILS_OUT, TAIL_SAMPLE),
    tail("an_sample_in", "samples, in", maps::TAILS_IN, TAIL_SAMPLE),
];

/// The program on what is sent by sockets of its map.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// Name of the program in the object and in the kernel.
    pub program: &'static str,
    /// What it does, as tables say it.
    pub duty: &'static str,
    map: &'static str,
}

/// Those that judge what is sent to resolvers over TCP, and what TLS clients say to addresses that a name has opened.
pub const GATES: [Gate; 2] = [
    Gate { program: "an_dns_msg", duty: "DNS queries, TCP", map: maps::GATE },
    Gate { program: "an_tls_msg", duty: "TLS server names", map: maps::HELLOS },
];

const fn tail(program: &'static str, duty: &'static str, map: &'static str, index: u32) -> Tail {
    Tail { program, duty, map, index }
}

/// What is guarded when all hooks are attached, in words.
pub(super) fn doors(unix: &Programs) -> Vec<String> {
    HOOKS.iter().chain(unix.each().map(|(hook, _)| hook)).map(|hook| hook.door.to_owned()).collect()
}

/// Each hook with its program.
fn programs<'a>(
    object: &'a Ebpf,
    unix: &'a Programs,
) -> impl Iterator<Item = Result<(&'static Hook, BorrowedFd<'a>), KernelError>> {
    let of_object = HOOKS.iter().map(|hook| Ok((hook, loaded(object, hook)?.as_fd())));
    of_object.chain(unix.each().map(|(hook, program)| Ok((hook, program.as_fd()))))
}

/// Loads every program of the hooks into the kernel, and those that they hand packets to, which are put in their
/// places: on adopted maps the programs of before hand to these from then on. Nothing is attached.
pub(super) fn load_programs(object: &mut Ebpf) -> Result<(), KernelError> {
    verify(object)?;
    for tail in &TAILS {
        let program = object.program(tail.program).and_then(|program| program.fd().ok());
        let program = program.ok_or(KernelError::NoProgram { program: tail.program })?;
        let failed = |source| KernelError::Map { map: tail.map, source };
        let program = program.try_clone().map_err(|error| failed(MapError::IoError(error)))?;
        let map = object.map_mut(tail.map).ok_or_else(|| failed(MapError::KeyNotFound))?;
        let mut places = ProgramArray::try_from(map).map_err(failed)?;
        places.set(tail.index, &program, 0).map_err(failed)?;
    }
    for gate in &GATES {
        let program = object.program(gate.program).and_then(|program| program.fd().ok());
        let program = program.ok_or(KernelError::NoProgram { program: gate.program })?;
        let failed = |source| KernelError::Map { map: gate.map, source };
        let map = object.map(gate.map).and_then(map_data).ok_or_else(|| failed(MapError::KeyNotFound))?;
        sys::prog_attach(program.as_fd(), map.fd().as_fd(), bpf_attach_type::BPF_SK_MSG_VERDICT as u32)
            .map_err(|source| KernelError::Attach { program: gate.program, source })?;
    }
    Ok(())
}

/// Programs that the kernel verifies for longest, first among them the longest. Those that end last are to be short.
const LONGEST: [&str; 6] =
    ["an_dns_stream", "an_skb_egress", "an_connect4", "an_connect6", "an_sendmsg6", "an_sendmsg4"];

/// Has the kernel verify the programs, on every processor: it is most of what starting takes.
fn verify(object: &mut Ebpf) -> Result<(), KernelError> {
    let hooks = HOOKS.iter().map(|hook| hook.program);
    let gates = GATES.iter().map(|gate| gate.program);
    let mut names: Vec<_> = hooks.chain(TAILS.iter().map(|tail| tail.program)).chain(gates).collect();
    // The last one is taken first.
    names.sort_by_key(|name| Reverse(LONGEST.iter().position(|long| long == name).unwrap_or(LONGEST.len())));
    let mut found: HashMap<&str, &mut Program> = object
        .programs_mut()
        .filter_map(|(name, program)| Some((*names.iter().find(|wanted| **wanted == name)?, program)))
        .collect();
    let mut waiting = Vec::with_capacity(names.len());
    for &name in &names {
        waiting.push((name, found.remove(name).ok_or(KernelError::NoProgram { program: name })?));
    }
    let waiting = Mutex::new(waiting);
    let work = || {
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((name, program)) = next else { return Ok(()) };
            load(name, program)?;
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    thread::scope(|scope| {
        let others: Vec<_> = (1..processors).map(|_| scope.spawn(work)).collect();
        let own = work();
        others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .fold(own, Result::and)
    })
}

fn load(name: &'static str, program: &mut Program) -> Result<(), KernelError> {
    let loaded = match program {
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkMsg(program) => program.load(),
        _ => return Err(KernelError::NoProgram { program: name }),
    };
    loaded.map_err(|source| KernelError::Load { program: name, source: Box::new(source) })
}

/// Why the links that the engine at `pins` has pinned for `agent` do not guard `cgroup`, a hook each, as the
/// kernel tells it; empty if they do.
pub fn unguarded(pins: &Path, agent: &AgentName, cgroup: &Path) -> Vec<String> {
    match cgroup_id(cgroup) {
        Ok(id) => problems(pins, agent, id),
        Err(error) => vec![error.to_string()],
    }
}

/// The same of the cgroup with this id.
pub(super) fn problems(pins: &Path, agent: &AgentName, id: u64) -> Vec<String> {
    let path = |hook: &Hook| pins::link_path(pins, agent, hook.program);
    // A kernel without these hooks is told of elsewhere, and not for every agent.
    let unix = unix::HOOKS.iter().filter(|hook| path(hook).exists() || unix::has_hooks().is_ok());
    HOOKS.iter().chain(unix).filter_map(|hook| problem(*hook, &path(hook), id)).collect()
}

/// Why a hook does not guard cgroup `id` as the pin says it does, if so.
fn problem(hook: Hook, pin: &Path, id: u64) -> Option<String> {
    let door = hook.door;
    match sys::obj_get(pin).and_then(|link| sys::cgroup_link(link.as_fd())) {
        Ok(link) if link.cgroup == id && link.attach_type == hook.attach_type() => None,
        Ok(link) => Some(format!("{door}: the pinned link guards cgroup {} instead of {id}", link.cgroup)),
        Err(error) => Some(format!("{door}: not attached ({error})")),
    }
}

fn loaded<'a>(object: &'a Ebpf, hook: &Hook) -> Result<&'a ProgramFd, KernelError> {
    let program = object.program(hook.program).and_then(|program| program.fd().ok());
    program.ok_or(KernelError::NoProgram { program: hook.program })
}

/// The program that is attached first: it refuses nothing, and with it the cgroup has storage to be configured in.
const FIRST: &str = "an_sock_release";

/// Attaches every program to the cgroup and pins the links; `configure` is called before any of them that refuses
/// something. On an error what was attached is let go again.
pub(super) fn attach_all(
    object: &Ebpf,
    unix: &Programs,
    root: &Path,
    agent: &AgentName,
    cgroup: &Path,
    configure: impl FnOnce() -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    let directory =
        File::open(cgroup).map_err(|source| KernelError::Cgroup { cgroup: cgroup.to_owned(), source })?;
    pins::directory(&pins::links_of(root, agent))?;
    let attach = |(hook, program): (&Hook, BorrowedFd<'_>)| -> Result<OwnedFd, KernelError> {
        let link = sys::link_create(program, directory.as_raw_fd(), hook.attach_type())
            .map_err(|source| KernelError::Attach { program: hook.program, source })?;
        let path = pins::link_path(root, agent, hook.program);
        sys::obj_pin(link.as_fd(), &path).map_err(|source| KernelError::Pin { path, source })?;
        Ok(link)
    };
    // The descriptors go when all are pinned: a pin alone keeps its link.
    let attached: Result<Vec<OwnedFd>, KernelError> =
        programs(object, unix).collect::<Result<Vec<_>, _>>().and_then(|programs| {
            let (first, rest): (Vec<_>, Vec<_>) =
                programs.into_iter().partition(|(hook, _)| hook.program == FIRST);
            let mut links = first.into_iter().map(attach).collect::<Result<Vec<_>, _>>()?;
            configure()?;
            for program in rest {
                links.push(attach(program)?);
            }
            Ok(links)
        });
    attached.map(drop).inspect_err(|_| {
        // The first error is the one to tell; what is left is removed by the next clean-up too.
        let _ = pins::clear_agent(root, agent);
    })
}

/// Moves the pinned links of an agent to the programs of `object`, each in one step: there is no packet that
/// none of the two judges. A hook that is not attached, because an older version did not have it, is
/// attached now.
///
/// # Errors
/// When a link is not moved; those before it are. The old program then judges as it did.
pub(super) fn update_all(
    object: &Ebpf,
    unix: &Programs,
    root: &Path,
    agent: &AgentName,
    cgroup: &Path,
) -> Result<(), KernelError> {
    let directory =
        File::open(cgroup).map_err(|source| KernelError::Cgroup { cgroup: cgroup.to_owned(), source })?;
    for program in programs(object, unix) {
        let (hook, program) = program?;
        let path = pins::link_path(root, agent, hook.program);
        let wrong = |source| KernelError::Relink { path: path.clone(), source };
        match sys::obj_get(&path) {
            Ok(link) => {
                sys::link_update(link.as_fd(), program).map_err(wrong)?;
                let now = sys::cgroup_link(link.as_fd()).map_err(wrong)?;
                let wanted = sys::program_id(program).map_err(wrong)?;
                if now.program != wanted {
                    let what = format!("it runs program {} instead of {wanted}", now.program);
                    return Err(wrong(io::Error::other(what)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let link = sys::link_create(program, directory.as_raw_fd(), hook.attach_type())
                    .map_err(|source| KernelError::Attach { program: hook.program, source })?;
                sys::obj_pin(link.as_fd(), &path)
                    .map_err(|source| KernelError::Pin { path: path.clone(), source })?;
            }
            Err(error) => return Err(wrong(error)),
        }
    }
    Ok(())
}

/// Removes the pinned links of an agent: **enforcement ends here**, and has ended when this returns.
///
/// # Errors
/// When a pin cannot be removed; then enforcement may go on.
pub(super) fn detach_all(root: &Path, agent: &AgentName) -> io::Result<()> {
    // The last reference to a link is dropped here and now, not by the kernel's worker behind the pin.
    let links: Vec<_> = HOOKS
        .iter()
        .chain(&unix::HOOKS)
        .filter_map(|hook| sys::obj_get(&pins::link_path(root, agent, hook.program)).ok())
        .collect();
    pins::clear_agent(root, agent)?;
    drop(links);
    Ok(())
}

/// The cgroup that an agent's links guard: its id, 0 if it is gone; `None` if there is no link.
pub(super) fn guarded(root: &Path, agent: &AgentName) -> Option<u64> {
    HOOKS.iter().find_map(|hook| {
        let link = sys::obj_get(&pins::link_path(root, agent, hook.program)).ok()?;
        Some(sys::cgroup_link(link.as_fd()).ok()?.cgroup)
    })
}
