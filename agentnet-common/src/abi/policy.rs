//! What a policy is to the kernel, and what an agent is.

use crate::{addr::protocols, verdict::RuleId, wire};

/// Policy slots. A reload fills a free one, so one more than the policies in use.
pub const SLOTS: u32 = 256;
/// Rules of a policy file that can be told apart.
pub const MAX_RULES: usize = RuleId::FIRST_RESERVED as usize;
/// Port ranges at one node of the network or name trie.
pub const RULESET_ENTRIES: usize = 16;
/// `[local]`: nobody.
pub const LOCAL_DENY: u8 = 0;
/// `[local]`: the agent itself (`loopback`), this host (`listen`).
pub const LOCAL_OWN: u8 = 1;
/// `[local]`: everybody.
pub const LOCAL_ANY: u8 = 2;
/// Refuse what is not allowed.
pub const MODE_ENFORCE: u8 = 0;
/// Report what would be refused and let it through.
pub const MODE_AUDIT: u8 = 1;
/// Refuse everything.
pub const MODE_QUARANTINE: u8 = 2;
/// The policy has a rule for ICMP: ping sockets may be made.
pub const CFG_ICMP: u8 = 1;
/// `[local] unix = "any"`: without it only Unix sockets in [`maps::DOORS`](super::maps::DOORS) may be connected and sent to.
pub const CFG_UNIX_ANY: u8 = 0x20;
/// The agent has entries in [`maps::BLOCKS`](super::maps::BLOCKS). Without it the map is not asked.
pub const CFG_BLOCKS: u8 = 2;
/// The agent has entries in [`maps::GRANTS`](super::maps::GRANTS). Without it the map is not asked.
pub const CFG_GRANTS: u8 = 4;

wire! {
    /// Who is governed by a cgroup and how; the value of cgroup storage, written as a whole.
    ///
    /// All zero between the attachment of a program and the first write: such a cgroup sends nothing.
    #[derive(Default)]
    pub struct AgentCfg {
        /// The agent, from 1 to [`MAX_AGENTS`] - 1.
        pub agent: u32,
        /// The policy slot.
        pub slot: u32,
        /// Counts changes: verdicts remembered under another generation are void.
        pub generation: u32,
        /// `MODE_*`.
        pub mode: u8,
        /// `[local] loopback`, `LOCAL_*`.
        pub loopback: u8,
        /// `[local] listen`, `LOCAL_*`.
        pub listen: u8,
        /// `CFG_*`.
        pub flags: u8,
    }
}

impl AgentCfg {
    /// Whether a policy was written at all.
    #[inline(always)]
    pub const fn is_configured(&self) -> bool {
        self.agent != 0
    }

    /// Whether `[local] listen` lets somebody at this place talk to the agent.
    #[inline(always)]
    pub const fn may_come_in(&self, on_this_host: bool) -> bool {
        if self.is_quarantined() {
            return false;
        }
        if on_this_host { self.listen >= LOCAL_OWN } else { self.listen >= LOCAL_ANY }
    }

    /// Whether nothing may be sent at all.
    #[inline(always)]
    pub const fn is_quarantined(&self) -> bool {
        self.mode == MODE_QUARANTINE
    }

    /// Whether something may have been blocked by hand.
    #[inline(always)]
    pub const fn has_blocks(&self) -> bool {
        self.flags & CFG_BLOCKS != 0
    }

    /// Whether something may have been allowed by hand.
    #[inline(always)]
    pub const fn has_grants(&self) -> bool {
        self.flags & CFG_GRANTS != 0
    }
}

wire! {
    /// One port range of a ruleset.
    #[derive(Default)]
    pub struct PortRule {
        /// First port, host byte order.
        pub first: u16,
        /// Last port, included.
        pub last: u16,
        /// The rule that allows it, see [`RuleId`].
        pub rule: u16,
        /// Set of protocols, see [`protocols`]; ports do not matter to ICMP.
        pub protocols: u8,
        /// What a TCP connection that a name opens has to speak, `SPEAKS_*`.
        pub speaks: u8,
    }
}

