//! The system call filter: ways to the network that the cgroup's programs do not see, and input pushed into
//! the terminal of whoever started the agent.
//!
//! A call by the numbers of another architecture (32-bit x86 by `int 0x80`, 32-bit ARM) has other numbers and
//! arguments, so it cannot be judged: the filters kill the process, as `seccompiler` has it.

use std::collections::BTreeMap;

use rustix::io::Errno;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// The socket families an agent may create. Unix, IPv4 and IPv6 are what the cgroup's programs decide on (or,
/// for Unix, stay on the host); netlink is how the C library lists addresses and interfaces and only talks to
/// the kernel; so does `AF_ALG`, its cryptography. Others (packet, vsock, XDP, Bluetooth, CAN, TIPC, SMC, QRTR …)
/// leave the host past these programs, or are new, and what is unknown is refused.
const FAMILIES: [i32; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_ALG];

/// Set in the number of a call of the x32 ABI, which shares its architecture with 64-bit x86.
const X32: i64 = 0x4000_0000;

/// `ioctl` has a number of its own in x32; kernels before 5.4 answer to it without the x32 bit as well.
const X32_IOCTL: i64 = 514;

/// Requests that reach past what confines the agent: typing a byte into the terminal it shares, and pasting
/// into a virtual console (<asm-generic/ioctls.h>); taking over a network device of the host that carries
/// whatever is written to it (`TUNSETIFF`, <linux/if_tun.h>), whose packets have no socket.
const REQUESTS: [u32; 3] = [0x5412, 0x541c, 0x4004_54ca];

/// The filters, compiled; installed one after the other, a call passes if all let it pass.
pub(super) struct Filters(Vec<BpfProgram>);

impl Filters {
    /// Compiles them for the architecture this was built for.
    pub(super) fn compile() -> Result<Self, seccompiler::BackendError> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        [
            // The answer of a kernel built without that family: programs that probe for one expect it.
            (libc::EAFNOSUPPORT, sockets()?),
            // The answer of a kernel without io_uring, on which libuv and others go back to epoll.
            (
                libc::ENOSYS,
                whole(&[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]),
            ),
            // What the kernel itself says to the unprivileged.
            (libc::EPERM, [whole(&[libc::SYS_bpf]), requests()?, limits()?].into_iter().flatten().collect()),
        ]
        .into_iter()
        .map(|(errno, rules)| {
            let errno = SeccompAction::Errno(errno.unsigned_abs());
            SeccompFilter::new(rules, SeccompAction::Allow, errno, arch)?.try_into()
        })
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// Installs them. Last of all steps: whatever the others need may be forbidden from here on.
    ///
    /// Async-signal-safe.
    pub(super) fn install(&self) -> Result<(), Errno> {
        for program in &self.0 {
            seccompiler::apply_filter(program).map_err(|error| match error {
                Error::Prctl(e) | Error::Seccomp(e) => Errno::from_io_error(&e).unwrap_or(Errno::INVAL),
                _ => Errno::INVAL,
            })?;
        }
        Ok(())
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// `socket` and `socketpair` with a family not in [`FAMILIES`].
fn sockets() -> Result<Rules, seccompiler::BackendError> {
    let other = FAMILIES
        .into_iter()
        .map(|family| argument(0, SeccompCmpOp::Ne, family.unsigned_abs()))
        .collect::<Result<_, _>>()?;
    let rule = SeccompRule::new(other)?;
    Ok(numbers(&[libc::SYS_socket, libc::SYS_socketpair]).map(|n| (n, vec![rule.clone()])).collect())
}

/// `prlimit64` that sets a limit of another process: a root agent could end the engine by its limits, where
/// Landlock keeps it from sending a signal.
fn limits() -> Result<Rules, seccompiler::BackendError> {
    let new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0)?;
    let rule = SeccompRule::new(vec![argument(0, SeccompCmpOp::Ne, 0)?, new_limit])?;
    Ok(numbers(&[libc::SYS_prlimit64]).map(|n| (n, vec![rule.clone()])).collect())
}

/// `ioctl` requests that are refused, see [`REQUESTS`].
fn requests() -> Result<Rules, seccompiler::BackendError> {
    let requests = REQUESTS
        .into_iter()
        // The request is an unsigned int to the kernel, whatever the upper half of the register says.
        .map(|request| SeccompRule::new(vec![argument(1, SeccompCmpOp::Eq, request)?]))
        .collect::<Result<Vec<_>, _>>()?;
    let mut calls = vec![libc::SYS_ioctl];
    if cfg!(target_arch = "x86_64") {
        calls.push(X32_IOCTL);
    }
    Ok(numbers(&calls).map(|n| (n, requests.clone())).collect())
}

/// Calls refused whatever their arguments.
fn whole(calls: &[i64]) -> Rules {
    numbers(calls).map(|n| (n, Vec::new())).collect()
}

/// Each call by every number it answers to.
fn numbers(calls: &[i64]) -> impl Iterator<Item = i64> {
    let x32 = calls.iter().filter(|_| cfg!(target_arch = "x86_64")).map(|n| n | X32);
    calls.iter().copied().chain(x32)
}

/// Compares the lower 32 bits of an argument, which are all that the kernel reads of an `int`.
fn argument(index: u8, op: SeccompCmpOp, value: u32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiles_for_every_supported_architecture() {
        for arch in ["x86_64", "aarch64"] {
            let arch = TargetArch::try_from(arch).unwrap();
            for rules in [sockets().unwrap(), requests().unwrap(), whole(&[libc::SYS_bpf])] {
                let filter =
                    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(1), arch).unwrap();
                assert!(!BpfProgram::try_from(filter).unwrap().is_empty());
            }
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_x32_numbers_are_held_to_the_same_rules() {
        let sockets = sockets().unwrap();
        assert!(sockets.contains_key(&41) && sockets.contains_key(&(41 | X32)));
        let terminal = requests().unwrap();
        for number in [16, 16 | X32, 514, 514 | X32] {
            assert!(terminal.contains_key(&number), "{number:#x}");
        }
    }
}
