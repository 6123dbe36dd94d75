//! Everything but eBPF: mounts, sockets, what else runs here.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{
    Check, Purpose, State, Subject, landlock,
    privileges::Privileges,
    settings::{self, setting},
};
use crate::kernel::{
    mounts::{self, MountError},
    sockdiag::{self, SockDiagError},
};

const KERNEL: Subject = Subject::optional("kernel", "kernel", Purpose::Enforcement);
const CGROUP2: Subject = Subject::required("cgroup2", "cgroup v2", Purpose::Enforcement);
const BPFFS: Subject = Subject::required("bpffs", "bpffs", Purpose::Enforcement);
const DESTROY: Subject = Subject::required("sock_destroy", "socket destruction", Purpose::Enforcement);
const SECCOMP: Subject = Subject::required("seccomp", "seccomp filter", Purpose::Run);
const RESOLVED: Subject = Subject::optional("resolved", "systemd-resolved", Purpose::Run);
const LOCKDOWN: Subject = Subject::required("lockdown", "lockdown", Purpose::Enforcement);

/// Looks at them all.
pub(super) fn probe(privileges: &Privileges) -> Vec<Check> {
    let seccomp = seccomp();
    let filter = seccomp.state == State::Ok;
    let landlock = landlock::abi();
    vec![
        kernel(),
        cgroup2(&mounts::mountinfo()),
        bpffs(privileges),
        sock_destroy(),
        settings::unprivileged_bpf(setting("kernel/unprivileged_bpf_disabled").as_deref()),
        privileges.check(),
        seccomp,
        landlock::check(&landlock),
        settings::io_uring(setting("kernel/io_uring_disabled").as_deref(), filter),
        settings::ptrace_scope(setting("kernel/yama/ptrace_scope").as_deref(), landlock.is_ok()),
        settings::tiocsti(setting("dev/tty/legacy_tiocsti").as_deref(), filter),
        settings::ping(setting("net/ipv4/ping_group_range").as_deref()),
        resolved(Path::new("/run/systemd/resolve")),
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

/// A file of the kernel's, without the space around it.
pub(super) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
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

fn lockdown(text: Option<&str>) -> Check {
    let Some(text) = text else { return LOCKDOWN.ok("not in this kernel, or not shown") };
    let mode = text.split_whitespace().find_map(|mode| mode.strip_prefix('[')?.strip_suffix(']'));
    match mode {
        Some("confidentiality") => LOCKDOWN
            .missing("confidentiality: programs cannot read kernel memory", "boot with lockdown=integrity"),
        Some(mode) => LOCKDOWN.ok(mode),
        None => LOCKDOWN.unknown(format!("cannot be understood: {text}")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_understood() {
        let cases = [
            (lockdown(Some("[none] integrity confidentiality")), State::Ok),
            (lockdown(Some("none [integrity] confidentiality")), State::Ok),
            (lockdown(Some("none integrity [confidentiality]")), State::Missing),
            (lockdown(Some("nonsense")), State::Unknown),
            (lockdown(None), State::Ok),
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
}
