//! Everything but eBPF: mounts, settings of the kernel, sockets, who we are.

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use caps::{CapSet, Capability};
use rustix::{
    fs::Access,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{Check, Purpose, State, Subject};
use crate::kernel::{
    mounts::{self, MountError},
    sockdiag::{self, SockDiagError},
};

const KERNEL: Subject = Subject::optional("kernel", "kernel", Purpose::Enforcement);
const PRIVILEGE: Subject = Subject::required("privilege", "privileges", Purpose::Run);
const CGROUP2: Subject = Subject::required("cgroup2", "cgroup v2", Purpose::Enforcement);
const BPFFS: Subject = Subject::required("bpffs", "bpffs", Purpose::Enforcement);
const DESTROY: Subject = Subject::required("sock_destroy", "socket destruction", Purpose::Enforcement);
const UNPRIVILEGED: Subject =
    Subject::optional("unprivileged_bpf", "unprivileged eBPF", Purpose::Enforcement);
const SECCOMP: Subject = Subject::required("seccomp", "seccomp filter", Purpose::Run);
const LANDLOCK: Subject = Subject::optional("landlock", "Landlock", Purpose::Run);
const IO_URING: Subject = Subject::optional("io_uring", "io_uring", Purpose::Run);
const PTRACE: Subject = Subject::optional("ptrace_scope", "ptrace", Purpose::Run);
const TIOCSTI: Subject = Subject::optional("tiocsti", "TIOCSTI", Purpose::Run);
const PING: Subject = Subject::optional("ping_group_range", "ping sockets", Purpose::Run);
const RESOLVED: Subject = Subject::optional("resolved", "systemd-resolved", Purpose::Run);
const BTF: Subject = Subject::optional("btf", "BTF of the kernel", Purpose::Later);
const LOCKDOWN: Subject = Subject::optional("lockdown", "lockdown", Purpose::Later);

/// What this process may do.
pub(super) struct Privileges {
    root: bool,
    /// Of the capabilities that agentnet takes, those that this process does not have.
    lacking: Vec<Capability>,
    /// Root is root only in a namespace of its own, so its capabilities do not count.
    in_user_namespace: bool,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        // An error means a kernel without the capability: it cannot be had.
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        let wanted = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN];
        let identity = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
        Self {
            root: rustix::process::geteuid().is_root(),
            lacking: wanted.into_iter().filter(|capability| !has(*capability)).collect(),
            in_user_namespace: !read("/proc/thread-self/uid_map").is_none_or(identity),
        }
    }

    /// Whether it may load and attach programs.
    pub(super) fn may_load(&self) -> bool {
        self.lacking.is_empty() && !self.in_user_namespace
    }
}

/// Looks at them all.
pub(super) fn probe(privileges: &Privileges) -> Vec<Check> {
    let seccomp = seccomp();
    let filter = seccomp.state == State::Ok;
    let landlock = landlock_abi();
    vec![
        kernel(),
        cgroup2(&mounts::mountinfo()),
        bpffs(privileges),
        sock_destroy(),
        unprivileged_bpf(setting("kernel/unprivileged_bpf_disabled").as_deref()),
        privilege(privileges, &helpers()),
        seccomp,
        landlock_check(&landlock),
        io_uring(setting("kernel/io_uring_disabled").as_deref(), filter),
        ptrace_scope(setting("kernel/yama/ptrace_scope").as_deref(), landlock.is_ok()),
        tiocsti(setting("dev/tty/legacy_tiocsti").as_deref(), filter),
        ping(setting("net/ipv4/ping_group_range").as_deref()),
        resolved(Path::new("/run/systemd/resolve")),
        btf(Path::new("/sys/kernel/btf/vmlinux")),
        lockdown(read("/sys/kernel/security/lockdown").as_deref()),
    ]
}

