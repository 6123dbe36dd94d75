//! What is asked for by hand, and what comes of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Act, Transport};
use crate::{agent::AgentName, policy::net::Net};

/// Something that is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// To which agent; `None` for every one, which only blocks can be for.
    pub agent: Option<AgentName>,
    /// What.
    pub deed: Deed,
    /// Why, for whoever looks at it later.
    pub reason: Option<String>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Deed {
    /// Let it send this for a while, although its policy does not.
    Allow {
        /// As it was written, a name or an address.
        target: String,
        /// The addresses of the name, or the address.
        addresses: Vec<IpAddr>,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Transport,
        /// For how long.
        seconds: u64,
    },
    /// Take back what was allowed.
    Revoke {
        /// As it was written.
        target: String,
        /// The port.
        port: u16,
        /// The protocol.
        protocol: Transport,
    },
    /// Let nothing go to these addresses nor come from them.
    Block {
        /// The addresses.
        net: Net,
        /// For how long; without it until it is taken back.
        seconds: Option<u64>,
    },
    /// Take a block back.
    Unblock {
        /// What was blocked.
        net: Net,
    },
    /// Take the block of a name back.
    UnblockName {
        /// The name.
        name: String,
    },
    /// Let nothing be sent.
    Quarantine {
        /// For how long; without it until it is taken back.
        seconds: Option<u64>,
    },
    /// Take the quarantine back.
    Release,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acted {
    /// A sentence without its end.
    pub done: String,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
    /// What was done, or taken back.
    pub act: Option<Act>,
    /// The agents for which it holds now.
    pub agents: Vec<AgentName>,
    /// How many connections were closed.
    pub closed: usize,
}
