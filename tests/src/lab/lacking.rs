//! Kernels and accounts that lack something: the kernel at hand, made to refuse it to one command.

use std::{collections::BTreeMap, os::unix::process::CommandExt as _, process::Command};

use anyhow::Result;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// `BPF_PROG_LOAD` of bpf(2), <linux/bpf.h>.
pub const PROG_LOAD: u32 = 5;
/// `BPF_OBJ_PIN`.
pub const OBJ_PIN: u32 = 6;
/// `BPF_MAP_CREATE`.
pub const MAP_CREATE: u32 = 0;
/// `BPF_LINK_CREATE`.
pub const LINK_CREATE: u32 = 28;

/// Has one command of bpf(2) fail with `errno`, as on a kernel that does not know it or forbids it.
///
/// # Errors
/// If there are no system call filters for this architecture.
pub fn without_bpf(command: &mut Command, what: u32, errno: i32) -> Result<()> {
    let is_it = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, what.into())?;
    filter(command, libc::SYS_bpf, vec![SeccompRule::new(vec![is_it])?], errno)
}

/// Has a system call fail with `errno`.
///
/// # Errors
/// If there are no system call filters for this architecture.
pub fn without_call(command: &mut Command, number: i64, errno: i32) -> Result<()> {
    filter(command, number, Vec::new(), errno)
}

fn filter(command: &mut Command, number: i64, rules: Vec<SeccompRule>, errno: i32) -> Result<()> {
    let refuse = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into()?;
    let rules = BTreeMap::from([(number, rules)]);
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    let install = move || seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Other.into());
    // SAFETY: two calls of prctl(2) and seccomp(2); the filter was made before the fork.
    unsafe { command.pre_exec(install) };
    Ok(())
}

/// Starts `command` as a root that has all capabilities but this one, as in a container.
pub fn without_capability(command: &mut Command, lacking: CapabilitySet) {
    let drop = move || Ok(remove_capability_from_bounding_set(lacking)?);
    // SAFETY: prctl(2) takes integers only. What root may at most is what it has after execve.
    unsafe { command.pre_exec(drop) };
}
