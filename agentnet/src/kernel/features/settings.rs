//! Settings of the kernel that an agent can make use of, read below /proc/sys.

use std::path::Path;

use super::{Check, Purpose, Subject, host::read};

const UNPRIVILEGED: Subject =
    Subject::optional("unprivileged_bpf", "unprivileged eBPF", Purpose::Enforcement);
const IO_URING: Subject = Subject::optional("io_uring", "io_uring", Purpose::Run);
const PTRACE: Subject = Subject::optional("ptrace_scope", "ptrace", Purpose::Run);
const TIOCSTI: Subject = Subject::optional("tiocsti", "TIOCSTI", Purpose::Run);
const PING: Subject = Subject::optional("ping_group_range", "ping sockets", Purpose::Run);

/// A setting of sysctl(8), by its path; `None` if this kernel does not have it.
pub(super) fn setting(name: &str) -> Option<String> {
    read(Path::new("/proc/sys").join(name))
}

/// How to change a setting, now and for good.
fn sysctl(name: &str, value: &str) -> String {
    format!("sysctl -w {name}='{value}', and to keep it `{name} = {value}` in /etc/sysctl.d/90-agentnet.conf")
}

pub(super) fn unprivileged_bpf(value: Option<&str>) -> Check {
    match value {
        Some("0") => UNPRIVILEGED.degraded(
            "every user, an agent as well, may load programs",
            sysctl("kernel.unprivileged_bpf_disabled", "2"),
        ),
        Some(value) => UNPRIVILEGED.ok(format!("kernel.unprivileged_bpf_disabled = {value}")),
        None => UNPRIVILEGED.unknown("there is no such setting"),
    }
}

pub(super) fn io_uring(value: Option<&str>, filter: bool) -> Check {
    match (value, filter) {
        (Some("2"), _) => IO_URING.ok("kernel.io_uring_disabled = 2"),
        (_, true) => IO_URING.ok("agents may not use it, by their seccomp filter"),
        (_, false) => IO_URING.degraded("an agent may use it", sysctl("kernel.io_uring_disabled", "2")),
    }
}

pub(super) fn ptrace_scope(value: Option<&str>, landlock: bool) -> Check {
    match (value, landlock) {
        (Some(value @ ("1" | "2" | "3")), _) => PTRACE.ok(format!("kernel.yama.ptrace_scope = {value}")),
        (_, true) => PTRACE.ok("agents cannot trace others, by Landlock"),
        (_, false) => PTRACE.degraded(
            "an agent can take over its user's other processes",
            sysctl("kernel.yama.ptrace_scope", "1"),
        ),
    }
}

pub(super) fn tiocsti(value: Option<&str>, filter: bool) -> Check {
    match (value, filter) {
        (Some("0"), _) => TIOCSTI.ok("dev.tty.legacy_tiocsti = 0"),
        (_, true) => TIOCSTI.ok("agents cannot type into their terminal, by their seccomp filter"),
        (_, false) => TIOCSTI.degraded(
            "an agent can type commands into the terminal it was started from",
            sysctl("dev.tty.legacy_tiocsti", "0"),
        ),
    }
}

pub(super) fn ping(value: Option<&str>) -> Check {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::State;

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
        ];
        for (check, state) in cases {
            assert_eq!(check.state, state, "{check:?}");
            let gap = matches!(check.state, State::Degraded | State::Missing);
            assert_eq!(check.fix.is_some(), gap, "whoever reports a gap says what to do: {check:?}");
        }
    }
}
