//! Running operations: each in a process of its own, so that a hang or a changed identity stays there.

use std::{
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use super::{Args, Failure, Outcome, Report, Request, Step as _, find};

/// How long one operation may take.
const LIMIT: Duration = Duration::from_secs(8);

/// Runs an operation by its name.
pub fn one(name: &str, args: &Args) -> Report {
    match find(name) {
        Some(operation) => operation.report(args),
        None => {
            Report::new(name, args.to, Err(Failure::new("unknown operation", io::ErrorKind::Unsupported)))
        }
    }
}

/// Runs operations one after the other, each in a child, and writes a line for each.
///
/// # Errors
/// Of writing to `output`.
pub fn suite(requests: &[Request], output: &mut impl io::Write) -> io::Result<()> {
    for request in requests {
        let report = in_child(&request.op, request.args.to, || one(&request.op, &request.args));
        serde_json::to_writer(&mut *output, &report)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

/// Runs `body` in a child process and returns what it reported.
pub fn in_child(name: &str, to: SocketAddr, body: impl FnOnce() -> Report) -> Report {
    let lost = |error: io::Error| Report::new(name, to, Err(error).step("child"));
    let (reader, writer) = match rustix::pipe::pipe() {
        Ok(ends) => ends,
        Err(error) => return lost(error.into()),
    };
    match fork() {
        Err(error) => lost(error),
        Ok(None) => {
            drop(reader);
            tell(writer, &body());
            exit_now();
        }
        Ok(Some(child)) => {
            drop(writer);
            let report = hear(reader).unwrap_or_else(lost);
            let _ = kill_process(child, Signal::KILL);
            let _ = waitpid(Some(child), WaitOptions::empty());
            report
        }
    }
}

/// Like [`in_child`], for operations that are made of others.
pub(super) fn outcome_in_child(body: impl FnOnce() -> Outcome) -> Outcome {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let report = in_child("child", nowhere, || Report::new("child", nowhere, body()));
    outcome_of(&report)
}

/// A report read back as the outcome it was made from.
pub(super) fn outcome_of(report: &Report) -> Outcome {
    if report.ok {
        return Ok(report.bytes);
    }
    let error = match report.errno {
        0 => io::Error::other(report.error.clone()),
        errno => io::Error::from_raw_os_error(errno),
    };
    Err(error).step("in child")
}

/// `fork(2)`: `None` in the child.
///
/// The probe never has a second thread when it calls this, so the child may do what it likes.
pub(super) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: no other thread exists, hence no lock is held by one that the child lacks.
    let pid = crate::sys::check(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid))
}

/// Ends a forked child without running what its parent registered for its own end.
pub(super) fn exit_now() -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(0) }
}

pub(super) fn tell(pipe: OwnedFd, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = std::fs::File::from(pipe).write_all(&line);
    }
}

/// Reads a report until its newline: a grandchild may keep the pipe open.
pub(super) fn hear(pipe: OwnedFd) -> io::Result<Report> {
    let end = Instant::now() + LIMIT;
    let mut file = std::fs::File::from(pipe);
    let mut line = Vec::new();
    let mut buffer = [0; 1024];
    while !line.ends_with(b"\n") {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let got = file.read(&mut buffer)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&buffer[..got]);
    }
    serde_json::from_slice(&line).map_err(Into::into)
}
