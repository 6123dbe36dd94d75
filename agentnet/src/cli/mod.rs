//! The command line: arguments and printing, nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::exit;

pub mod alerts;
pub mod allow;
pub mod attach;
pub mod block;
mod by_hand;
pub mod check;
pub mod daemon;
pub mod detach;
pub mod doctor;
pub mod engine;
pub mod flows;
mod lines;
mod policies;
pub mod policy;
pub mod quarantine;
pub mod replay;
pub mod reset;
pub mod run;
pub mod scan;
pub mod status;
pub mod verify;

/// Watch and control what AI agents on this host send to the network.
#[derive(Debug, Parser)]
#[command(name = "agentnet", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command, and everything it starts, under a policy
    Run(run::RunArgs),
    /// Govern many agents, and stay
    Daemon(daemon::DaemonArgs),
    /// Put what runs already under a policy
    Attach(attach::AttachArgs),
    /// Let go of what was attached
    Detach(detach::DetachArgs),
    /// Have the daemon read every policy anew
    Reload,
    /// Let an agent send something for a while that its policy does not
    Allow(allow::AllowArgs),
    /// Let nothing be sent to an address, whatever policies allow
    Block(block::BlockArgs),
    /// Take a block back
    Unblock(block::UnblockArgs),
    /// Let an agent send nothing at all
    Quarantine(quarantine::QuarantineArgs),
    /// Take a quarantine back
    Release(quarantine::ReleaseArgs),
    /// Give up what is enforced and nobody looks after any more
    Reset(reset::ResetArgs),
    /// Show what is governed, and whether it is really enforced
    Status(status::StatusArgs),
    /// Show what agents tried and what was done about it
    Alerts(alerts::AlertsArgs),
    /// Show what agents were let send
    Flows(flows::FlowsArgs),
    /// Check policies, and explain what they decide
    Policy(policy::PolicyArgs),
    /// Show what the detectors find in a capture
    Replay(replay::ReplayArgs),
    /// Give a verdict on each line of a list
    Scan(scan::ScanArgs),
    /// Show what this kernel and host can do, what is missing, and how to get it
    Doctor(doctor::DoctorArgs),
    /// What `cargo xtask verify` asks
    #[command(hide = true)]
    Verify(verify::VerifyArgs),
    /// What `run` starts as root
    #[command(hide = true)]
    Engine(engine::EngineArgs),
}

impl Command {
    /// Whether it deals with agents of this host, so that what dead engines have left is in its way. An
    /// engine sees to that by itself.
    const fn is_about_agents(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Status(_))
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if cli.command.is_about_agents() && rustix::process::geteuid().is_root() {
        collect();
    }
    let done = match cli.command {
        Command::Run(args) => return run::run(&args),
        Command::Engine(args) => engine::run(&args),
        Command::Daemon(args) => daemon::run(&args),
        Command::Attach(args) => attach::run(args),
        Command::Detach(args) => detach::run(args),
        Command::Reload => daemon::reload(),
        Command::Allow(args) => allow::run(args),
        Command::Block(args) => block::block(args),
        Command::Unblock(args) => block::unblock(args),
        Command::Quarantine(args) => quarantine::quarantine(args),
        Command::Release(args) => quarantine::release(args),
        Command::Reset(args) => reset::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Alerts(args) => alerts::run(args),
        Command::Flows(args) => flows::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Replay(args) => replay::run(&args),
        Command::Scan(args) => scan::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Verify(args) => verify::run(&args),
    };
    done.unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        ExitCode::FAILURE
    })
}

/// Prints what clap has to say; it says to which stream and with which exit code.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is not worth another message.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(exit::WRONG_USAGE) } else { ExitCode::SUCCESS }
}

/// Clears what engines have left that died.
fn collect() {
    match crate::engine::host::collect() {
        Ok(collected) => {
            for (name, result) in collected {
                match result {
                    Ok(()) => complain(&format!(
                        "agent {name} had ended without its engine; cleared what was left of it"
                    )),
                    Err(error) => complain(&format!(
                        "agent {name} has ended without its engine and cannot be cleared, so its policy stays: {error}"
                    )),
                }
            }
        }
        Err(error) => complain(&error.to_string()),
    }
}

/// Writes what was done to standard output.
///
/// # Errors
/// If it cannot be written.
fn say(text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    writeln!(anstream::stdout(), "{text}")
}

/// Writes one line about agentnet itself to standard error.
pub(crate) fn complain(text: &str) {
    use std::io::Write as _;
    // Without a standard error there is nobody to tell.
    let _ = writeln!(anstream::stderr(), "agentnet: {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
