//! THE decision: whether an agent may send to an endpoint.
//!
//! One function, compiled into every hook and used by `policy explain`, `replay` and the property tests.
//! It reads the policy through [`Tables`], which the kernel implements on maps and the user side on plain
//! collections.

use crate::{
    abi::{AgentCfg, LOCAL_ANY, LOCAL_DENY, NameNode, Ruleset},
    addr::{Addr, Endpoint, protocol},
    codes,
    name::NameKey,
};

/// A rule of the policy by its index, or one of the reserved identifiers below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct RuleId(pub u16);

impl RuleId {
    /// Rules of a policy have smaller identifiers.
    pub const FIRST_RESERVED: u16 = 0xff00;
    /// `[local] loopback`: a listener of the same agent.
    pub const OWN_LISTENER: Self = Self(0xff01);
    /// `[local] loopback = "any"`: a listener of somebody else on this host.
    pub const ANY_LISTENER: Self = Self(0xff02);
    /// `[local] listen`: the reply to a peer that was let in.
    pub const REPLY: Self = Self(0xff03);
    /// No rule: the operation sends nothing (a UDP connect to port 0 only asks for a route).
    pub const NOTHING_SENT: Self = Self(0xff04);
    /// `[dns] resolvers`: a resolver, to which only DNS queries for allowed names may be sent.
    pub const RESOLVER: Self = Self(0xff05);
    /// Allowed by hand, until a certain time. To be judged with every packet: nobody but the time ends it.
    pub const GRANT: Self = Self(0xff06);
    /// `[local] unix`, `unix_allow`: a Unix socket.
    pub const UNIX: Self = Self(0xff07);
    /// No rule applies.
    pub const NONE: Self = Self(0xffff);

    /// Whether this names a rule of the policy file.
    pub const fn is_policy_rule(self) -> bool {
        self.0 < Self::FIRST_RESERVED
    }
}

codes! {
    /// Why something was refused. The codes are stable: alerts and counters carry them. 15 is free.
    ///
    /// Two bytes like [`RuleId`], so that both variants of [`Verdict`] fill the same register: what one variant
    /// leaves undefined, LLVM may spill and the verifier refuses to see read.
    pub enum Reason: u16 {
        /// No rule of the policy allows the endpoint.
        NoRule = 1 => "no_rule",
        /// A special-purpose network (link-local, metadata, private, multicast, ...) that no rule names.
        SpecialNetwork = 2 => "special_network",
        /// A listener on this host that is not the agent's own.
        ForeignListener = 3 => "foreign_listener",
        /// Somebody who may not connect into the agent, `[local] listen`.
        ListenDenied = 4 => "listen_denied",
        /// The address is allowed, the port or protocol is not.
        PortOrProtocol = 5 => "port_or_protocol",
        /// An IPv4 header with options (source routing and the like).
        IpOptions = 6 => "ip_options",
        /// A fragment: the kernel filters before it fragments, so only raw sockets make these.
        Fragment = 7 => "fragment",
        /// An IPv6 extension or routing header before the transport header.
        ExtensionHeader = 8 => "extension_header",
        /// A transport protocol that no rule can name.
        UnknownProtocol = 9 => "unknown_protocol",
        /// A packet that cannot be parsed.
        Malformed = 10 => "malformed",
        /// A raw socket.
        RawSocket = 11 => "raw_socket",
        /// A ping socket without a rule for ICMP.
        PingSocket = 12 => "ping_socket",
        /// A socket of another kind than TCP and UDP (MPTCP, UDP-Lite, SCTP, ...).
        SocketType = 13 => "socket_type",
        /// A socket option that would let packets pass the hooks by.
        SocketOption = 14 => "socket_option",
        /// A packet without a socket.
        NoSocket = 16 => "no_socket",
        /// The socket's storage could not be made.
        StorageFull = 17 => "storage_full",
        /// The policy slot holds no policy.
        NoPolicy = 18 => "no_policy",
        /// An ICMP message other than an echo request or reply.
        IcmpType = 19 => "icmp_type",
        /// An address family that the hooks cannot read, or a frame that is neither IP nor what a link needs:
        /// another EtherType, a VLAN tag.
        Family = 20 => "family",
        /// The agent is in quarantine.
        Quarantined = 21 => "quarantined",
        /// A name that no rule allows.
        NameNotAllowed = 22 => "name_not_allowed",
        /// Something that came in and answers nothing the agent was allowed to send.
        Unsolicited = 23 => "unsolicited",
        /// A DNS message that is no plain query: header, counts, labels, bytes behind its end.
        DnsMalformed = 24 => "dns_malformed",
        /// A DNS query of a type or class that no rule can allow.
        DnsType = 25 => "dns_type",
        /// A DNS query with EDNS options that carry data, or with padding that is not zero.
        DnsOption = 26 => "dns_option",
        /// A DNS query with upper-case letters, which carry a bit each.
        DnsCase = 27 => "dns_case",
        /// A DNS query whose bytes the process could still change.
        DnsShared = 28 => "dns_shared",
        /// There was no room to judge a DNS message in, or to remember what it is about.
        DnsRoom = 29 => "dns_room",
        /// A Unix socket that the policy does not name.
        UnixSocket = 30 => "unix_socket",
        /// An address that was blocked by hand.
        Blocked = 31 => "blocked",
        /// A server name in TLS that is none by which the address was opened.
        TlsName = 32 => "tls_name",
        /// A ClientHello without a server name.
        TlsNoName = 33 => "tls_no_name",
        /// A ClientHello whose server name may be another than the one in the clear: Encrypted Client Hello.
        TlsEncrypted = 34 => "tls_encrypted",
        /// A ClientHello that offers early data, behind which a second one could not be told from it.
        TlsEarly = 35 => "tls_early",
        /// Something else than TLS where TLS has to be spoken.
        TlsNot = 36 => "tls_not",
        /// A handshake of TLS that is malformed, too long, or whose server name is no host name.
        TlsMalformed = 37 => "tls_malformed",
        /// Bytes that were not judged before they were sent, on a connection that has to say a name in TLS.
        TlsUnjudged = 38 => "tls_unjudged",
        /// Bytes to a resolver that no socket has sent whose queries are judged: a frame of the agent's own making.
        DnsUnjudged = 39 => "dns_unjudged",
    }
}

