//! The network trie.

use std::{collections::BTreeMap, net::IpAddr};

use agentnet_common::{
    abi::{RULESET_LOCAL, RULESET_RESOLVER, RULESET_SPECIAL},
    verdict::RuleId,
};

use super::{
    NetEntry,
    grants::{Findings, Grants},
};
use crate::policy::{
    net::Net,
    special,
    validate::{Rule, Valid},
};

/// A node before it is resolved.
#[derive(Default)]
struct Node<'a> {
    rules: Vec<(RuleId, &'a Rule)>,
    /// `RULESET_*` of a special-purpose network.
    special: Option<u16>,
    /// `RULESET_*` that the node has by itself, and none inside.
    own: u16,
}

/// A resolved node.
struct Resolved {
    net: Net,
    grants: Grants,
    flags: u16,
}

/// The nodes of the rules of `valid`, of the special-purpose networks of a host that has the addresses `local`, and
/// of its `resolvers`, sorted by prefix length, then address.
pub(super) fn compile(
    valid: &Valid,
    local: &[IpAddr],
    resolvers: &[IpAddr],
    findings: &mut Findings,
) -> Vec<NetEntry> {
    let mut nodes: BTreeMap<Net, Node<'_>> = BTreeMap::new();
    nodes.entry(Net::ROOT).or_default();
    nodes.entry(Net::V4).or_default();
    for special in special::networks(local) {
        let flags = if special.local { RULESET_SPECIAL | RULESET_LOCAL } else { RULESET_SPECIAL };
        *nodes.entry(special.net).or_default().special.get_or_insert(0) |= flags;
    }
    for &resolver in resolvers {
        nodes.entry(Net::host(resolver)).or_default().own = RULESET_RESOLVER;
    }
    for (id, rule) in valid.numbered() {
        if let Some(net) = rule.net() {
            nodes.entry(net).or_default().rules.push((id, rule));
        }
    }

    // The order of `Net` has each network behind those it is in: the last ones that contain it are on the
    // stack.
    let mut stack: Vec<Resolved> = Vec::new();
    let mut entries = Vec::with_capacity(nodes.len());
    for (net, node) in nodes {
        while stack.last().is_some_and(|outer| !outer.net.contains(net)) {
            stack.pop();
        }
        let (outer, inherited) = match stack.last() {
            // A rule for IPv6 networks says nothing about IPv4.
            Some(outer) if outer.net.is_v4() == net.is_v4() => (outer.grants.clone(), outer.flags),
            _ => (Grants::default(), 0),
        };
        let (outer, flags) = match node.special {
            Some(flags) => (outer.fenced(), flags),
            None => (outer, inherited),
        };
        let grants = outer.with(&node.rules, findings, || net.to_string());
        entries.push(NetEntry {
            addr: net.addr(),
            prefix: net.prefix(),
            rules: grants.ruleset(flags | node.own),
        });
        stack.push(Resolved { net, grants, flags });
    }
    entries.sort_by_cached_key(super::lookup::net_order);
    entries
}