/// For whoever reads a report; nothing is concluded from the version.
fn kernel() -> Check {
    let name = rustix::system::uname();
    let [system, release, machine] =
        [name.sysname(), name.release(), name.machine()].map(std::ffi::CStr::to_string_lossy);
    KERNEL.ok(format!("{system} {release} {machine}"))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// A setting of sysctl(8), by its path; `None` if this kernel does not have it.
fn setting(name: &str) -> Option<String> {
    read(Path::new("/proc/sys").join(name))
}

/// How to change a setting, now and for good.
fn sysctl(name: &str, value: &str) -> String {
    format!("sysctl -w {name}='{value}', and to keep it `{name} = {value}` in /etc/sysctl.d/90-agentnet.conf")
}

fn cgroup2(mountinfo: &Result<Vec<u8>, MountError>) -> Check {
    let mountinfo = match mountinfo {
        Ok(mountinfo) => mountinfo,
        Err(error) => return CGROUP2.missing(error.to_string(), "mount -t proc proc /proc"),
    };
    let Some(mount) = mounts::find(mounts::CGROUP2, mountinfo) else {
        return CGROUP2.missing(
            "not mounted",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified",
        );
    };
    let point = mount.point();
    let point = point.display();
    if !mount.is_writable() {
        let detail = format!("at {point}, read-only, as in most containers");
        return CGROUP2.missing(detail, format!("mount -o remount,rw {point}, or run it on the host itself"));
    }
    let hybrid = mounts::find("cgroup", mountinfo).is_some();
    CGROUP2.ok(format!("{}, at {point}", if hybrid { "hybrid" } else { "unified" }))
}

fn bpffs(privileges: &Privileges) -> Check {
    const FIX: &str = "use a kernel with CONFIG_BPF_SYSCALL=y";
    if let Ok(point) = mounts::bpffs_mount() {
        return BPFFS.ok(format!("mounted at {}", point.display()));
    }
    if privileges.may_load() {
        return match detached_bpffs() {
            Ok(()) => BPFFS.ok("not mounted; agentnet mounts it when it runs"),
            Err(error) => BPFFS.missing(format!("not mounted, and mounting it fails: {error}"), FIX),
        };
    }
    let known = read("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(mounts::BPF)) {
        BPFFS.ok("not mounted; agentnet mounts it when it runs as root")
    } else {
        BPFFS.missing("this kernel does not know it", FIX)
    }
}

/// Mounts bpffs on no directory: the mount ends when its descriptor is closed.
fn detached_bpffs() -> io::Result<()> {
    let context = rustix::mount::fsopen(mounts::BPF, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(())
}

/// Destroys a connection of our own over loopback.
fn sock_destroy() -> Check {
    let connection = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let cookie = rustix::net::sockopt::socket_cookie(&client)?;
        Ok::<_, io::Error>((listener, client, cookie))
    };
    let (_listener, _client, cookie) = match connection() {
        Ok(connection) => connection,
        Err(error) => return DESTROY.unknown(format!("cannot make a connection over loopback: {error}")),
    };
    match sockdiag::destroy_tcp(None, &|socket| socket.cookie == cookie) {
        Ok(1) => DESTROY.ok("a connection of our own was destroyed"),
        Ok(_) => DESTROY.missing("a connection of our own was not listed", "use Linux 6.12 or later"),
        Err(SockDiagError::NotPermitted) => DESTROY.needs_root(),
        Err(error) => {
            let fix =
                "use a kernel with CONFIG_INET_DIAG, CONFIG_INET_TCP_DIAG and CONFIG_INET_DIAG_DESTROY=y";
            DESTROY.missing(error.to_string(), fix)
        }
    }
}

fn unprivileged_bpf(value: Option<&str>) -> Check {
    match value {
        Some("0") => UNPRIVILEGED.degraded(
            "every user, an agent as well, may load programs",
            sysctl("kernel.unprivileged_bpf_disabled", "2"),
        ),
        Some(value) => UNPRIVILEGED.ok(format!("kernel.unprivileged_bpf_disabled = {value}")),
        None => UNPRIVILEGED.unknown("there is no such setting"),
    }
}

/// What can make us root, in the order of preference.
fn helpers() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let directories: Vec<PathBuf> = env::split_paths(&path).filter(|path| path.is_absolute()).collect();
    ["sudo", "doas"]
        .iter()
        .filter_map(|name| {
            let mut candidates = directories.iter().map(|directory| directory.join(name));
            candidates.find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok())
        })
        .collect()
}

fn privilege(privileges: &Privileges, helpers: &[PathBuf]) -> Check {
    if privileges.may_load() {
        return PRIVILEGE.ok("this process may do all that agentnet does");
    }
    match (privileges.root, helpers) {
        (true, _) if privileges.in_user_namespace => {
            PRIVILEGE.missing("root of a user namespace, not of the host", "run it on the host itself")
        }
        (true, _) => {
            let lacking: Vec<String> = privileges.lacking.iter().map(ToString::to_string).collect();
            let detail = format!("root, but without {}", lacking.join(" and "));
            PRIVILEGE.missing(detail, "run it on the host itself, or give the container these capabilities")
        }
        (false, []) => PRIVILEGE.missing(
            "not root, and neither sudo nor doas is installed",
            "install sudo, or run agentnet as root",
        ),
        (false, [helper, ..]) => {
            PRIVILEGE.ok(format!("not root; agentnet asks {} for what takes root", helper.display()))
        }
    }
}

