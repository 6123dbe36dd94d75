//! The name trie.
//!
//! A resolver that has a search list asks for `api.example.com.corp.example` where `api.example.com` is meant, and
//! gives up where that is refused. So what a rule allows may be asked for with each search domain behind it, too:
//! such a name opens nothing, unless rules allow it by itself, and a deny rule for it wins.

use std::collections::BTreeMap;

use agentnet_common::{
    abi::{NameNode, RULESET_SEARCH},
    name::{KEY_BYTES, NameKey},
    verdict::RuleId,
};

use super::{
    MOST_NAMES,
    grants::{Findings, Grants},
    lookup::parent,
};
use crate::policy::{
    name::Name,
    validate::{Rule, Valid},
};

/// Bytes of the longest key: a name has 255 on the wire, one of which is the root's.
const LONGEST: usize = 254;

/// A node before it is resolved.
#[derive(Default)]
struct Node<'a> {
    this: Vec<(RuleId, &'a Rule)>,
    below: Vec<(RuleId, &'a Rule)>,
}

/// A resolved node.
struct Resolved {
    key: Vec<u8>,
    this: Grants,
    below: Grants,
}

/// The nodes of the names in the rules of `valid`, also with each domain of `search` behind them, in the order of
/// their keys.
pub(super) fn compile(valid: &Valid, search: &[Name], findings: &mut Findings) -> Vec<(NameKey, NameNode)> {
    let mut nodes: BTreeMap<Vec<u8>, Node<'_>> = BTreeMap::new();
    for (id, rule) in valid.numbered() {
        let Some(name) = rule.name() else { continue };
        let node = nodes.entry(name.key().as_bytes().to_vec()).or_default();
        if name.is_below() { &mut node.below } else { &mut node.this }.push((id, rule));
    }
    let search: Vec<_> = search.iter().map(|suffix| suffix.key().as_bytes().to_vec()).collect();
    let names: Vec<_> = nodes.keys().cloned().collect();
    if names.len().saturating_mul(search.len() + 1) > MOST_NAMES {
        // Some may be the same: counted only where it matters.
        let expanded =
            search.iter().flat_map(|suffix| names.iter().map(move |name| [&**suffix, name].concat()));
        let all: std::collections::BTreeSet<_> = expanded.chain(names.iter().cloned()).collect();
        if all.len() > MOST_NAMES {
            findings.too_many_names = Some(all.len());
            return Vec::new();
        }
    }
    for suffix in &search {
        for name in &names {
            let expanded = [&**suffix, name].concat();
            if expanded.len() <= LONGEST {
                nodes.entry(expanded).or_default();
            }
        }
    }
    let resolved = resolve(nodes, findings);
    let entries = resolved.iter().map(|node| {
        let (this, below) = asked_by_search(node, &search, &resolved);
        let flags = |asked| if asked { RULESET_SEARCH } else { 0 };
        let key = key(&node.key);
        // At most 254.
        let len = u32::try_from(key.len).unwrap_or_default();
        (key, NameNode { len, this: node.this.ruleset(flags(this)), below: node.below.ruleset(flags(below)) })
    });
    entries.collect()
}

/// What holds at each node and below it, in the order of the keys.
fn resolve(nodes: BTreeMap<Vec<u8>, Node<'_>>, findings: &mut Findings) -> Vec<Resolved> {
    // A name's key begins with the keys of the names above it, so in the order of the keys they come first
    // and the last ones that fit are on the stack.
    let mut stack: Vec<usize> = Vec::new();
    let mut resolved: Vec<Resolved> = Vec::with_capacity(nodes.len());
    for (key, node) in nodes {
        let is_above = |at: &usize| resolved.get(*at).is_some_and(|above| key.starts_with(&above.key));
        while stack.last().is_some_and(|at| !is_above(at)) {
            stack.pop();
        }
        let above = stack.last().and_then(|at| resolved.get(*at));
        let above = above.map(|node| node.below.clone()).unwrap_or_default();
        let place = |rules: &[(RuleId, &Rule)]| {
            rules.first().map(|(_, rule)| rule.target.to_string()).unwrap_or_default()
        };
        let this = above.with(&node.this, findings, || place(&node.this));
        let below = above.with(&node.below, findings, || place(&node.below));
        stack.push(resolved.len());
        resolved.push(Resolved { key, this, below });
    }
    resolved
}

/// Whether a search list makes the name of `node`, and names below it, of names that are allowed.
fn asked_by_search(node: &Resolved, search: &[Vec<u8>], all: &[Resolved]) -> (bool, bool) {
    let (mut this, mut below) = (false, false);
    for shorter in search.iter().filter_map(|suffix| node.key.strip_prefix(&**suffix)) {
        this |=
            !shorter.is_empty() && at(shorter, all).is_some_and(|grants| grants.leave_something(&node.this));
        below |= beneath(shorter, all).is_some_and(|grants| grants.leave_something(&node.below));
    }
    (this, below)
}

fn find<'a>(key: &[u8], all: &'a [Resolved]) -> Option<&'a Resolved> {
    let at = all.binary_search_by(|node| node.key.as_slice().cmp(key)).ok()?;
    all.get(at)
}

/// What holds at the name of this key.
fn at<'a>(key: &[u8], all: &'a [Resolved]) -> Option<&'a Grants> {
    match find(key, all) {
        Some(node) => Some(&node.this),
        None => beneath(parent(key)?, all),
    }
}

/// What holds below the name of this key.
fn beneath<'a>(mut key: &[u8], all: &'a [Resolved]) -> Option<&'a Grants> {
    loop {
        if let Some(node) = find(key, all) {
            return Some(&node.below);
        }
        key = parent(key)?;
    }
}

fn key(bytes: &[u8]) -> NameKey {
    let mut key = NameKey { len: bytes.len(), bytes: [0; KEY_BYTES] };
    for (slot, byte) in key.bytes.iter_mut().zip(bytes) {
        *slot = *byte;
    }
    key
}
