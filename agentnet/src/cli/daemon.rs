//! `agentnet daemon`: the engine that stays.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use tracing_subscriber::EnvFilter;

use super::check;
use crate::{
    config::DaemonConfig,
    control::{client, protocol::Request},
    engine::daemon,
    exit,
};

/// Arguments of `agentnet daemon`.
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonArgs {
    /// The configuration; by default /etc/agentnet/config.toml, if it is there
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say what is wrong with the configuration and the policies, and change nothing
    #[arg(long)]
    check: bool,
}

/// Runs the daemon in the foreground until it is told to end.
///
/// # Errors
/// If it cannot start, or a part of it ends that should not.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    if args.check {
        return check::run(args.config.as_deref());
    }
    let config = match DaemonConfig::load(args.config.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            // Without a standard error there is nobody to tell.
            let _ = writeln!(anstream::stderr(), "{}", problems.render(true));
            return Ok(ExitCode::from(exit::WRONG_USAGE));
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    daemon::run(&config)?;
    Ok(ExitCode::SUCCESS)
}

/// Has the daemon read every policy anew.
///
/// # Errors
/// If there is no daemon, or it refuses, or a policy is invalid.
pub fn reload() -> anyhow::Result<ExitCode> {
    super::say(&client::ask_daemon(&Request::Reload)?)?;
    Ok(ExitCode::SUCCESS)
}
