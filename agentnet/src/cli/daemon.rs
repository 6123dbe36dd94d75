//! `agentnet daemon`: the engine that stays.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use tracing_subscriber::EnvFilter;

use crate::{
    control::{client, protocol::Request},
    engine::daemon::{self, DaemonConfig},
};

/// Arguments of `agentnet daemon`.
#[derive(Clone, Debug, clap::Args)]
pub struct DaemonArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the daemon in the foreground until it is told to end.
///
/// # Errors
/// If it cannot start, or a part of it ends that should not.
pub fn run(args: &DaemonArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.config.is_none(), "this version reads no configuration; leave --config out");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(std::io::stderr)
        .init();
    daemon::run(&DaemonConfig::default(), || {})?;
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
