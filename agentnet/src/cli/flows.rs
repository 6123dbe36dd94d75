//! `agentnet flows`: what agents were let send, from the log and live.

use std::process::ExitCode;

use super::lines::{self, Wanted};
use crate::{agent::AgentName, store::Stream};

/// Arguments of `agentnet flows`.
#[derive(Clone, Debug, clap::Args)]
pub struct FlowsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since: how long ago (30s, 1h, 2d) or when (2026-11-22T10:00). With --follow nothing
    /// of before by default
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Print the lines of the log as they are: one JSON object each
    #[arg(long)]
    json: bool,
}

/// Shows flows.
///
/// # Errors
/// If they cannot be read or shown.
pub fn run(args: FlowsArgs) -> anyhow::Result<ExitCode> {
    let FlowsArgs { follow, since, agent, json } = args;
    lines::run(&Wanted { stream: Stream::Flows, follow, since, agent, min_severity: None, json })
}
