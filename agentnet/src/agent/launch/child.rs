//! The child between fork and exec. Whatever runs here is async-signal-safe: it allocates nothing, takes no
//! lock and does not panic. What it needs was made before the fork.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::LaunchError;
use super::command::Command;
use super::confine::Prepared;
use super::signals;
use crate::exit;

/// The exit status of a child that never ran the command; seen by nobody unless its parent died.
const NOT_STARTED: i32 = exit::OWN_FAILURE as i32;

/// What the child was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    NoNewPrivileges = 1,
    MountNamespace,
    MountList,
    ReadOnly,
    Cover,
    Isolation,
    BoundingSet,
    Identity,
    Capabilities,
    SystemCallFilter,
    Exec,
}

impl Step {
    const ALL: [Self; 11] = [
        Self::NoNewPrivileges,
        Self::MountNamespace,
        Self::MountList,
        Self::ReadOnly,
        Self::Cover,
        Self::Isolation,
        Self::BoundingSet,
        Self::Identity,
        Self::Capabilities,
        Self::SystemCallFilter,
        Self::Exec,
    ];

    /// For the sentence `<name> (<detail>): <error>`.
    fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "cannot set no_new_privs",
            Self::MountNamespace => "cannot give the command a mount namespace of its own",
            Self::MountList => "cannot read /proc/self/mountinfo",
            Self::ReadOnly => "cannot make a mount read-only for the command",
            Self::Cover => "cannot hide a mount from the command",
            Self::Isolation => "cannot put the command into a Landlock domain",
            Self::BoundingSet => "cannot limit the capability bounding set",
            Self::Identity => "cannot take on the user's identity",
            Self::Capabilities => "cannot drop capabilities",
            Self::SystemCallFilter => "cannot install the system call filter",
            Self::Exec => "cannot execute the command",
        }
    }
}

/// How many bytes of a path a report carries.
const DETAIL: usize = 112;

/// Why the child gives up.
#[derive(Clone, Copy)]
pub(super) struct Failure {
    step: Step,
    errno: i32,
    length: u16,
    detail: [u8; DETAIL],
}

impl Failure {
    pub(super) fn new(step: Step, errno: Errno) -> Self {
        Self { step, errno: errno.raw_os_error(), length: 0, detail: [0; DETAIL] }
    }

    /// With the path concerned, cut off where it is too long.
    pub(super) fn at(step: Step, errno: Errno, path: &[u8]) -> Self {
        let mut this = Self::new(step, errno);
        for (to, from) in this.detail.iter_mut().zip(path) {
            *to = *from;
            this.length += 1;
        }
        this
    }

    /// Returns a closure for `map_err`.
    pub(super) fn during(step: Step) -> impl Fn(Errno) -> Self {
        move |errno| Self::new(step, errno)
    }

    /// Writes the report as one record.
    fn send(&self, pipe: &OwnedFd) {
        let mut record = [0u8; 7 + DETAIL];
        let head = [self.step as u8]
            .into_iter()
            .chain(self.errno.to_ne_bytes())
            .chain(self.length.to_ne_bytes())
            .chain(self.detail);
        for (to, from) in record.iter_mut().zip(head) {
            *to = from;
        }
        let _ = rustix::io::write(pipe, &record);
    }

    /// Reads back what [`Failure::send`] wrote; `None` if it is no such record.
    fn receive(record: &[u8]) -> Option<Self> {
        let (&step, rest) = record.split_first()?;
        let step = Step::ALL.into_iter().find(|s| *s as u8 == step)?;
        let (errno, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let detail = *rest.first_chunk::<DETAIL>()?;
        Some(Self { step, errno: i32::from_ne_bytes(*errno), length: u16::from_ne_bytes(*length), detail })
    }

    fn into_error(self, command: &str) -> LaunchError {
        let source = io::Error::from_raw_os_error(self.errno);
        let detail = self.detail.get(..usize::from(self.length)).unwrap_or_default();
        match (self.step, self.errno) {
            (Step::Exec, libc::ENOENT) => LaunchError::NotFound { command: command.to_owned() },
            (Step::Exec, _) => LaunchError::NotExecutable { command: command.to_owned(), source },
            (step, _) => LaunchError::Step {
                step: step.name(),
                detail: String::from_utf8_lossy(detail).into_owned(),
                source,
            },
        }
    }
}

/// Waits for the child's report: `None` when it has become the command.
pub(super) fn report(pipe: &OwnedFd, command: &str) -> io::Result<Option<LaunchError>> {
    let mut record = [0u8; 7 + DETAIL];
    loop {
        match rustix::io::read(pipe, &mut record) {
            Ok(0) => return Ok(None),
            Ok(n) => {
                return match record.get(..n).and_then(Failure::receive) {
                    Some(failure) => Ok(Some(failure.into_error(command))),
                    None => Err(io::Error::from(io::ErrorKind::InvalidData)),
                };
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The child's whole life until the command takes over.
///
/// `go` is read until the parent writes (proceed) or is gone (exit); `status` takes the report.
pub(super) fn run(go: &OwnedFd, status: &OwnedFd, prepared: &mut Prepared, command: &mut Command) -> ! {
    signals::restore_as_at_start();
    let mut byte = [0u8; 1];
    let released = loop {
        match rustix::io::read(go, &mut byte) {
            Ok(n) => break n == 1,
            Err(Errno::INTR) => {}
            Err(_) => break false,
        }
    };
    if released {
        let failure = match prepared.apply() {
            Ok(()) => Failure::new(Step::Exec, Errno::from_raw_os_error(command.exec())),
            Err(failure) => failure,
        };
        failure.send(status);
    }
    // SAFETY: ends the process at once; nothing of the parent's is flushed or destroyed twice.
    unsafe { libc::_exit(NOT_STARTED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_was_sent() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        for step in Step::ALL {
            Failure::at(step, Errno::PERM, b"/sys/fs/cgroup").send(&write);
            let error = report(&read, "cmd").unwrap().unwrap();
            if step == Step::Exec {
                assert!(matches!(error, LaunchError::NotExecutable { .. }));
            } else {
                assert!(error.to_string().contains("(/sys/fs/cgroup): Operation not permitted"), "{error}");
                assert_eq!(error.exit_code(), 125);
            }
        }
        let long = [b'x'; 2 * DETAIL];
        Failure::at(Step::Cover, Errno::NOENT, &long).send(&write);
        assert!(report(&read, "cmd").unwrap().unwrap().to_string().contains(&"x".repeat(DETAIL)));
        drop(write);
        assert!(report(&read, "cmd").unwrap().is_none());
    }
}
