//! Maps and hooks: each is made, loaded and attached as agentnet does it.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::fs::FlockOperation;

use super::{
    Check, Purpose, Subject,
    bpf::{self, Map, Refusal},
    host::Privileges,
    program::{Maps, Socket, TRIE_KEY_BYTES, Use, assemble},
};
use crate::kernel::mounts;

/// What a kernel needs that lacks a map or hook. The version is the oldest on which all of it was seen to work.
const KERNEL: &str = "use Linux 6.12 or later with CONFIG_BPF_SYSCALL=y and CONFIG_CGROUP_BPF=y";
/// What helps root that is refused.
const FORBIDDEN: &str =
    "run it on the host itself, outside any container; if this is the host, an LSM policy forbids eBPF";
/// What helps when only attaching is refused (`hierarchy_allows_attach`, kernel/bpf/cgroup.c).
const EXCLUSIVE: &str = "find with `bpftool cgroup tree` what another tool attached to a cgroup above without \
                         allowing others below it, and detach that";

// enum bpf_map_type, include/uapi/linux/bpf.h
const LPM_TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
const SOCKHASH: u32 = 18;
const CGROUP_STORAGE: u32 = 19;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

// enum bpf_prog_type
const SCHED_CLS: u32 = 3;
const CGROUP_SKB: u32 = 8;
const CGROUP_SOCK: u32 = 9;
const SOCK_OPS: u32 = 13;
const SK_MSG: u32 = 16;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_SOCKOPT: u32 = 25;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_CLONE: u32 = 1 << 9;

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
const SOCKOPT: &[Use] = &[Use::CgroupStorage, Use::Process, Use::Clock, Use::Ring];
const SOCKOPS: &[Use] =
    &[Use::CgroupStorage, Use::SocketStorage(SOCK_OPS_SK), Use::StateCallback, Use::Cookie, Use::Clock];
const UNIX: &[Use] = &[Use::CgroupStorage, Use::Process, Use::Clock, Use::Ring];

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
    hook("hook_setsockopt", "setsockopt", CGROUP_SOCKOPT, 22, SOCKOPT),
    hook("hook_sock_ops", "sock_ops", SOCK_OPS, 3, SOCKOPS),
];

const fn unix_hook(id: &'static str, title: &'static str, attach_type: u32) -> Hook {
    let subject = Subject::optional(id, title, Purpose::Later);
    Hook { subject, prog_type: CGROUP_SOCK_ADDR, attach_type, uses: UNIX }
}

const UNIX_HOOKS: &[Hook] =
    &[unix_hook("hook_connect_unix", "connect_unix", 49), unix_hook("hook_sendmsg_unix", "sendmsg_unix", 50)];

const MAP_IDENTITY: Subject = map("map_cgroup_storage", "cgroup storage");
const MAP_SOCKETS: Subject = map("map_sk_storage", "socket storage");
const MAP_TRIE: Subject = map("map_lpm_trie", "LPM trie, 256-byte keys");
const MAP_NESTED: Subject = map("map_array_of_maps", "array of maps");
const MAP_RING: Subject = map("map_ringbuf", "ring buffer");

const fn map(id: &'static str, title: &'static str) -> Subject {
    Subject::required(id, title, Purpose::Enforcement)
}

const KILL: Subject = Subject::required("cgroup_kill", "cgroup.kill", Purpose::Run);
const TCX: Subject = Subject::optional("hook_tcx", "tcx", Purpose::Later);
const MSG: Subject = Subject::optional("hook_sk_msg", "sk_msg", Purpose::Later);

/// Tries them all. `cgroup.kill` is among them: it shows only in a cgroup below the top, and here is one.
pub(super) fn probe(privileges: &Privileges) -> Vec<Check> {
    if !privileges.may_load() {
        let maps = [MAP_IDENTITY, MAP_SOCKETS, MAP_TRIE, MAP_NESTED, MAP_RING];
        let hooks = HOOKS.iter().chain(UNIX_HOOKS).map(|hook| hook.subject);
        return maps.into_iter().chain(hooks).chain([KILL, TCX, MSG]).map(Subject::needs_root).collect();
    }
    let (maps, mut checks) = create_maps();
    let scratch = scratch();
    checks.extend(HOOKS.iter().chain(UNIX_HOOKS).map(|hook| hook.check(&maps, scratch.as_ref())));
    checks.push(match &scratch {
        Ok(scratch) if scratch.path.join("cgroup.kill").exists() => KILL.ok("there"),
        Ok(_) => KILL.missing("there is no such file", "use Linux 5.14 or later"),
        Err(error) => KILL.unknown(error),
    });
    checks.push(judge(TCX, tcx(), "loads and attaches", "use Linux 6.6 or later with CONFIG_NET_XGRESS=y"));
    checks.push(sk_msg());
    checks
}

