//! `agentnet engine`: started by `agentnet run`, not by people.

use std::{path::PathBuf, process::ExitCode};

use crate::{agent::AgentName, engine::process};

/// Arguments of `agentnet engine`.
#[derive(Clone, Debug, clap::Args)]
pub struct EngineArgs {
    /// Name of the agent
    #[arg(long, value_name = "NAME")]
    agent: AgentName,
    /// Connect to the client that listens at this socket, and go on in a process of its own
    #[arg(long, value_name = "SOCKET", conflicts_with = "connected", required_unless_present = "connected")]
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
        Some(path) => process::connect(path, &args.agent)?,
        None => process::run(&args.agent)?,
    }
    Ok(ExitCode::SUCCESS)
}
