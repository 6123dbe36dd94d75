//! Starting the agent's command: an invisible parent and a confined child.
//!
//! ```text
//! prepare()            parent: everything that allocates or can be refused early
//!   fork ─────────────► child: waits on a pipe, has run nothing of the command's
//! Pending              parent: the caller places `pid()` into the agent's cgroup
//! release() ──byte───► child: confinement, step by step, then execve
//!         ◄─failure──         (or end of file: execve succeeded)
//! Running              parent: forwards signals, follows stop and continue, reaps
//! ```
//!
//! The command keeps its environment, working directory, terminal, process group, umask and limits. Between
//! fork and exec only async-signal-safe code runs (`child`), since the process may have other threads.

mod caps;
mod child;
mod command;
mod confine;
mod fds;
mod identity;
mod landlock;
mod mounts;
mod seccomp;
mod signals;
mod supervise;

use std::ffi::OsString;
use std::io;

pub use confine::{Confinement, Status};
pub use fds::Closed;
pub use identity::{Identity, IdentityError};
pub use supervise::{Exit, Pending, Running, prepare};

use crate::exit;

/// What to start and how.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program: a path if it has a slash, else searched in the command's `PATH`.
    pub command: OsString,
    /// Its arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// What the child gives up before it runs the command, and whom it runs as.
    pub confinement: Confinement,
}

/// Why the command does not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No such program.
    #[error("{command}: command not found")]
    NotFound {
        /// The command as given.
        command: String,
    },
    /// The program exists and cannot be executed.
    #[error("{command}: cannot execute: {source}")]
    NotExecutable {
        /// The command as given.
        command: String,
        /// What `execve` said.
        source: io::Error,
    },
    /// A step between fork and exec failed, so the command was not run.
    #[error("{step}{}: {source}; the command was not started", on(.detail))]
    Step {
        /// What was being done.
        step: &'static str,
        /// The path or number it was done to; may be empty.
        detail: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard input, output or error is something an agent must not be handed.
    #[error(
        "{name} is {what}, through which data would leave unseen; redirect it to a file or a pipe, for \
         example with `| cat`"
    )]
    Stdio {
        /// `standard input` and so on.
        name: &'static str,
        /// What it is.
        what: &'static str,
    },
    /// The working directory lies on a file system that the command must not reach.
    #[error("the working directory is on {what}, which is kept from the agent; change to another directory")]
    WorkingDirectory {
        /// The file system.
        what: &'static str,
    },
    /// Started as root without the means to keep root off the cgroup file system.
    #[error(
        "uid 0 without CAP_SYS_ADMIN could move out of its cgroup and agentnet could not prevent it; start \
         it as an ordinary user or with CAP_SYS_ADMIN"
    )]
    CannotConfineRoot,
    /// This kernel lacks something that no agent is started without.
    #[error("this kernel has no {what}, without which no agent is started")]
    Unsupported {
        /// The facility.
        what: &'static str,
    },
    /// An argument or variable holds a NUL byte.
    #[error("{what} contains a NUL byte, which no program can be given")]
    Nul {
        /// Which one.
        what: String,
    },
    /// A system call of the parent's failed.
    #[error("cannot start the command: {what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl LaunchError {
    /// The exit code a shell user expects: 127 not found, 126 not executable, 125 for whatever is agentnet's own.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound { .. } => exit::NOT_FOUND,
            Self::NotExecutable { .. } => exit::NOT_EXECUTABLE,
            _ => exit::OWN_FAILURE,
        }
    }

    /// Makes the variant for a failed system call of the parent's; for `map_err`.
    fn system(what: &'static str) -> impl Fn(rustix::io::Errno) -> Self {
        move |errno| Self::System { what, source: errno.into() }
    }
}

/// `" on X"`, or nothing.
fn on(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
