//! The sandbox that systemd makes of the daemon's unit, as far as it can be made without systemd: capabilities, system
//! calls and their arguments, file systems that are read-only.

use std::{
    collections::BTreeMap, ffi::CString, fs, os::unix::process::CommandExt as _, path::Path, process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{MountFlags, mount, mount_remount},
    thread::{CapabilitySet, UnshareFlags, remove_capability_from_bounding_set, unshare_unsafe},
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Where the kernel's headers have the numbers of system calls.
pub const NUMBERS: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";

/// Values of a setting of the unit, of all its lines.
fn setting(unit: &str, name: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(|value| value.split_whitespace().map(str::to_owned)).collect()
}

/// The system calls in a set, and in the sets that are in it, as this systemd has them.
fn members(set: &str) -> Result<Vec<String>> {
    let output = Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", set]).output()?;
    ensure!(output.status.success(), "{set}: {output:?}");
    let mut names = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines().skip(1).map(str::trim) {
        match line {
            comment if comment.is_empty() || comment.starts_with('#') => {}
            inner if inner.starts_with('@') => names.extend(members(inner)?),
            name => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

fn numbers() -> Result<BTreeMap<String, i64>> {
    let text = fs::read_to_string(NUMBERS)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    Ok(lines.filter_map(|(name, number)| Some((name.to_owned(), number.trim().parse().ok()?))).collect())
}

fn rule(index: u8, op: SeccompCmpOp, value: u32) -> Result<SeccompRule> {
    Ok(SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value.into())?])?)
}

/// `SystemCallFilter=`, `RestrictAddressFamilies=`, `RestrictNamespaces=` and `MemoryDenyWriteExecute=`.
fn filter(unit: &str) -> Result<BpfProgram> {
    let numbers = numbers()?;
    let mut names = Vec::new();
    for entry in setting(unit, "SystemCallFilter") {
        if entry.starts_with('@') { names.extend(members(&entry)?) } else { names.push(entry) }
    }
    ensure!(names.len() > 200 && !names.iter().any(|name| name == "mount"), "{names:?}");
    // Names of other architectures have no number here.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        names.iter().filter_map(|name| Some((*numbers.get(name)?, Vec::new()))).collect();
    let families = setting(unit, "RestrictAddressFamilies").into_iter().map(|family| {
        Ok(match family.as_str() {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_NETLINK" => libc::AF_NETLINK,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            other => bail!("{other}"),
        })
    });
    let families: Vec<i32> = families.collect::<Result<_>>()?;
    let is_family = families.iter().map(|family| rule(0, SeccompCmpOp::Eq, family.unsigned_abs()));
    rules.insert(libc::SYS_socket, is_family.collect::<Result<_>>()?);
    ensure!(setting(unit, "RestrictNamespaces") == ["net"], "namespaces");
    let net = libc::CLONE_NEWNET.unsigned_abs();
    // Without a kind, anything could be entered.
    rules.insert(libc::SYS_setns, vec![rule(1, SeccompCmpOp::Eq, net)?]);
    let others = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ];
    let others = others.iter().fold(0, |set, flag| set | flag.unsigned_abs());
    rules.insert(libc::SYS_unshare, vec![rule(0, SeccompCmpOp::MaskedEq(others.into()), 0)?]);
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(others.into()), 0)?]);
    ensure!(setting(unit, "MemoryDenyWriteExecute") == ["yes"], "memory");
    let (write, execute) = (libc::PROT_WRITE.unsigned_abs(), libc::PROT_EXEC.unsigned_abs());
    let both = SeccompCmpOp::MaskedEq((write | execute).into());
    let one = [0, write, execute].into_iter().map(|bits| rule(2, both.clone(), bits));
    rules.insert(libc::SYS_mmap, one.collect::<Result<_>>()?);
    for call in [libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(execute.into()), 0)?]);
    }
    // As SystemCallErrorNumber= has it.
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// clone3(2) cannot be looked into: systemd has the C library believe that there is none.
fn without_clone3() -> Result<BpfProgram> {
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

fn path(text: &str) -> Result<CString> {
    Ok(CString::new(text)?)
}

/// `ProtectSystem=strict`, `ProtectHome=`, `PrivateTmp=` and `ConfigurationDirectory=`, for this process.
fn protect() -> Result<()> {
    // SAFETY: the mounts belong to this process, which has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
    // What is mounted on it stays as it is: /run/agentnet and /var/lib/agentnet, /dev, /proc and /sys.
    for place in ["/", "/etc/agentnet/policies"] {
        mount_remount(path(place)?, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    for (place, flags) in
        [("/home", MountFlags::RDONLY), ("/root", MountFlags::RDONLY), ("/var/tmp", MountFlags::NOSUID)]
    {
        if Path::new(place).is_dir() {
            mount(c"tmpfs", path(place)?, c"tmpfs", flags, Some(c"mode=0755"))?;
        }
    }
    Ok(())
}

/// Executes `words` as the unit at `unit` says, in place of this process.
///
/// # Errors
/// If a part of the sandbox cannot be made.
pub fn execute(unit: &Path, words: &[String]) -> Result<()> {
    let unit = fs::read_to_string(unit)?;
    let program = filter(&unit)?;
    protect()?;
    let kept = setting(&unit, "CapabilityBoundingSet");
    let mut given_up: Vec<CapabilitySet> = CapabilitySet::all()
        .iter_names()
        .filter(|(name, _)| !kept.contains(&format!("CAP_{name}")))
        .map(|(_, bit)| bit)
        .collect();
    // It takes this one to give up the others.
    given_up.sort_by_key(|bit| *bit == CapabilitySet::SETPCAP);
    for bit in given_up {
        remove_capability_from_bounding_set(bit)?;
    }
    let (first, rest) = words.split_first().context("nothing to execute")?;
    rustix::thread::set_no_new_privs(true)?;
    seccompiler::apply_filter(&without_clone3()?)?;
    seccompiler::apply_filter(&program)?;
    Err(Command::new(first).args(rest).exec().into())
}
