//! The parent of the command: started before it, unseen while it runs, gone after it.
//!
//! Parent and command share the process group, so the terminal's Ctrl-C, Ctrl-\ and Ctrl-Z reach the command
//! directly; the parent waits for what the command makes of them. Signals that a process sends are passed on.
//! When the command stops, the parent stops too, which is what the shell that started it looks at.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpgid, getpgrp, pidfd_open, pidfd_send_signal,
    waitpid,
};
use rustix::termios::{tcgetpgrp, tcsetpgrp};
use tokio::net::unix::pipe::Receiver;

use super::command::Command;
use super::signals::{self, AllBlocked, Received, Signals};
use super::{Closed, Launch, LaunchError, child};

/// Forks a child that waits to be released, and has run nothing of the command until then. If this process
/// dies before it releases the child, the child exits.
///
/// # Errors
/// [`LaunchError`] for whatever can be refused early: standard streams, working directory, arguments, a kernel
/// without the means. Nothing has been started then.
pub fn prepare(launch: &Launch) -> Result<Pending, LaunchError> {
    let (mut prepared, closed) = launch.confinement.prepare()?;
    let env = match launch.confinement.identity() {
        Some(identity) => identity.environment(std::env::vars_os()),
        None => std::env::vars_os().collect(),
    };
    let mut command = Command::new(&launch.command, &launch.args, &env)?;
    let signals =
        Signals::new().map_err(|source| LaunchError::System { what: "handling SIGCHLD", source })?;
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(LaunchError::system("making a pipe"));
    let (go_read, go_write) = pipe()?;
    let (status_read, status_write) = pipe()?;

    let blocked =
        AllBlocked::new().map_err(|source| LaunchError::System { what: "blocking signals", source })?;
    // SAFETY: the child calls `child::run`, which is async-signal-safe and never returns.
    let pid = match unsafe { libc::fork() } {
        -1 => {
            return Err(LaunchError::System { what: "fork", source: io::Error::last_os_error() });
        }
        0 => {
            // The parent's ends, or the child would wait for itself.
            drop(go_write);
            drop(status_read);
            child::run(&go_read, &status_write, &mut prepared, &mut command)
        }
        pid => Pid::from_raw(pid),
    };
    drop(blocked);
    let Some(pid) = pid else {
        return Err(LaunchError::System { what: "fork", source: io::ErrorKind::InvalidData.into() });
    };
    let held = Held { pid, go: Some(go_write) };
    let pidfd =
        pidfd_open(pid, PidfdFlags::empty()).map_err(LaunchError::system("opening a pidfd of the child"))?;
    let name = launch.command.display().to_string();
    Ok(Pending { held, pidfd, status: status_read, signals, closed, name })
}

/// A child that waits. Dropping it ends the child.
pub struct Pending {
    held: Held,
    pidfd: OwnedFd,
    status: OwnedFd,
    signals: Signals,
    closed: Vec<Closed>,
    name: String,
}

/// The child as long as it can be sent away.
struct Held {
    pid: Pid,
    /// The child exits when this is closed with nothing written.
    go: Option<OwnedFd>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.go.take().is_some() {
            let _ = reap(self.pid);
        }
    }
}

impl Pending {
    /// The child's process id, to be placed into the agent's cgroup.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.held.pid
    }

    /// The child's pidfd, to be sent to an engine that does the placing.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The inherited descriptors that the command does not get.
    #[must_use]
    pub fn closed(&self) -> &[Closed] {
        &self.closed
    }

    /// Lets the child confine itself and become the command, and waits until it has. From here on this process
    /// leaves SIGINT, SIGQUIT and SIGTSTP of the terminal to the command.
    ///
    /// # Errors
    /// [`LaunchError`] if a step failed or the command cannot be executed; the child is gone then.
    pub fn release(mut self) -> Result<Running, LaunchError> {
        self.signals
            .take_over()
            .map_err(|source| LaunchError::System { what: "handling signals", source })?;
        let pid = self.held.pid;
        if let Some(go) = self.held.go.take() {
            // EPIPE: the child is gone, as its status will say.
            match rustix::io::write(&go, &[1]) {
                Ok(_) | Err(Errno::PIPE) => {}
                Err(errno) => {
                    // Closed without a byte read, it ends the child.
                    drop(go);
                    let _ = reap(pid);
                    return Err(LaunchError::system("releasing the child")(errno));
                }
            }
        }
        match child::report(&self.status, &self.name) {
            Ok(None) => {
                let tty = rustix::fs::open(
                    c"/dev/tty",
                    rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                );
                Ok(Running {
                    pid,
                    pidfd: self.pidfd,
                    signals: self.signals,
                    tty: tty.ok(),
                    stopped: false,
                    exit: None,
                })
            }
            Ok(Some(error)) => {
                let _ = reap(pid);
                Err(error)
            }
            Err(source) => {
                let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
                let _ = reap(pid);
                Err(LaunchError::System { what: "reading the child's report", source })
            }
        }
    }
}

/// Waits for the end of a child.
fn reap(pid: Pid) -> io::Result<WaitStatus> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this status, 0..=255.
    Code(u8),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// What a shell says of it in `$?`: the status, or 128 + the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => u8::try_from(signal).map_or(u8::MAX, |n| n.saturating_add(128)),
        }
    }

    fn from_status(status: WaitStatus) -> Option<Self> {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(Self::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX))),
            (None, Some(signal)) => Some(Self::Signal(signal)),
            (None, None) => None,
        }
    }
}