fn seccomp() -> Check {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: seccomp(2) reads one u32 through the pointer and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    match result {
        0 => SECCOMP.ok("can refuse system calls"),
        _ => SECCOMP.missing(
            io::Error::last_os_error().to_string(),
            "use a kernel with CONFIG_SECCOMP_FILTER=y; a container may forbid it as well",
        ),
    }
}

fn landlock_abi() -> io::Result<i64> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag landlock_create_ruleset(2) takes no attributes and only returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    if abi < 0 { Err(io::Error::last_os_error()) } else { Ok(abi) }
}

fn landlock_check(abi: &io::Result<i64>) -> Check {
    /// The first with scopes: signals and abstract Unix sockets.
    const SCOPES: i64 = 6;
    match abi {
        Ok(abi) if *abi >= SCOPES => LANDLOCK.ok(format!("ABI {abi}")),
        Ok(abi) => LANDLOCK.degraded(
            format!(
                "ABI {abi}: an agent can signal its user's other processes and reach their abstract sockets"
            ),
            "use Linux 6.12 or later",
        ),
        Err(error) => LANDLOCK.missing(
            format!("{error}: an agent can reach into its user's other processes"),
            "use a kernel with CONFIG_SECURITY_LANDLOCK=y, and add landlock to its lsm= parameter",
        ),
    }
}

fn io_uring(value: Option<&str>, filter: bool) -> Check {
    match (value, filter) {
        (Some("2"), _) => IO_URING.ok("kernel.io_uring_disabled = 2"),
        (_, true) => IO_URING.ok("agents may not use it, by their seccomp filter"),
        (_, false) => IO_URING.degraded("an agent may use it", sysctl("kernel.io_uring_disabled", "2")),
    }
}

fn ptrace_scope(value: Option<&str>, landlock: bool) -> Check {
    match (value, landlock) {
        (Some(value @ ("1" | "2" | "3")), _) => PTRACE.ok(format!("kernel.yama.ptrace_scope = {value}")),
        (_, true) => PTRACE.ok("agents cannot trace others, by Landlock"),
        (_, false) => PTRACE.degraded(
            "an agent can take over its user's other processes",
            sysctl("kernel.yama.ptrace_scope", "1"),
        ),
    }
}

fn tiocsti(value: Option<&str>, filter: bool) -> Check {
    match (value, filter) {
        (Some("0"), _) => TIOCSTI.ok("dev.tty.legacy_tiocsti = 0"),
        (_, true) => TIOCSTI.ok("agents cannot type into their terminal, by their seccomp filter"),
        (_, false) => TIOCSTI.degraded(
            "an agent can type commands into the terminal it was started from",
            sysctl("dev.tty.legacy_tiocsti", "0"),
        ),
    }
}

fn ping(value: Option<&str>) -> Check {
    let bounds: Vec<u32> =
        value.unwrap_or_default().split_whitespace().filter_map(|bound| bound.parse().ok()).collect();
    match bounds.as_slice() {
        [first, last] if first <= last => PING.ok(format!("groups {first} to {last} may ping")),
        [_, _] => PING.degraded(
            "no group may, so a policy's icmp rules are of no use to an agent",
            sysctl("net.ipv4.ping_group_range", "0 2147483647"),
        ),
        _ => PING.unknown("there is no such setting"),
    }
}

fn resolved(runtime: &Path) -> Check {
    let socket = runtime.join("io.systemd.Resolve");
    if socket.exists() {
        let detail = "it resolves names for every process that asks over its Unix socket, an agent as well; \
                      those queries are its own, no policy sees them";
        RESOLVED
            .degraded(detail, "use a resolver without such a socket: systemctl disable --now systemd-resolved, and a nameserver in \
             /etc/resolv.conf")
    } else {
        RESOLVED.ok("not running")
    }
}

