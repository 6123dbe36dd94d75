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
    protocol::{Failure, Ready, Reply, Report, Request, Run},
    rendezvous::{Rendezvous, RendezvousError},
};
use crate::{
    agent::{AgentName, borrowed::VARIABLES},
    programs,
};

/// Where the daemon answers.
pub const DAEMON_SOCKET: &str = "/run/agentnet/daemon/control.sock";

/// How long an engine may take to answer. Attaching and reloading destroy sockets, one listing of every network
/// namespace after the other.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// There is no daemon.
    #[error("no agentnet daemon is running; start it with `systemctl start agentnet` or `agentnet daemon`")]
    NoDaemon,
    /// The caller is an agent, and its policy closes the socket.
    #[error(
        "this process is under a policy itself, which closes agentnet's socket to it; if it is to have agents of its own, \
         add to that policy: [local] unix_allow = [\"{}\"]",
        .0.display()
    )]
    Governed(PathBuf),
    /// The engine answered something else.
    #[error("agentnet's engine answered something unexpected; are both of the same version?")]
    Unexpected,
    /// The engine refused.
    #[error(transparent)]
    Failure(#[from] Failure),
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

/// A connection to the engine that is to govern a child of this process: the daemon if there is one, else an
/// engine that this process starts.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    daemon: bool,
}

impl Session {
    /// Connects to the daemon.
    ///
    /// # Errors
    /// If it is there and does not answer.
    fn with_daemon() -> Result<Option<Self>> {
        let socket = Path::new(DAEMON_SOCKET);
        match connect(socket) {
            Ok(stream) => Ok(Some(Self { stream, daemon: true })),
            Err(ClientError::Frame(FrameError::Io(error))) if is_absence(&error) => Ok(None),
            // The kernel refuses before it looks whether there is one.
            Err(ClientError::Governed(_)) if !socket.exists() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the process behind `pidfd` governed: by the daemon, where there is one that this user may ask; else
    /// by an engine that is started for it, through sudo or doas if need be, which may ask for a password
    /// on the terminal.
    ///
    /// # Errors
    /// If there is no way to root, or it is refused; nothing is then changed.
    pub fn begin(run: &Run, pidfd: BorrowedFd<'_>) -> Result<(Self, Ready)> {
        if let Some(session) = Self::with_daemon()? {
            match session.run(run.clone(), pidfd) {
                Err(ClientError::Failure(failure)) if failure.denied => {
                    // Whoever may become root may have an engine of their own; the daemon's word is the better one
                    // for everybody else.
                    let session = match Self::start(&run.agent) {
                        Err(ClientError::NoRoot) => return Err(failure.into()),
                        started => started?,
                    };
                    let ready = session.run(run.clone(), pidfd)?;
                    return Ok((session, ready));
                }
                ready => return Ok((session, ready?)),
            }
        }
        let session = Self::start(&run.agent)?;
        let ready = session.run(run.clone(), pidfd)?;
        Ok((session, ready))
    }

    /// Whether the daemon is at the other end.
    pub const fn is_daemons(&self) -> bool {
        self.daemon
    }

    /// Starts an engine for `agent`: at once if this process is root, else through sudo or doas. Returns when
    /// the engine runs on its own.
    ///
    /// # Errors
    /// If there is no way to root, or it is refused, or the engine does not come.
    fn start(agent: &AgentName) -> Result<Self> {
        let rendezvous = Rendezvous::open()?;
        let (program, mut command) = engine_command()?;
        command.arg("--agent").arg(agent.as_str()).arg("--rendezvous").arg(rendezvous.path());
        // What the user types ahead is the agent's: a password is asked for on the terminal itself.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let spawned =
            command.status().map_err(|error| ClientError::Spawn { program: program.clone(), error });
        match spawned? {
            status if status.success() => Ok(Self { stream: rendezvous.accept()?, daemon: false }),
            status => Err(ClientError::Refused { program, status }),
        }
    }

    /// Has the process behind `pidfd` governed.
    ///
    /// # Errors
    /// If the engine refuses or is gone; nothing is then changed.
    fn run(&self, run: Run, pidfd: BorrowedFd<'_>) -> Result<Ready> {
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
pub fn status(socket: &Path) -> Result<Report> {
    match ask(socket, &Request::Status)? {
        Reply::Status(report) => Ok(*report),
        _ => Err(ClientError::Unexpected),
    }
}

/// Connects to the engine that listens at `socket`.
///
/// # Errors
/// If nobody listens there, or this process may not connect.
pub fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).map_err(|error| match error.raw_os_error() {
        // File permissions say EACCES.
        Some(libc::EPERM) => ClientError::Governed(socket.to_owned()),
        _ => FrameError::Io(error).into(),
    })
}

/// Asks the engine that listens at `socket` something that is answered once.
///
/// # Errors
/// If nobody answers there, or the answer is that it was not done.
pub fn ask(socket: &Path, request: &Request) -> Result<Reply> {
    let stream = connect(socket)?;
    peer::set_timeout(&stream, Some(PATIENCE)).map_err(FrameError::Io)?;
    frame::write(&stream, request)?;
    match frame::read(&stream)? {
        Some(Reply::Error(failure)) => Err(failure.into()),
        Some(reply) => Ok(reply),
        None => Err(ClientError::Ended),
    }
}

/// Asks the daemon to do something, and returns its sentence about what it did.
///
/// # Errors
/// If there is no daemon, or it refuses.
pub fn ask_daemon(request: &Request) -> Result<String> {
    match ask(Path::new(DAEMON_SOCKET), request) {
        Ok(Reply::Done(what)) => Ok(what),
        Ok(_) => Err(ClientError::Unexpected),
        Err(ClientError::Frame(FrameError::Io(error))) if is_absence(&error) => Err(ClientError::NoDaemon),
        Err(error) => Err(error),
    }
}

/// Replies to a request that goes on being answered, such as [`Request::Follow`].
#[derive(Debug)]
pub struct Following {
    stream: UnixStream,
}

impl Following {
    /// Asks the engine that listens at `socket`.
    ///
    /// # Errors
    /// If nobody listens there.
    pub fn begin(socket: &Path, request: &Request) -> Result<Self> {
        let stream = connect(socket)?;
        frame::write(&stream, request)?;
        Ok(Self { stream })
    }

    /// The next reply; `None` when the engine has ended or follows no more.
    ///
    /// # Errors
    /// If the connection fails, or the engine refuses.
    pub fn next(&self) -> Result<Option<Reply>> {
        match frame::read(&self.stream)? {
            Some(Reply::Error(failure)) => Err(failure.into()),
            reply => Ok(reply),
        }
    }
}

/// Whether nobody listens at a socket, or there is none.
pub fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
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
