//! `agentnet engine`: started by `agentnet run`, not by people.

use std::{path::PathBuf, process::ExitCode};

use crate::engine::process;

/// Arguments of `agentnet engine`.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct EngineArgs {
    /// Connect to the client that listens at this socket, and go on in a process of its own
    #[arg(long, value_name = "SOCKET")]
    rendezvous: Option<PathBuf>,
    /// Serve the client at the other end of standard input
    #[arg(long)]
    connected: bool,
}

/// Runs the engine.
///
/// # Errors
/// If it is not root, or its client is not who it should be.
pub fn run(args: &EngineArgs) -> anyhow::Result<ExitCode> {
    match &args.rendezvous {
        Some(path) => process::connect(path)?,
        None => process::run()?,
    }
    Ok(ExitCode::SUCCESS)
}
