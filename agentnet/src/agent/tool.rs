//! Programs of the host that are asked about it: `systemctl`, `podman`, `docker`, `crun`, `runc`.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

/// How long an answer may take. A container runtime that hangs must not hang what asks it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const LONGEST: u64 = 16 << 20;

/// Why a program did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It is not installed.
    #[error("{program} is not installed")]
    Missing {
        /// The program.
        program: String,
    },
    /// It took too long, and was ended.
    #[error("{program} did not answer within {} seconds", PATIENCE.as_secs())]
    Slow {
        /// The program.
        program: String,
    },
    /// It cannot be run.
    #[error("cannot run {program}: {error}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It failed.
    #[error("{program} failed: {}", if message.is_empty() { "it does not say why" } else { message })]
    Failed {
        /// The program.
        program: String,
        /// The last line it wrote about it.
        message: String,
    },
    /// Its answer is not what it should be.
    #[error("the answer of {program} cannot be understood: {message}")]
    Answer {
        /// The program.
        program: String,
        /// What is wrong with it.
        message: String,
    },
}

/// What a program answered.
#[derive(Debug)]
pub(super) struct Answer {
    program: String,
    success: bool,
    out: String,
    error: String,
}

impl Answer {
    /// What it wrote, whether or not it succeeded.
    pub(super) fn text(&self) -> &str {
        &self.out
    }

    /// What it wrote, if it succeeded.
    pub(super) fn ok(self) -> Result<String, ToolError> {
        if self.success { Ok(self.out) } else { Err(self.failure()) }
    }

    /// That it failed.
    pub(super) fn failure(&self) -> ToolError {
        let last = self.error.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        ToolError::Failed { program: self.program.clone(), message: last.trim().to_owned() }
    }

    /// That it makes no sense.
    pub(super) fn senseless(&self, why: &impl ToString) -> ToolError {
        ToolError::Answer { program: self.program.clone(), message: why.to_string() }
    }
}

/// Runs `program`, found by `PATH`, and waits for its answer, ten seconds at most.
pub(super) fn ask(program: &str, arguments: &[&str]) -> Result<Answer, ToolError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => ToolError::Missing { program: program.to_owned() },
        _ => ToolError::Run { program: program.to_owned(), error },
    };
    // Files, not pipes: nobody has to read while it runs, and a grandchild that keeps them open holds
    // nobody up.
    let (mut out, mut error) = (tempfile::tempfile().map_err(failed)?, tempfile::tempfile().map_err(failed)?);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(error.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let ended = wait(Pid::from_child(&child));
    if !matches!(ended, Ok(true)) {
        // Whatever comes of it, the child is not left behind.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    if !ended.map_err(|errno| failed(errno.into()))? {
        return Err(ToolError::Slow { program: program.to_owned() });
    }
    Ok(Answer {
        program: program.to_owned(),
        success: status.success(),
        out: read(&mut out).map_err(failed)?,
        error: read(&mut error).map_err(failed)?,
    })
}

/// Whether the child `pid` ended in time.
fn wait(pid: Pid) -> Result<bool, Errno> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_failures() {
        assert_eq!(ask("sh", &["-c", "echo yes; echo no >&2"]).unwrap().ok().unwrap(), "yes\n");
        let failed = ask("sh", &["-c", "echo half; echo first >&2; echo why >&2; exit 3"]).unwrap();
        assert_eq!(failed.text(), "half\n");
        assert_eq!(failed.ok().unwrap_err().to_string(), "sh failed: why");
        let missing = ask("agentnet-no-such-program", &[]).unwrap_err();
        assert!(matches!(missing, ToolError::Missing { .. }), "{missing}");
    }
}
