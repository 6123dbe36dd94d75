//! The side that asks.

use std::{
    env, io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use super::{
    frame::{self, FrameError},
    peer,
    protocol::{Failure, Ready, Reply, Request, Run, Status},
    rendezvous::{Rendezvous, RendezvousError},
};
use crate::{
    agent::{AgentName, borrowed::VARIABLES},
    programs,
};

/// How long an engine may take to answer [`Request::Status`].
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an engine was not reached or did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nothing gives root.
    #[error(
        "agentnet needs root for a moment, to set up the policy in the kernel, and found neither sudo nor \
         doas; install one of them or run agentnet as root"
    )]
    NoRoot,
    /// The program that gives root, or the engine behind it, cannot be started.
    #[error("cannot start {}: {error}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The program that gives root, or the engine behind it, said why it refuses.
    #[error(
        "{} did not start agentnet's engine ({status}), so nothing was changed and the command was not run; \
         use an account that may become root, or run agentnet as root",
        program.display()
    )]
    Refused {
        /// The program.
        program: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// They did not meet.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// The connection failed.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The engine ended.
    #[error("agentnet's engine ended without an answer; /var/lib/agentnet/engine.log may say why")]
    Ended,
    /// The engine answered something else.
    #[error("agentnet's engine answered something unexpected; are both of the same version?")]
    Unexpected,
    /// The engine refused.
    #[error(transparent)]
    Failure(#[from] Failure),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A connection to the engine that this process has started.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
}

impl Session {
    /// Starts an engine for `agent`: at once if this process is root, else through sudo or doas, which may ask for a
    /// password on the terminal. Returns when the engine runs on its own.
    ///
    /// # Errors
    /// If there is no way to root, or it is refused, or the engine does not come.
    pub fn start(agent: &AgentName) -> Result<Self> {
        let rendezvous = Rendezvous::open()?;
        let (program, mut command) = engine_command()?;
        command.arg("--agent").arg(agent.as_str()).arg("--rendezvous").arg(rendezvous.path());
        // What the user types ahead is the agent's: a password is asked for on the terminal itself.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned =
            command.status().map_err(|error| ClientError::Spawn { program: program.clone(), error });
        match spawned? {
            status if status.success() => Ok(Self { stream: rendezvous.accept()? }),
            status => Err(ClientError::Refused { program, status }),
        }
    }

    /// Has the process behind `pidfd` governed.
    ///
    /// # Errors
    /// If the engine refuses or is gone; nothing is then changed.
    pub fn run(&self, run: Run, pidfd: BorrowedFd<'_>) -> Result<Ready> {
        frame::write_with_fd(&self.stream, &Request::Run(run), pidfd)?;
        match frame::read(&self.stream)? {
            Some(Reply::Ready(ready)) => Ok(ready),
            Some(Reply::Error(failure)) => Err(failure.into()),
            Some(_) => Err(ClientError::Unexpected),
            None => Err(ClientError::Ended),
        }
    }

    /// The next reply; `None` when the engine is gone.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn next(&self) -> Result<Option<Reply>> {
        Ok(frame::read(&self.stream)?)
    }

    /// Says that the command has ended; a second time without `wait`, that what it has left running is not
    /// waited for any longer. Replies go on until [`Reply::Finished`].
    ///
    /// # Errors
    /// If the engine is gone.
    pub fn finish(&self, wait: bool) -> Result<()> {
        Ok(frame::write(&self.stream, &Request::Finish { wait })?)
    }
}

/// Asks the engine that listens at `socket` for its status.
///
/// # Errors
/// If nobody answers there, or the caller may not ask.
pub fn status(socket: &Path) -> Result<Status> {
    let stream = UnixStream::connect(socket).map_err(FrameError::Io)?;
    peer::set_timeout(&stream, Some(STATUS_TIMEOUT)).map_err(FrameError::Io)?;
    frame::write(&stream, &Request::Status)?;
    match frame::read(&stream)? {
        Some(Reply::Status(status)) => Ok(*status),
        Some(Reply::Error(failure)) => Err(failure.into()),
        Some(_) => Err(ClientError::Unexpected),
        None => Err(ClientError::Ended),
    }
}

/// The command that starts an engine, up to its own arguments, and the program that it runs.
fn engine_command() -> Result<(PathBuf, Command)> {
    let own = env::current_exe().map_err(|error| ClientError::Spawn { program: "agentnet".into(), error })?;
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new(&own);
        command.arg("engine");
        without_borrower(&mut command);
        return Ok((own, command));
    }
    let program = programs::elevator(env::var_os("PATH").as_deref()).ok_or(ClientError::NoRoot)?;
    let mut command = Command::new(&program);
    command.arg("--").arg(own).arg("engine");
    without_borrower(&mut command);
    Ok((program, command))
}

/// The engine's client is this process, whoever sudo or doas has turned into it.
fn without_borrower(command: &mut Command) {
    for variable in VARIABLES {
        command.env_remove(variable);
    }
}
