//! The name trie.

use std::collections::BTreeMap;

use agentnet_common::{
    abi::NameNode,
    name::{KEY_BYTES, NameKey},
    verdict::RuleId,
};

use super::grants::{Findings, Grants};
use crate::policy::validate::{Rule, Valid};

/// A node before it is resolved.
#[derive(Default)]
struct Node<'a> {
    this: Vec<(RuleId, &'a Rule)>,
    below: Vec<(RuleId, &'a Rule)>,
}

/// The nodes of the names in the rules of `valid`, in the order of their keys.
pub(super) fn compile(valid: &Valid, findings: &mut Findings) -> Vec<(NameKey, NameNode)> {
    let mut nodes: BTreeMap<Vec<u8>, Node<'_>> = BTreeMap::new();
    for (id, rule) in valid.numbered() {
        let Some(name) = rule.name() else { continue };
        let node = nodes.entry(name.key().as_bytes().to_vec()).or_default();
        if name.is_below() { &mut node.below } else { &mut node.this }.push((id, rule));
    }

    // A name's key begins with the keys of the names above it, so in the order of the keys they come first
    // and the last ones that fit are on the stack.
    let mut stack: Vec<(Vec<u8>, Grants)> = Vec::new();
    let mut entries = Vec::with_capacity(nodes.len());
    for (bytes, node) in nodes {
        while stack.last().is_some_and(|(above, _)| !bytes.starts_with(above)) {
            stack.pop();
        }
        let above = stack.last().map(|(_, grants)| grants.clone()).unwrap_or_default();
        let place = |rules: &[(RuleId, &Rule)]| {
            rules.first().map(|(_, rule)| rule.target.to_string()).unwrap_or_default()
        };
        let this = above.with(&node.this, findings, || place(&node.this));
        let below = above.with(&node.below, findings, || place(&node.below));
        let key = key(&bytes);
        // At most 254.
        let len = u32::try_from(key.len).unwrap_or_default();
        entries.push((key, NameNode { len, this: this.ruleset(0), below: below.ruleset(0) }));
        stack.push((bytes, below));
    }
    entries
}

fn key(bytes: &[u8]) -> NameKey {
    let mut key = NameKey { len: bytes.len(), bytes: [0; KEY_BYTES] };
    for (slot, byte) in key.bytes.iter_mut().zip(bytes) {
        *slot = *byte;
    }
    key
}
