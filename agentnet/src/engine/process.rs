//! How an engine becomes a process of its own.
//!
//! The client starts `agentnet engine --agent NAME --rendezvous PATH`, through sudo or doas if need be. That
//! process connects to the client, starts `agentnet engine --agent NAME --connected` with the connection as
//! its standard input and nothing else, and ends; so sudo ends too, and with it the terminal it may have
//! made. The second process has a session of its own: no Ctrl-C and no hangup of the client's terminal
//! reaches it. Both carry the agent's name, so that a list of processes says whose engine is whose.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use rustix::fs::Mode;

use super::{EngineError, STATE_DIRECTORY, make_directory, serve};
use crate::{
    agent::{
        AgentName,
        borrowed::{BorrowerError, borrower},
        cgroup::Hierarchy,
    },
    control::rendezvous::{self, RendezvousError},
};

/// The engine's own log begins anew at this size; one old one is kept.
const LOG_BYTES: u64 = 1 << 20;

/// Why an engine did not become a process of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Not root.
    #[error("the engine needs root; it is started by `agentnet run`, which asks for it")]
    NotRoot,
    /// Whoever used sudo or doas cannot be told.
    #[error(transparent)]
    Starter(#[from] BorrowerError),
    /// The client was not reached.
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    /// The second process did not come up.
    #[error("cannot start the engine's own process: {0}")]
    Spawn(#[source] io::Error),
    /// The process cannot be set apart from the one that started it.
    #[error("cannot set the engine apart: {0}")]
    Apart(#[source] io::Error),
}

type Result<T, E = ProcessError> = std::result::Result<T, E>;

/// The first process: connects to the client that listens at `path` and leaves the connection to the
/// second, which serves `agent`. Returns when that is on its own.
///
/// # Errors
/// See [`ProcessError`].
pub fn connect(path: &Path, agent: &AgentName) -> Result<()> {
    require_root()?;
    // Without sudo and doas root has started it.
    let starter = borrower()?.map_or(0, |borrower| borrower.uid);
    let client = rendezvous::connect(path, starter)?;
    let (mut ready, writer) = io::pipe().map_err(ProcessError::Spawn)?;
    let mut command = Command::new("/proc/self/exe");
    // Nothing of the user's environment or directory goes along.
    command
        .arg0("agentnet")
        .args(["engine", "--agent", agent.as_str(), "--connected"])
        .env_clear()
        .current_dir("/");
    command.stdin(OwnedFd::from(client)).stdout(writer).stderr(Stdio::null());
    command.spawn().map_err(ProcessError::Spawn)?;
    // It holds the writing end of the pipe, which would never close.
    drop(command);
    ready.read_exact(&mut [0]).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ProcessError::Spawn(io::Error::other("it ended at once")),
        _ => ProcessError::Spawn(error),
    })
}

/// The second process: serves the client at the other end of its standard input.
///
/// # Errors
/// See [`ProcessError`]. What happens later is in the engine's own log.
pub fn run(agent: &AgentName) -> Result<()> {
    require_root()?;
    let client = set_apart().map_err(ProcessError::Apart)?;
    if let Err(error) = log_to(&PathBuf::from(STATE_DIRECTORY).join("engine.log")) {
        // There is nobody to tell, and without a log the agent is governed all the same.
        drop(error);
    }
    std::panic::set_hook(Box::new(
        |info| tracing::error!(%info, "panicked; the agent stays under its policy"),
    ));
    if let Err(error) = leave_cgroup() {
        tracing::debug!(%error, "the engine stays in its client's cgroup");
    }
    match serve::serve(agent, &client) {
        Ok(()) => {}
        Err(EngineError::Start(error)) => tracing::warn!(%agent, %error, "refused"),
        Err(error) => tracing::error!(%agent, %error, "stopped"),
    }
    Ok(())
}

fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(ProcessError::NotRoot) }
}

/// Leaves the session and the standard streams of whoever started this process, and tells it so.
fn set_apart() -> io::Result<UnixStream> {
    // Directories are made with a mode that is meant, whatever the user's mask.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid()?;
    let client = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    let mut ready = io::stdout().lock();
    ready.write_all(b"\n").and_then(|()| ready.flush())?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(client)
}

/// Moves to the top of the hierarchy: the end of the user's session, which kills its cgroup where logind is
/// told to, must not take the engine along.
fn leave_cgroup() -> Result<(), crate::agent::cgroup::CgroupError> {
    let hierarchy = Hierarchy::find()?;
    let own = rustix::process::getpid().as_raw_nonzero().get();
    hierarchy.top().place(&hierarchy, own)
}

/// Lets `tracing` write to `path`.
fn log_to(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_directory(parent, 0o755)?;
    }
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    let file: File = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(Arc::new(file)).init();
    Ok(())
}
