//! `agentnet run`: a command, and everything it starts, under a policy.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::fd::AsFd as _,
    path::PathBuf,
    process::ExitCode,
};

use super::{complain, policies};
use crate::{
    agent::{
        AgentName,
        launch::{Confinement, Identity, Launch, LaunchError, Pending, Status, prepare},
    },
    control::{
        client::{ClientError, Session},
        protocol::{Failure, Ready, Run},
    },
    exit::{OWN_FAILURE, WRONG_USAGE},
    programs,
};

mod screen;
mod stderr;

use screen::Screen;

/// Arguments of `agentnet run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// The policy: a name, or a file (with a slash in its path, or ending in .toml). Without one nothing is
    /// blocked, and at the end a policy is printed that would allow what was seen
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Block nothing; report what the policy would refuse
    #[arg(long)]
    audit: bool,
    /// Name of the agent; by default the command's, with four random digits
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Append alerts to this file as JSON lines, or show them on standard error with `-`. May be given twice
    #[arg(long, value_name = "FILE")]
    alerts: Vec<PathBuf>,
    /// At the end wait for what the command has left running, instead of killing it; Ctrl-C ends the waiting
    #[arg(long)]
    wait: bool,
    /// Show JSON lines on standard error instead of text
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command. The exit code is its own, or 125 if agentnet failed, 126 if it cannot be executed, 127
/// if there is none, 2 for an invalid policy.
pub fn run(args: &RunArgs) -> ExitCode {
    match execute(args) {
        Ok(code) | Err(Stop::Told(code)) => ExitCode::from(code),
        Err(Stop::Because(failure)) => {
            complain(&failure.message);
            ExitCode::from(failure.exit)
        }
    }
}

/// Why the command was not run.
enum Stop {
    /// The user knows.
    Told(u8),
    /// The user is to be told.
    Because(Failure),
}

impl Stop {
    fn own(error: impl std::fmt::Display) -> Self {
        Self::Because(Failure::new(error.to_string()).exit(OWN_FAILURE))
    }
}

impl From<LaunchError> for Stop {
    fn from(error: LaunchError) -> Self {
        Self::Because(Failure::new(error.to_string()).exit(error.exit_code()))
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Failure(failure) => Self::Because(failure),
            error => Self::own(error),
        }
    }
}

fn execute(args: &RunArgs) -> Result<u8, Stop> {
    let Some((command, arguments)) = args.command.split_first() else {
        return Err(Stop::Told(WRONG_USAGE));
    };
    // Everything that can be wrong without root is found before anybody is asked for a password.
    let policy = args
        .policy
        .as_deref()
        .map(|policy| policies::source(policy, args.json))
        .transpose()
        .map_err(Stop::Told)?;
    find(command, env::var_os("PATH").as_deref())?;
    let agent = match &args.agent {
        Some(agent) => agent.clone(),
        None => AgentName::for_command(command, random()?),
    };
    let mut screen = Screen::open(&args.alerts, args.json)?;
    let confinement = Confinement::new(Identity::of_borrower().map_err(Stop::own)?);
    let launch = Launch { command: command.clone(), args: arguments.to_vec(), confinement };
    let pending = prepare(&launch)?;

    let run = Run { agent, policy, audit: args.audit };
    let (session, ready) = Session::begin(&run, pending.pidfd())?;
    announce(&mut screen, &ready, &launch.confinement, &pending);

    let mut running = match pending.release() {
        Ok(running) => running,
        Err(error) => {
            // What was set up for it is taken down before this is said.
            if session.finish(false).is_ok() {
                while matches!(session.next(), Ok(Some(reply)) if !screen::is_last(&reply)) {}
            }
            return Err(error.into());
        }
    };
    let (followed, following) = std::io::pipe().map_err(Stop::own)?;
    let exit = std::thread::scope(|scope| {
        let (screen, session) = (&mut screen, &session);
        let follower = scope.spawn(move || {
            screen.follow(session);
            drop(following);
        });
        let exit = running.wait();
        // An engine that is gone is noticed by the follower.
        let _ = session.finish(args.wait);
        if args.wait && !matches!(running.wait_for(followed.as_fd()), Ok(false)) {
            let _ = session.finish(false);
        }
        let _ = follower.join();
        exit
    });
    let learn = args.policy.is_none();
    screen.close(&ready, learn);
    exit.map(crate::agent::launch::Exit::code)
        .map_err(|error| Stop::own(format!("cannot wait for the command: {error}")))
}

/// Looks whether there is such a command at all; whether it can be executed is for the kernel to say.
fn find(command: &OsStr, path: Option<&OsStr>) -> Result<(), LaunchError> {
    if programs::candidates(command, path).iter().any(|file| file.exists()) {
        Ok(())
    } else {
        Err(LaunchError::NotFound { command: command.to_string_lossy().into_owned() })
    }
}

fn random() -> Result<u16, Stop> {
    let mut bytes = [0; 2];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(Stop::own)?;
    Ok(u16::from_ne_bytes(bytes))
}

/// Says what holds before the command has the terminal.
fn announce(screen: &mut Screen, ready: &Ready, confinement: &Confinement, pending: &Pending) {
    screen.ready(ready);
    if let Some(identity) = confinement.identity() {
        for note in identity.notes() {
            screen.note(&note);
        }
    }
    for closed in pending.closed() {
        screen.note(&format!("descriptor {} is {} and is not passed to the command", closed.fd, closed.what));
    }
    for (step, status) in confinement.describe() {
        if let Status::Partial(what) | Status::Unavailable(what) = status {
            screen.note(&format!("{step}: {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_looked_for_where_exec_looks() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tool");
        std::fs::write(&file, "").unwrap();
        let path = Some(directory.path().as_os_str());
        assert!(find(OsStr::new("tool"), path).is_ok());
        assert!(find(OsStr::new("other"), path).is_err());
        assert!(find(file.as_os_str(), Some(OsStr::new(""))).is_ok(), "a path is not searched for");
        assert!(find(&directory.path().join("other").into_os_string(), path).is_err());
        assert!(find(OsStr::new("./tool"), path).is_err(), "a path with a slash is not searched for");
        assert!(find(OsStr::new(""), path).is_err());
        let error = find(OsStr::new("other"), path).unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (127, "other: command not found"));
    }
}