fn btf(path: &Path) -> Check {
    match fs::metadata(path) {
        Ok(metadata) => BTF.ok(format!("{}, {} KiB", path.display(), metadata.len() / 1024)),
        Err(_) => BTF
            .missing(format!("{} is not there", path.display()), "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
    }
}

fn lockdown(text: Option<&str>) -> Check {
    let Some(text) = text else { return LOCKDOWN.ok("not in this kernel, or not shown") };
    let mode = text.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => LOCKDOWN
            .degraded("confidentiality: programs cannot read kernel memory", "boot with lockdown=integrity"),
        Some(mode) => LOCKDOWN.ok(mode),
        None => LOCKDOWN.unknown(format!("cannot be understood: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_understood() {
        let cases = [
            (unprivileged_bpf(Some("0")), State::Degraded),
            (unprivileged_bpf(Some("1")), State::Ok),
            (unprivileged_bpf(Some("2")), State::Ok),
            (unprivileged_bpf(None), State::Unknown),
            (io_uring(Some("0"), true), State::Ok),
            (io_uring(Some("0"), false), State::Degraded),
            (io_uring(Some("2"), false), State::Ok),
            (io_uring(None, false), State::Degraded),
            (ptrace_scope(Some("1"), false), State::Ok),
            (ptrace_scope(Some("0"), false), State::Degraded),
            (ptrace_scope(None, false), State::Degraded),
            (ptrace_scope(Some("0"), true), State::Ok),
            (tiocsti(Some("0"), false), State::Ok),
            (tiocsti(Some("1"), true), State::Ok),
            (tiocsti(Some("1"), false), State::Degraded),
            (tiocsti(None, false), State::Degraded),
            (ping(Some("0\t2147483647")), State::Ok),
            (ping(Some("1\t0")), State::Degraded),
            (ping(Some("nonsense")), State::Unknown),
            (ping(None), State::Unknown),
            (lockdown(Some("[none] integrity confidentiality")), State::Ok),
            (lockdown(Some("none [integrity] confidentiality")), State::Ok),
            (lockdown(Some("none integrity [confidentiality]")), State::Degraded),
            (lockdown(Some("nonsense")), State::Unknown),
            (lockdown(None), State::Ok),
            (landlock_check(&Ok(7)), State::Ok),
            (landlock_check(&Ok(3)), State::Degraded),
            (landlock_check(&Err(io::ErrorKind::Unsupported.into())), State::Missing),
            (btf(Path::new("/nowhere")), State::Missing),
            (resolved(Path::new("/nowhere")), State::Ok),
        ];
        for (check, state) in cases {
            assert_eq!(check.state, state, "{check:?}");
            let gap = matches!(check.state, State::Degraded | State::Missing);
            assert_eq!(check.fix.is_some(), gap, "whoever reports a gap says what to do: {check:?}");
        }
    }

    #[test]
    fn cgroup2_says_where_and_how() {
        let line = |point: &str, fstype: &str, options: &str| {
            format!("33 22 0:28 / {point} {options} - {fstype} {fstype} rw\n").into_bytes()
        };
        let unified = cgroup2(&Ok(line("/sys/fs/cgroup", "cgroup2", "rw")));
        assert_eq!((unified.state, unified.detail.as_str()), (State::Ok, "unified, at /sys/fs/cgroup"));

        let hybrid = [line("/cg/cpu", "cgroup", "rw"), line("/cg/unified", "cgroup2", "rw")].concat();
        assert_eq!(cgroup2(&Ok(hybrid)).detail, "hybrid, at /cg/unified");

        for blocked in [Vec::new(), line("/sys/fs/cgroup", "cgroup2", "ro")] {
            let check = cgroup2(&Ok(blocked));
            assert!(check.state == State::Missing && check.blocks() && check.fix.is_some(), "{check:?}");
        }
    }

    #[test]
    fn root_is_had_or_asked_for() {
        let user =
            Privileges { root: false, lacking: vec![Capability::CAP_SYS_ADMIN], in_user_namespace: false };
        let asked = privilege(&user, &["/usr/bin/sudo".into(), "/usr/bin/doas".into()]);
        assert_eq!(asked.state, State::Ok);
        assert!(asked.detail.contains("/usr/bin/sudo"), "{asked:?}");
        assert_eq!(privilege(&user, &[]).state, State::Missing);

        let container = Privileges { root: true, ..user };
        let told = privilege(&container, &["/usr/bin/sudo".into()]);
        assert_eq!(told.state, State::Missing);
        assert!(told.detail.contains("CAP_SYS_ADMIN"), "{told:?}");

        let namespace = Privileges { root: true, lacking: Vec::new(), in_user_namespace: true };
        assert!(!namespace.may_load());
        assert_eq!(privilege(&namespace, &[]).state, State::Missing);
        let root = Privileges { in_user_namespace: false, ..namespace };
        assert!(root.may_load());
        assert_eq!(privilege(&root, &[]).state, State::Ok);
    }
}