/// TLS, with the name of the server in the clear (RFC 6066, 3), whose rule is one that opened the address.
pub const SPEAKS_TLS: u8 = 1;
/// HTTP/1 (RFC 9112), whose requests have such a name as their host.
pub const SPEAKS_HTTP: u8 = 2;
/// TLS without a name may pass (`sni = "off"`); one that is there is held to the rules all the same.
pub const SPEAKS_UNNAMED: u8 = 4;
/// TLS with an encrypted ClientHello may pass (`ech = "allow"`): of its two names the outer one is held to the rules.
pub const SPEAKS_ECH: u8 = 8;
/// The node is inside a special-purpose network (RFC 6890 and the clouds' metadata addresses).
pub const RULESET_SPECIAL: u16 = 1;
/// The node is an address of this host.
pub const RULESET_LOCAL: u16 = 2;
/// A search list makes this name of one that a rule allows: it may be asked for, and its answer opens nothing.
pub const RULESET_SEARCH: u16 = 4;
/// The node is the address of a resolver: whatever goes there has to be a plain query, whatever the port.
pub const RULESET_RESOLVER: u16 = 8;

wire! {
    /// What is allowed at one node of a trie: the union of the rules of the node and its ancestors, denied
    /// ranges taken out.
    #[derive(Default)]
    pub struct Ruleset {
        /// Entries in use, at most [`RULESET_ENTRIES`].
        pub len: u16,
        /// `RULESET_*`.
        pub flags: u16,
        /// The ranges; for one protocol they do not overlap.
        pub rules: [PortRule; RULESET_ENTRIES],
    }
}

impl Ruleset {
    /// Whether the node is inside a special-purpose network.
    #[inline(always)]
    pub const fn is_special(&self) -> bool {
        self.flags & RULESET_SPECIAL != 0
    }

    /// Whether the node is an address of this host.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        self.flags & RULESET_LOCAL != 0
    }

    /// Whether the node is an address of a resolver.
    #[inline(always)]
    pub const fn is_resolver(&self) -> bool {
        self.flags & RULESET_RESOLVER != 0
    }

    /// Whether the name may be asked for and opens nothing.
    #[inline(always)]
    pub const fn is_search(&self) -> bool {
        self.flags & RULESET_SEARCH != 0
    }

    /// The rule that allows `port` (host byte order) over `protocol` (an IANA number).
    #[inline(always)]
    pub fn find(&self, protocol: u8, port: u16) -> Option<RuleId> {
        self.find_spoken(protocol, port).map(|(rule, _)| rule)
    }

    /// The same, with what has to be spoken, `SPEAKS_*`.
    #[inline(always)]
    pub fn find_spoken(&self, protocol: u8, port: u16) -> Option<(RuleId, u8)> {
        let set = protocols::of(protocol);
        let (mut found, mut speaks) = (RuleId::NONE.0, 0);
        // All entries, not `len` of them: unused ones have no protocol, and the bound stays constant for
        // the verifier.
        for entry in &self.rules {
            let fits = entry.protocols & set != 0
                && (set == protocols::ICMP || (entry.first <= port && port <= entry.last));
            if fits {
                found = entry.rule;
                speaks = entry.speaks;
            }
        }
        if found == RuleId::NONE.0 { None } else { Some((RuleId(found), speaks)) }
    }
}

wire! {
    /// One node of the name trie. Its key is a [`crate::name::NameKey`].
    #[derive(Default)]
    pub struct NameNode {
        /// Bytes of the node's own key: a name that is as long is this name, a longer one is below it.
        pub len: u32,
        /// For the name itself.
        pub this: Ruleset,
        /// For every name below it.
        pub below: Ruleset,
    }
}

impl NameNode {
    /// The rules for a name whose key is `len` bytes long, and for which this is the node of the longest suffix.
    #[inline(always)]
    pub const fn rules(&self, len: usize) -> &Ruleset {
        if self.len as usize == len { &self.this } else { &self.below }
    }
}

/// Bytes of the name of a Unix socket (`sun_path`, unix(7)).
pub const SUN_PATH: usize = 108;

wire! {
    /// A name that an agent may connect to, or a directory whose sockets it may. The key is the name and a NUL, or the
    /// path of the directory with its last slash; an abstract name is behind a NUL and ends anywhere.
    #[derive(Default)]
    pub struct Door {
        /// Bytes of the name; 0 for a directory.
        pub len: u32,
    }
}

/// Agents that one set of maps can govern; identifiers are smaller, and 0 is nobody.
pub const MAX_AGENTS: u32 = 256;
