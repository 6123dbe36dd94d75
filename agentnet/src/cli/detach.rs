//! `agentnet detach`: let go of what was attached.

use std::process::ExitCode;

use crate::{
    agent::AgentName,
    control::{client, protocol::Request},
};

/// Arguments of `agentnet detach`.
#[derive(Clone, Debug, clap::Args)]
pub struct DetachArgs {
    /// The agent
    #[arg(value_name = "NAME")]
    agent: AgentName,
}

/// Asks the daemon to let an agent go.
///
/// # Errors
/// If there is no daemon, or it refuses.
pub fn run(args: DetachArgs) -> anyhow::Result<ExitCode> {
    super::say(&client::ask_daemon(&Request::Detach { agent: args.agent })?)?;
    Ok(ExitCode::SUCCESS)
}