/// Number of slots in arrays indexed by [`Reason`]; the highest code is smaller.
pub const REASON_SLOTS: usize = 64;

/// What was decided.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let through, by this rule.
    Allow(RuleId),
    /// Refused, for this reason.
    Deny(Reason),
}

/// The port of DNS (RFC 1035, 4.2).
pub const DNS_PORT: u16 = 53;

/// Where an endpoint is, as far as only the place that decides can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Not on this host.
    Remote,
    /// On this host, a listener of the same agent.
    OwnListener,
    /// On this host, somebody else's listener or none.
    ForeignListener,
}

/// The policy as the verdict reads it.
pub trait Tables {
    /// The node of the longest prefix that holds `addr`, among the networks of policy `slot`. The root
    /// (`::/0`) is always there; `None` means that the slot holds no policy.
    fn net(&self, slot: u32, addr: &Addr) -> Option<&Ruleset>;

    /// The rule by which a name that the agent has resolved to this address allows the endpoint. `None` where nobody
    /// keeps what was resolved.
    #[inline(always)]
    fn pinned(&self, _cfg: &AgentCfg, _endpoint: &Endpoint) -> Option<RuleId> {
        None
    }

    /// The rule by which the name of this hash allows the endpoint, however long ago it was resolved: for a connection
    /// that has been open since. `None` where nobody keeps what was resolved.
    #[inline(always)]
    fn still_named(&self, _cfg: &AgentCfg, _name: u64, _endpoint: &Endpoint) -> Option<RuleId> {
        None
    }
}

/// The names of a policy as the verdict reads them.
pub trait NameTables {
    /// The node of the longest suffix of `name` that a rule of policy `slot` mentions.
    fn name(&self, slot: u32, name: &NameKey) -> Option<&NameNode>;
}

/// What was blocked and allowed by hand, as the verdict reads it.
pub trait Acts {
    /// Whether `agent` may not talk to `addr` at this moment, whatever its policy says.
    fn is_blocked(&self, agent: u32, addr: &Addr) -> bool;

    /// Whether `agent` may send to `endpoint` at this moment although its policy does not allow it; what is on
    /// this host only if the grant `is_local`, because it was written for that.
    fn is_granted(&self, agent: u32, endpoint: &Endpoint, is_local: bool) -> bool;
}

/// THE verdict: what was done by hand, what goes back to somebody who came (`reply`), and the policy, in their
/// order.
///
/// A block wins over everything, a reply included; a grant speaks only where the policy has nothing to say. The
/// tables of both are asked only for agents that have any. A deny rule looks like no rule here: whoever grants makes
/// sure that there is none. Names that were resolved are the policy's.
#[inline(always)]
pub fn judge<T: Tables, A: Acts + ?Sized>(
    tables: &T,
    acts: &A,
    cfg: &AgentCfg,
    endpoint: &Endpoint,
    scope: Scope,
    reply: bool,
) -> Verdict {
    if is_blocked(acts, cfg, &endpoint.addr) {
        return Verdict::Deny(Reason::Blocked);
    }
    if reply && !cfg.is_quarantined() {
        return Verdict::Allow(RuleId::REPLY);
    }
    let verdict = decide(tables, cfg, endpoint, scope);
    let silent = match verdict {
        Verdict::Deny(reason) => matches!(
            reason,
            Reason::NoRule | Reason::PortOrProtocol | Reason::SpecialNetwork | Reason::ForeignListener
        ),
        // What a resolver has besides DNS: no rule is about it, see [`held_to_call`].
        Verdict::Allow(rule) => rule.0 == RuleId::RESOLVER.0 && endpoint.port != DNS_PORT,
    };
    if silent && cfg.has_grants() && acts.is_granted(cfg.agent, endpoint, scope != Scope::Remote) {
        return Verdict::Allow(RuleId::GRANT);
    }
    verdict
}

