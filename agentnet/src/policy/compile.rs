//! Valid -> Compiled: rules resolved into what the kernel looks up.

use agentnet_common::{
    abi::{NameNode, Ruleset},
    addr::Addr,
    name::NameKey,
    verdict::RuleId,
};

/// A policy as the kernel reads it, and what people are told about its rules.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The policy's name.
    pub name: String,
    /// `MODE_ENFORCE` or `MODE_AUDIT` of [`agentnet_common::abi`].
    pub mode: u8,
    /// `[local] loopback`, `LOCAL_*`.
    pub loopback: u8,
    /// `[local] listen`, `LOCAL_*`.
    pub listen: u8,
    /// `CFG_*`.
    pub flags: u8,
    /// Nodes of the network trie; the prefix length counts bits of the 128-bit (mapped) address. Holds
    /// `::/0` always.
    pub nets: Vec<NetEntry>,
    /// Nodes of the name trie.
    pub names: Vec<(NameKey, NameNode)>,
    /// Where each rule was written, by [`RuleId`].
    pub rules: Vec<RuleInfo>,
}

/// A node of the network trie.
#[derive(Clone, Copy, Debug)]
pub struct NetEntry {
    /// The network's address, host bits zero.
    pub addr: Addr,
    /// Prefix length in bits, 0 to 128.
    pub prefix: u8,
    /// What is allowed there.
    pub rules: Ruleset,
}

/// A rule as people know it.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its identifier.
    pub id: RuleId,
    /// One line that says what it allows, such as `10.20.0.0/16 tcp 5432, 8000-8099`.
    pub text: String,
    /// The file it is written in, or the name of a built-in policy.
    pub file: String,
    /// Line of the file, from 1.
    pub line: u32,
}