/// The command, running.
///
/// One of three ways to live with it: [`Running::wait`] in a thread of its own, [`Running::exited`] in a
/// `select!`, or [`Running::step`] whenever [`Running::as_fd`] is readable.
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    signals: Signals,
    /// The controlling terminal, if there is one.
    tty: Option<OwnedFd>,
    stopped: bool,
    exit: Option<Exit>,
}

impl AsFd for Running {
    /// Readable when [`Running::step`] has something to do.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.fd()
    }
}

impl Running {
    /// The command's process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The command's pidfd.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Passes on what signals have arrived and follows the command's state. Returns how it ended, once it has;
    /// does not block, except that this process stops while the command is stopped.
    ///
    /// # Errors
    /// A failing system call; the command may still run then.
    pub fn step(&mut self) -> io::Result<Option<Exit>> {
        for received in self.signals.take()? {
            self.pass_on(received)?;
        }
        while self.exit.is_none() {
            let options = WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED;
            match waitpid(Some(self.pid), options) {
                Ok(None) => break,
                Ok(Some((_, status))) => self.follow(status)?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.exit)
    }

    /// Blocks until the command has ended.
    ///
    /// # Errors
    /// As [`Running::step`].
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.step()? {
                return Ok(exit);
            }
            match poll(&mut [PollFd::new(self, PollFlags::IN)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Blocks after the command's end until the other end of the pipe `done` is closed, or until this process
    /// is told to end: by Ctrl-C and Ctrl-\ of the terminal, its hangup, or a signal of a process. Returns
    /// whether it was. Ctrl-Z stops this process as it would any other.
    ///
    /// # Errors
    /// A failing system call.
    pub fn wait_for(&mut self, done: BorrowedFd<'_>) -> io::Result<bool> {
        // The Ctrl-C that ended the command may be noticed only now; it was not meant for the waiting.
        let mut received = self.signals.take()?;
        received.retain(|received| received.by_process);
        loop {
            for Received { signal, .. } in received {
                match signal {
                    libc::SIGTSTP => signals::stop_self(signal)?,
                    // What was ignored from the start (nohup, a background job of a script) stays so.
                    libc::SIGINT | libc::SIGQUIT | libc::SIGTERM | libc::SIGHUP
                        if !signals::is_ignored_at_start(signal) =>
                    {
                        return Ok(true);
                    }
                    _ => {}
                }
            }
            let mut fds = [PollFd::from_borrowed_fd(done, PollFlags::IN), PollFd::new(self, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [over, _] = fds.map(|fd| !fd.revents().is_empty());
            if over {
                return Ok(false);
            }
            received = self.signals.take()?;
        }
    }

    /// Resolves when the command has ended. Needs a runtime with I/O; may be dropped and called again.
    ///
    /// # Errors
    /// As [`Running::step`].
    pub async fn exited(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.step()? {
                return Ok(exit);
            }
            // A registration of its own each time finds the pipe as it is now: the bytes are `step`'s to read.
            let pipe = Receiver::from_owned_fd(self.as_fd().try_clone_to_owned()?)?;
            pipe.readable().await?;
        }
    }

    fn follow(&mut self, status: WaitStatus) -> io::Result<()> {
        if let Some(exit) = Exit::from_status(status) {
            self.exit = Some(exit);
        } else if let Some(signal) = status.stopping_signal() {
            self.stopped = true;
            self.stop_with_command(signal)?;
            self.resume()?;
        } else if status.continued() {
            self.stopped = false;
        }
        Ok(())
    }

    fn pass_on(&mut self, received: Received) -> io::Result<()> {
        match received.signal {
            // Whoever continues this process means the command. One that runs has had its own, if any.
            libc::SIGCONT => self.resume(),
            // The terminal sends to the whole foreground group: the command has it already.
            _ if !received.by_process => Ok(()),
            signal => self.send(signal),
        }
    }

    /// Stops this process the way the command was stopped, until it is continued.
    fn stop_with_command(&self, signal: i32) -> io::Result<()> {
        // A command with a process group of its own (an interactive shell) may own the terminal. Whoever
        // continues this process gives the terminal to this group, not knowing the other.
        let group = getpgid(Some(self.pid)).ok().filter(|&g| g != getpgrp());
        let owner = self.tty.as_ref().and_then(|tty| Some((tty, tcgetpgrp(tty).ok()?)));
        signals::stop_self(signal)?;
        if let (Some((tty, before)), Some(group)) = (owner, group)
            && before == group
            && tcgetpgrp(tty) == Ok(getpgrp())
        {
            // The group may have ended meanwhile; then the terminal is best left where it is.
            let _ = tcsetpgrp(tty, group);
        }
        Ok(())
    }

    /// Continues the command if it is stopped.
    fn resume(&mut self) -> io::Result<()> {
        if !self.stopped || self.exit.is_some() {
            return Ok(());
        }
        // A SIGCONT to the whole group has reached it already; a second one would make it redraw twice.
        match waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::CONTINUED) {
            Ok(Some((_, status))) => {
                self.stopped = false;
                self.follow(status)
            }
            _ => {
                self.stopped = false;
                self.send(libc::SIGCONT)
            }
        }
    }

    fn send(&self, signal: i32) -> io::Result<()> {
        let Some(signal) = Signal::from_named_raw(signal) else { return Ok(()) };
        match pidfd_send_signal(&self.pidfd, signal) {
            // Ended, which the next status says.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_a_shells() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Signal(libc::SIGKILL).code(), 137);
        assert_eq!(LaunchError::NotFound { command: "x".into() }.exit_code(), 127);
    }
}
