//! `agentnet allow`: let an agent send something for a while that its policy does not.

use std::{
    net::{IpAddr, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;

use super::by_hand::{self, Words};
use crate::{
    act::{Deed, Host, Order, Target, Transport},
    agent::AgentName,
};

/// Arguments of `agentnet allow`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
A grant ends by itself, in the kernel, whether the daemon runs then or not. It speaks only where the policy has no \
rule: what a deny rule denies stays denied. Loopback, metadata services and other special-purpose networks are allowed \
only by their addresses, not by a name.")]
pub struct AllowArgs {
    /// What to allow: an address or a name with a port, such as 203.0.113.7:443, `[2001:db8::7]:443` or
    /// api.example.com:443. A name is looked up once, now
    #[arg(value_name = "TARGET:PORT")]
    target: Target,
    /// The agent
    #[arg(long, value_name = "NAME")]
    agent: AgentName,
    /// For how long, such as 10m; a week at most
    #[arg(long = "for", value_name = "TIME", value_parser = by_hand::length, required_unless_present = "revoke")]
    length: Option<Duration>,
    /// Over which protocol
    #[arg(long, value_enum, default_value_t)]
    protocol: Transport,
    /// Take it back before its time
    #[arg(long, conflicts_with = "length")]
    revoke: bool,
    #[command(flatten)]
    words: Words,
}

/// Has the agent's engine allow it.
///
/// # Errors
/// If the name has no address, or the engine refuses.
pub fn run(args: AllowArgs) -> anyhow::Result<ExitCode> {
    let AllowArgs { target, agent, length, protocol, revoke, words } = args;
    let (text, port) = (target.text(), target.port);
    let deed = match length {
        Some(length) if !revoke => {
            // Looking up a name may take long, and an engine has others to answer meanwhile.
            let addresses = addresses(&target)?;
            Deed::Allow { target: text, addresses, port, protocol, seconds: length.as_secs() }
        }
        _ => Deed::Revoke { target: text, port, protocol },
    };
    by_hand::give(&Order { agent: Some(agent), deed, reason: words.reason }, words.json)
}

fn addresses(target: &Target) -> anyhow::Result<Vec<IpAddr>> {
    let name = match &target.host {
        Host::Address(ip) => return Ok(vec![*ip]),
        Host::Name(name) => name,
    };
    let found = (name.as_str(), target.port).to_socket_addrs();
    let found = found.with_context(|| format!("cannot look up {name}; allow its address instead"))?;
    let mut addresses: Vec<IpAddr> = found.map(|socket| socket.ip().to_canonical()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}
