//! `agentnet block` and `agentnet unblock`: addresses that nothing may be sent to, whatever policies allow.

use std::{process::ExitCode, time::Duration};

use super::by_hand::{self, Words};
use crate::{
    act::{self, Blocked, Deed, Order},
    agent::AgentName,
    policy::net::Net,
};

/// Arguments of `agentnet block`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A block wins over every rule, over what was allowed by hand, over connections that are open, which are closed, and over \
whoever connects into the agent. It holds also for an agent whose policy only audits.")]
pub struct BlockArgs {
    /// An address or a network, such as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32
    #[arg(value_name = "ADDRESS", value_parser = act::net)]
    net: Net,
    /// For this agent only; without it for every agent, also those that begin later
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// For how long, such as 2h; without it until it is taken back
    #[arg(long = "for", value_name = "TIME", value_parser = by_hand::length)]
    length: Option<Duration>,
    #[command(flatten)]
    words: Words,
}

/// Arguments of `agentnet unblock`.
#[derive(Clone, Debug, clap::Args)]
pub struct UnblockArgs {
    /// What was blocked, as it was written then; or the name that a detector has blocked
    #[arg(value_name = "ADDRESS", value_parser = act::blocked)]
    what: Blocked,
    /// The agent that it was blocked for; without it what was blocked for every agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    #[command(flatten)]
    words: Words,
}

/// Has engines block it.
///
/// # Errors
/// If there is none, or one refuses.
pub fn block(args: BlockArgs) -> anyhow::Result<ExitCode> {
    let BlockArgs { net, agent, length, words } = args;
    let deed = Deed::Block { net, seconds: length.map(|length| length.as_secs()) };
    by_hand::give(&Order { agent, deed, reason: words.reason }, words.json)
}

/// Has engines take it back.
///
/// # Errors
/// If there is none, or it is not blocked.
pub fn unblock(args: UnblockArgs) -> anyhow::Result<ExitCode> {
    let UnblockArgs { what, agent, words } = args;
    let deed = match what {
        Blocked::Net(net) => Deed::Unblock { net },
        Blocked::Name(name) => Deed::UnblockName { name },
    };
    by_hand::give(&Order { agent, deed, reason: words.reason }, words.json)
}
