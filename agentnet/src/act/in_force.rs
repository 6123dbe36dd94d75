//! What was done by hand as the kernel looks it up, and as the verdict outside of it does.

use std::collections::{BTreeMap, BTreeSet};

use agentnet_common::{
    abi::{Grant, OPEN},
    addr::{Addr, Endpoint},
    verdict::Acts,
};

use super::Act;
use crate::policy::net::Net;

/// What holds for one agent at one moment, by a plain scan.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    acts: Vec<Act>,
    now: u64,
}

impl InForce {
    /// Of `acts`, all of which are the agent's, those that hold at `now`, nanoseconds of `CLOCK_BOOTTIME`.
    pub const fn new(acts: Vec<Act>, now: u64) -> Self {
        Self { acts, now }
    }

    fn live(&self) -> impl Iterator<Item = &Act> {
        self.acts.iter().filter(|act| !act.is_over(self.now))
    }

    /// The act that blocks `addr`: the one for the narrowest network.
    pub fn block(&self, addr: &Addr) -> Option<&Act> {
        let host = Net::of(*addr, 128);
        let covering = self.live().filter(|act| act.blocks().is_some_and(|net| net.covers(host)));
        covering.max_by_key(|act| act.blocks().map(Net::prefix))
    }

    /// The act that blocks `name`: the one for the longest name.
    pub fn block_name(&self, name: &str) -> Option<&Act> {
        let above = |blocked: &str| {
            name.strip_suffix(blocked).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let covering = self.live().filter(|act| act.blocks_name().is_some_and(above));
        covering.max_by_key(|act| act.blocks_name().map(str::len))
    }

    /// The act that allows `endpoint`.
    pub fn grant(&self, endpoint: &Endpoint) -> Option<&Act> {
        self.live()
            .find(|act| act.allows().is_some_and(|allowed| allowed.endpoints().any(|own| own == *endpoint)))
    }

    /// The act that quarantines the agent.
    pub fn quarantine(&self) -> Option<&Act> {
        self.live().find(|act| act.what == super::What::Quarantine)
    }
}

impl Acts for InForce {
    fn is_blocked(&self, _agent: u32, addr: &Addr) -> bool {
        self.block(addr).is_some()
    }

    fn is_granted(&self, _agent: u32, endpoint: &Endpoint, is_local: bool) -> bool {
        self.grant(endpoint).and_then(Act::allows).is_some_and(|allowed| !is_local || allowed.local)
    }
}

/// The nodes of the kernel's trie for these blocks, with their values.
///
/// The kernel finds the longest match alone, so each node says until when anything that covers it holds: a block for
/// a single address that ends must not open what a network around it closes. Networks of IPv6 that hold the space
/// in which IPv4 is mapped say nothing about IPv4, which gets a node of its own.
pub fn nodes<'a>(acts: impl IntoIterator<Item = &'a Act>) -> BTreeMap<Net, u64> {
    let blocks: Vec<(Net, u64)> =
        acts.into_iter().filter_map(|act| Some((act.blocks()?, act.expiry))).collect();
    let mut nets: BTreeSet<Net> = blocks.iter().map(|(net, _)| *net).collect();
    if nets.iter().any(|net| net.contains(Net::V4) && !net.is_v4()) {
        nets.insert(Net::V4);
    }
    let latest = |net: Net| {
        let covering = blocks.iter().filter(|(block, _)| block.covers(net)).map(|(_, expiry)| *expiry);
        // No end is the latest.
        covering.max_by_key(|expiry| if *expiry == 0 { u64::MAX } else { *expiry }).unwrap_or(OPEN)
    };
    nets.into_iter().map(|net| (net, latest(net))).collect()
}

/// The entries of the kernel's table for what is allowed: the endpoints, and each address alone.
pub fn grants<'a>(acts: impl IntoIterator<Item = &'a Act>) -> BTreeMap<Endpoint, Grant> {
    let mut entries: BTreeMap<Endpoint, Grant> = BTreeMap::new();
    for act in acts {
        let Some(allowed) = act.allows() else { continue };
        let grant = Grant { expiry: act.expiry, act: act.id, is_local: u32::from(allowed.local) };
        for endpoint in allowed.endpoints() {
            for key in [endpoint, Endpoint::new(endpoint.addr, 0, 0)] {
                let entry = entries.entry(key).or_insert(grant);
                if entry.expiry < grant.expiry {
                    *entry = grant;
                }
            }
        }
    }
    entries
}
