//! `agentnet quarantine` and `agentnet release`: an agent that may send nothing at all.

use std::{process::ExitCode, time::Duration};

use super::by_hand::{self, Words};
use crate::{
    act::{Deed, Order},
    agent::AgentName,
};

/// Arguments of `agentnet quarantine`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Every connection of the agent is closed and nothing leaves it any more, to itself neither. Its processes go on. The \
quarantine outlives the daemon, and a new policy does not end it.")]
pub struct QuarantineArgs {
    /// The agent
    #[arg(value_name = "NAME")]
    agent: AgentName,
    /// For how long, such as 2h; without it until it is released. It ends when the daemon says so: one that does not
    /// run ends nothing
    #[arg(long = "for", value_name = "TIME", value_parser = by_hand::length)]
    length: Option<Duration>,
    #[command(flatten)]
    words: Words,
}

/// Arguments of `agentnet release`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReleaseArgs {
    /// The agent
    #[arg(value_name = "NAME")]
    agent: AgentName,
    #[command(flatten)]
    words: Words,
}

/// Has the agent's engine quarantine it.
///
/// # Errors
/// If there is none, or it refuses.
pub fn quarantine(args: QuarantineArgs) -> anyhow::Result<ExitCode> {
    let QuarantineArgs { agent, length, words } = args;
    let deed = Deed::Quarantine { seconds: length.map(|length| length.as_secs()) };
    by_hand::give(&Order { agent: Some(agent), deed, reason: words.reason }, words.json)
}

/// Has the agent's engine release it.
///
/// # Errors
/// If there is none, or the agent is not in quarantine.
pub fn release(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let ReleaseArgs { agent, words } = args;
    by_hand::give(&Order { agent: Some(agent), deed: Deed::Release, reason: words.reason }, words.json)
}
