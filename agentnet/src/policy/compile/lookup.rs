//! Longest-prefix lookup in a [`Compiled`] policy: what the kernel's tries do, for the same verdict on the
//! user side.

use agentnet_common::{
    abi::{NameNode, Ruleset},
    addr::Addr,
    name::NameKey,
    verdict::{NameTables, Tables},
};

use super::{Compiled, NetEntry};
use crate::policy::net::Net;

/// The order of [`Compiled::nets`]: networks of the same prefix length are neighbours.
pub(super) fn net_order(entry: &NetEntry) -> (u8, [u8; 16]) {
    (entry.prefix, entry.addr.octets())
}

/// The networks of one policy, in their order.
#[derive(Clone, Debug, Default)]
pub struct Nets(Vec<NetEntry>);

impl Nets {
    /// Of nodes in any order, each network once.
    pub fn new(mut nodes: Vec<NetEntry>) -> Self {
        nodes.sort_by_key(net_order);
        Self(nodes)
    }
}

impl Tables for Nets {
    fn net(&self, _slot: u32, addr: &Addr) -> Option<&Ruleset> {
        longest(&self.0, addr)
    }
}

impl Tables for Compiled {
    /// There is one policy, whatever the slot.
    fn net(&self, _slot: u32, addr: &Addr) -> Option<&Ruleset> {
        longest(&self.nets, addr)
    }
}

/// A binary search for each prefix length that occurs, longest first.
fn longest<'a>(nets: &'a [NetEntry], addr: &Addr) -> Option<&'a Ruleset> {
    let mut shorter = nets;
    while let Some(longest) = shorter.last() {
        let wanted = (longest.prefix, Net::of(*addr, longest.prefix).addr().octets());
        if let Ok(at) = shorter.binary_search_by_key(&wanted, net_order) {
            return shorter.get(at).map(|entry| &entry.rules);
        }
        let end = shorter.partition_point(|entry| entry.prefix < longest.prefix);
        shorter = shorter.get(..end)?;
    }
    None
}

impl NameTables for Compiled {
    /// A binary search for the name and each name above it. There is one policy, whatever the slot.
    fn name(&self, _slot: u32, name: &NameKey) -> Option<&NameNode> {
        let mut key = name.as_bytes();
        loop {
            if let Ok(at) = self.names.binary_search_by(|(known, _)| known.as_bytes().cmp(key)) {
                return self.names.get(at).map(|(_, node)| node);
            }
            key = parent(key)?;
        }
    }
}

/// The key of the name above: without the first label, which is the last thing in the key, its length at
/// the very end.
pub(super) fn parent(key: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = key.split_last()?;
    let end = rest.len().checked_sub(agentnet_common::name::label_length(length))?;
    rest.get(..end)
}