/// Whether the agent of `cfg` may not talk to `addr`, because somebody has blocked it. Quarantine is a mode of its
/// own, and goes before.
#[inline(always)]
pub fn is_blocked<A: Acts + ?Sized>(acts: &A, cfg: &AgentCfg, addr: &Addr) -> bool {
    cfg.has_blocks() && !cfg.is_quarantined() && acts.is_blocked(cfg.agent, addr)
}

/// Decides by the policy alone whether the agent of `cfg` may send to `endpoint`; [`judge`] is the whole verdict.
///
/// An explicit network rule is asked first; `[local] loopback` speaks for what is on this host and is not
/// named by a rule. Whatever is not known to be allowed is denied.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, cfg: &AgentCfg, endpoint: &Endpoint, scope: Scope) -> Verdict {
    if cfg.is_quarantined() {
        return Verdict::Deny(Reason::Quarantined);
    }
    match scope {
        Scope::OwnListener if cfg.loopback != LOCAL_DENY => return Verdict::Allow(RuleId::OWN_LISTENER),
        Scope::ForeignListener if cfg.loopback == LOCAL_ANY => {
            return Verdict::Allow(RuleId::ANY_LISTENER);
        }
        _ => {}
    }
    let Some(rules) = tables.net(cfg.slot, &endpoint.addr) else {
        return Verdict::Deny(Reason::NoPolicy);
    };
    let local = scope != Scope::Remote;
    let resolver = rules.is_resolver() && matches!(endpoint.protocol, protocol::TCP | protocol::UDP);
    // Rules open what is on this host only where the policy knows that the address is this host's: an
    // address that appeared later must not turn a rule for a network into one for the host itself.
    let found = if local && !rules.is_local() { None } else { rules.find(endpoint.protocol, endpoint.port) };
    match found {
        Some(rule) => Verdict::Allow(rule),
        None if resolver => Verdict::Allow(RuleId::RESOLVER),
        None if local => Verdict::Deny(Reason::ForeignListener),
        // Wins over whatever a name was resolved to.
        None if rules.is_special() => Verdict::Deny(Reason::SpecialNetwork),
        None => match tables.pinned(cfg, endpoint) {
            Some(rule) => Verdict::Allow(rule),
            None if rules.len > 0 => Verdict::Deny(Reason::PortOrProtocol),
            None => Verdict::Deny(Reason::NoRule),
        },
    }
}

/// What [`decide`] says, of a call that names `endpoint`. What is then sent is decided packet by packet: NAT may have
/// rewritten where it goes, a resolver's port included, so that of a resolver only calls know the port.
#[inline(always)]
pub fn held_to_call(verdict: Verdict, endpoint: &Endpoint) -> Verdict {
    match verdict {
        Verdict::Allow(RuleId::RESOLVER) if endpoint.port != DNS_PORT => Verdict::Deny(Reason::NoRule),
        verdict => verdict,
    }
}

/// Whether what goes to `endpoint` by `rule` has to be a DNS query for an allowed name.
#[inline(always)]
pub const fn is_dns(rule: RuleId, endpoint: &Endpoint) -> bool {
    let transport = matches!(endpoint.protocol, protocol::TCP | protocol::UDP);
    // What an agent tells itself, or whoever came to it, is no query of its own.
    let own = rule.0 == RuleId::OWN_LISTENER.0 || rule.0 == RuleId::REPLY.0;
    transport && !own && (rule.0 == RuleId::RESOLVER.0 || endpoint.port == DNS_PORT)
}

/// What comes of a DNS query for a name.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A rule is about the name: the answer opens addresses.
    Opens,
    /// It is a rule's name with a search suffix: the answer opens nothing.
    Search,
    /// No rule is about it.
    Refused,
}

/// Decides whether a name may be asked for, given the rules about it.
#[inline(always)]
pub fn decide_question(rules: Option<&Ruleset>) -> Question {
    match rules {
        Some(rules) if rules.is_search() => Question::Search,
        Some(rules) if rules.len > 0 => Question::Opens,
        _ => Question::Refused,
    }
}

/// Decides whether policy `slot` lets `name` be reached at `port` over `protocol` (an IANA number).
#[inline(always)]
pub fn decide_name<T: NameTables>(tables: &T, slot: u32, name: &NameKey, protocol: u8, port: u16) -> Verdict {
    let Some(node) = tables.name(slot, name) else {
        return Verdict::Deny(Reason::NameNotAllowed);
    };
    let rules = node.rules(name.len);
    match rules.find(protocol, port) {
        Some(rule) => Verdict::Allow(rule),
        None if rules.len > 0 => Verdict::Deny(Reason::PortOrProtocol),
        None => Verdict::Deny(Reason::NameNotAllowed),
    }
}