/// Makes the maps that the probing programs use.
fn create_maps() -> (Maps, Vec<Check>) {
    let mut maps = Maps::default();
    let mut checks = Vec::new();
    let mut record = |subject: Subject, made: Result<OwnedFd, Refusal>, fix: &str| {
        let (map, result) = match made {
            Ok(map) => (Some(map), Ok(())),
            Err(refusal) => (None, Err(refusal)),
        };
        checks.push(judge(subject, result, "can be made", fix));
        map
    };
    let identity = Map { kind: CGROUP_STORAGE, key_bytes: 8, value_bytes: 16, ..Map::default() };
    maps.cgroup_storage = record(MAP_IDENTITY, identity.create(), KERNEL);

    let sockets = Map {
        kind: SK_STORAGE,
        key_bytes: 4,
        value_bytes: 4,
        flags: BPF_F_NO_PREALLOC | BPF_F_CLONE,
        btf: true,
        ..Map::default()
    };
    maps.socket_storage = record(MAP_SOCKETS, sockets.create(), KERNEL);

    let trie = Map {
        kind: LPM_TRIE,
        key_bytes: TRIE_KEY_BYTES,
        value_bytes: 8,
        entries: 1,
        flags: BPF_F_NO_PREALLOC,
        ..Map::default()
    };
    let trie = record(MAP_TRIE, trie.create(), KERNEL);

    maps.tries = match &trie {
        Some(trie) => {
            let inner = Some(trie.as_fd());
            let nested = Map {
                kind: ARRAY_OF_MAPS,
                key_bytes: 4,
                value_bytes: 4,
                entries: 1,
                inner,
                ..Map::default()
            };
            record(MAP_NESTED, nested.create(), KERNEL)
        }
        None => None,
    };
    // A ring is a power of two of pages.
    let entries = u32::try_from(rustix::param::page_size()).unwrap_or(1 << 12);
    maps.ring = record(MAP_RING, Map { kind: RINGBUF, entries, ..Map::default() }.create(), KERNEL);
    if trie.is_none() {
        checks.push(MAP_NESTED.unknown("cannot be tried without the trie"));
    }
    (maps, checks)
}

impl Hook {
    fn check(&self, maps: &Maps, scratch: Result<&Scratch, &String>) -> Check {
        let fix =
            if self.subject.required { KERNEL } else { "use Linux 6.7 or later with CONFIG_CGROUP_BPF=y" };
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

fn judge(subject: Subject, result: Result<(), Refusal>, works: &str, fix: &str) -> Check {
    match result {
        Ok(()) => subject.ok(works),
        Err(refusal) => {
            let detail = refusal.to_string();
            denied(subject, &refusal, detail, fix)
        }
    }
}

fn denied(subject: Subject, refusal: &Refusal, detail: String, fix: &str) -> Check {
    subject.missing(detail, if refusal.is_permission() { FORBIDDEN } else { fix })
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
    match bpf::attach(program.as_fd(), map.as_raw_fd(), SK_MSG_VERDICT) {
        Ok(_) => MSG.ok("loads and attaches"),
        Err(refusal) => {
            let detail = format!("loads, but not as a link that can be pinned; {refusal}");
            MSG.degraded(detail, "use Linux 6.10 or later")
        }
    }
}

/// A cgroup of our own, without processes, that is removed at the end.
struct Scratch {
    path: PathBuf,
    directory: File,
}

const SCRATCH_PREFIX: &str = "agentnet-doctor-";

fn scratch() -> Result<Scratch, String> {
    let mount = mounts::cgroup2_mount().map_err(|_| "no cgroup to attach to".to_owned())?;
    reap(&mount);
    Scratch::new(&mount).map_err(|error| format!("cannot make a cgroup in {}: {error}", mount.display()))
}

impl Scratch {
    fn new(mount: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = mount.join(format!("{SCRATCH_PREFIX}{pid}-{count}"));
        fs::create_dir(&path)?;
        let directory = File::open(&path).inspect_err(|_| {
            let _ = fs::remove_dir(&path);
        })?;
        let scratch = Self { path, directory };
        rustix::fs::flock(&scratch.directory, FlockOperation::NonBlockingLockShared)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays behind after all is empty, and the next doctor removes it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes what a doctor left that was killed: nobody holds its lock.
fn reap(mount: &Path) {
    for entry in fs::read_dir(mount).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(SCRATCH_PREFIX)) else { continue };
        let pid = pid.split('-').next().unwrap_or_default();
        // Not one that is just being made and has no lock yet.
        if Path::new("/proc").join(pid).exists() {
            continue;
        }
        let abandoned = File::open(entry.path()).is_ok_and(|directory| {
            rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        });
        if abandoned {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::State;

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
