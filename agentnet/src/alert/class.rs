//! THE table: what each reason of the kernel, each loss and each change of enforcement means to people.
//!
//! Kinds and severities are set here and nowhere else. The rule for severities: `info` for the record; `low`
//! where ordinary programs do the same every day; `medium` where a person should look because the
//! allowlist lacks something or the agent tries its limits; `high` where only somebody who wants out does
//! it, or where agentnet is hindered and fails closed; `critical` where something is not enforced.

use std::{borrow::Cow, net::IpAddr};

use agentnet_common::{event::Outcome, verdict::Reason};

use super::{
    model::{Action, Kind, Severity},
    names::Socket,
};
use crate::policy::special::is_metadata;

/// What a reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The kind of alert.
    pub kind: Kind,
    /// Its severity.
    pub severity: Severity,
    /// The MITRE ATT&CK technique, where one fits.
    pub technique: Option<&'static str>,
    /// A few words for a line on the terminal.
    pub short: &'static str,
    /// A clause for "refused, because ...".
    pub because: &'static str,
    /// What can be done.
    pub remedy: Remedy,
}

/// What can be done about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Add the rule that the policy suggests.
    Rule,
    /// Add this to the policy.
    Add(&'static str),
    /// Let the peer in by `[local] listen`.
    Listen,
    /// Name the Unix socket by `[local] unix_allow`.
    Door,
    /// Nothing in a policy can allow it; do this instead.
    Instead(&'static str),
    /// It is agentnet or the host that needs looking after.
    Operator(&'static str),
}

impl Class {
    const fn new(
        kind: Kind,
        severity: Severity,
        technique: Option<&'static str>,
        short: &'static str,
        because: &'static str,
        remedy: Remedy,
    ) -> Self {
        Self { kind, severity, technique, short, because, remedy }
    }

    /// The class of a query for a name that was blocked because of what a detector found.
    pub const BLOCKED_NAME: Self = Self::new(
        Kind::DnsDenied,
        Severity::Medium,
        Some("T1071.004"),
        "name blocked by detection",
        "that name was blocked for what a detector found",
        Remedy::Operator("if it is needed, lift the block with `agentnet unblock`"),
    );

    /// The class of a refusal of what is behind such a name.
    pub const BLOCKED_HOST: Self = Self::new(
        Kind::EgressDenied,
        Severity::Medium,
        Some("T1071"),
        "name blocked by detection",
        "its name was blocked for what a detector found",
        Remedy::Operator("if it is needed, lift the block with `agentnet unblock`"),
    );

    /// The class of a refusal for `reason`.
    #[rustfmt::skip] // A table: one reason, one block, the columns always in the same order.
    pub const fn of(reason: Reason) -> Self {
        use Kind::{DnsAnomaly, DnsDenied, EgressDenied, Enforcement, EscapeAttempt, RawSocket, SniMismatch};
        use Remedy::{Add, Door, Instead, Listen, Operator, Rule};
        use Severity::{High, Low, Medium};
        // T1071 Application Layer Protocol, T1095 Non-Application Layer Protocol, T1571 Non-Standard Port,
        // T1559 Inter-Process Communication, T1562 Impair Defenses.
        match reason {
            Reason::NoRule => Self::new(EgressDenied, Medium, Some("T1071"),
                "no rule allows it", "no rule allows that address", Rule),
            Reason::SpecialNetwork => Self::new(EgressDenied, Medium, None,
                "special-purpose network", "it is in a special-purpose network that only a rule naming it opens", Rule),
            Reason::ForeignListener => Self::new(EgressDenied, Medium, None,
                "not the agent's own listener", "it is on this host and not a listener of the agent's own", Rule),
            Reason::PortOrProtocol => Self::new(EgressDenied, Medium, Some("T1571"),
                "port or protocol not allowed", "the rules for that address allow other ports or protocols only", Rule),
            Reason::NameNotAllowed => Self::new(DnsDenied, Medium, Some("T1071.004"),
                "name not allowed", "no rule allows that name", Rule),
            Reason::ListenDenied => Self::new(EgressDenied, Low, None,
                "may not connect into the agent", "the policy lets no such peer connect into the agent", Listen),
            Reason::Unsolicited => Self::new(EgressDenied, Low, None,
                "unsolicited", "it answers nothing that the agent was allowed to send", Listen),
            Reason::UnixSocket => Self::new(EgressDenied, Medium, Some("T1559"),
                "Unix socket not named", "the policy does not name that Unix socket", Door),
            Reason::UnknownProtocol => Self::new(EgressDenied, Medium, Some("T1095"),
                "protocol without rules", "rules know TCP, UDP and ICMP only",
                Instead("use TCP or UDP")),
            Reason::IcmpType => Self::new(EgressDenied, Low, Some("T1095"),
                "ICMP other than echo", "of ICMP only echo requests and replies can be allowed",
                Instead("use an echo request")),
            Reason::NoSocket => Self::new(EgressDenied, Medium, None,
                "packet without a socket", "a packet without a socket has no owner that a policy could speak for",
                Instead("send it from a socket")),
            Reason::Family => Self::new(EgressDenied, Medium, Some("T1095"),
                "unreadable address family", "it is in an address family or a kind of frame that agentnet cannot read",
                Instead("use IPv4 or IPv6")),
            Reason::Quarantined => Self::new(EgressDenied, Medium, None,
                "the agent is in quarantine", "the agent is in quarantine and may send nothing at all",
                Operator("look at why it was quarantined, then release the agent with `agentnet release`")),
            Reason::Blocked => Self::new(EgressDenied, Medium, None,
                "blocked by hand", "that address was blocked by hand",
                Operator("if it is needed, lift the block with `agentnet unblock`")),

            Reason::RawSocket => Self::new(RawSocket, High, Some("T1095"),
                "raw sockets are refused", "a raw socket can send packets that no rule can judge",
                Instead("use a TCP or UDP socket")),
            Reason::PingSocket => Self::new(RawSocket, Low, Some("T1095"),
                "no rule allows ICMP", "no rule of the policy allows ICMP",
                Add("[[egress.allow]] with the address to ping as cidr and protocols = [\"icmp\"]")),
            Reason::SocketType => Self::new(RawSocket, Medium, Some("T1095"),
                "socket type is refused", "only TCP and UDP sockets can be judged by rules",
                Instead("use plain TCP or UDP")),

            Reason::SocketOption => Self::new(EscapeAttempt, High, Some("T1562"),
                "socket option is refused", "that option would let packets pass the policy by",
                Instead("leave the option away")),
            Reason::IpOptions => Self::new(EscapeAttempt, High, Some("T1562"),
                "IP options", "IP options can send a packet elsewhere than its header says",
                Instead("send without IP options")),
            Reason::Fragment => Self::new(EscapeAttempt, High, Some("T1562"),
                "hand-made fragment", "a fragment made by hand hides the port from the policy",
                Instead("let the kernel fragment")),
            Reason::ExtensionHeader => Self::new(EscapeAttempt, High, Some("T1562"),
                "IPv6 extension header", "an IPv6 extension header can hide the port or send a packet elsewhere",
                Instead("send without extension headers")),
            Reason::Malformed => Self::new(EscapeAttempt, Medium, Some("T1562"),
                "malformed packet", "the packet cannot be parsed",
                Instead("send well-formed packets")),

            Reason::DnsMalformed => Self::new(DnsAnomaly, High, Some("T1071.004"),
                "not a plain DNS query", "a query that is not of the plainest form carries data to whoever reads it",
                Instead("ask one question at a time, for a name of lower-case letters, digits, hyphens and underscores")),
            Reason::DnsType => Self::new(DnsAnomaly, Low, Some("T1071.004"),
                "type of DNS query is refused",
                "answers to that type of query bring what the policy cannot hold to names, or are of use to tunnels only",
                Instead("ask for addresses")),
            Reason::DnsOption => Self::new(DnsAnomaly, Medium, Some("T1071.004"),
                "EDNS option is refused", "an EDNS option carries data to the resolver and beyond",
                Instead("ask without EDNS options, or with a cookie alone")),
            Reason::DnsCase => Self::new(DnsAnomaly, Medium, Some("T1071.004"),
                "upper-case letters in a DNS query", "the case of letters in a name carries a bit each",
                Instead("write the name in lower case")),
            Reason::DnsShared => Self::new(EscapeAttempt, High, Some("T1562"),
                "DNS query that could still change", "its bytes could be changed after they were judged",
                Instead("send queries from ordinary memory, as every resolver library does")),
            Reason::DnsRoom => Self::new(Enforcement, Medium, None,
                "no room to judge a DNS message", "the kernel had no room to judge it, or to keep what it is about",
                Operator("look at how many names and addresses the agent asks for")),

            Reason::TlsName => Self::new(SniMismatch, High, Some("T1090.004"),
                "not a name of that address", "that server name is none by which the policy has opened that address",
                Operator("if it belongs there, add an [[egress.allow]] rule for that name, and have the client look it up")),
            Reason::TlsNoName => Self::new(SniMismatch, Medium, Some("T1090.004"),
                "TLS without a server name", "the rule that opened that address wants the server's name said in TLS",
                Instead("have the client send the server's name (SNI)")),
            Reason::TlsEncrypted => Self::new(SniMismatch, Medium, Some("T1090.004"),
                "encrypted ClientHello", "an encrypted ClientHello can be for another server than the one in the clear",
                Instead("switch Encrypted Client Hello off in the client")),
            Reason::TlsEarly => Self::new(SniMismatch, Low, Some("T1090.004"),
                "TLS early data", "behind early data another server could be asked for unseen",
                Instead("switch early data (0-RTT) off in the client")),
            Reason::TlsNot => Self::new(SniMismatch, Medium, Some("T1571"),
                "not TLS", "the rule that opened that address wants TLS spoken there",
                Instead("speak TLS, or give the rule another port")),
            Reason::TlsMalformed => Self::new(SniMismatch, High, Some("T1562"),
                "malformed TLS handshake", "what the client says cannot be read as a handshake of TLS with one host name",
                Instead("use an ordinary TLS library")),
            Reason::TlsUnjudged => Self::new(EscapeAttempt, High, Some("T1562"),
                "bytes past the TLS check", "its bytes did not pass the check of what is said in TLS",
                Instead("connect first, then send")),
            Reason::DnsUnjudged => Self::new(EscapeAttempt, High, Some("T1562"),
                "bytes past the DNS check", "it came from no socket whose DNS queries are checked",
                Instead("ask from an ordinary socket")),

            Reason::NoPolicy => Self::new(Enforcement, High, None,
                "policy is missing", "the kernel holds no policy for the agent",
                Operator("restart the agent and report this as a defect of agentnet")),
            Reason::StorageFull => Self::new(Enforcement, High, None,
                "no room for the socket's state", "the kernel had no room to keep the socket's state",
                Operator("give the host more memory")),
        }
    }

    /// The same with what it was about taken into account: to reach for a cloud's credentials is no ordinary
    /// slip, and to try MPTCP first is what ordinary servers do.
    #[must_use]
    pub fn about(self, destination: Option<IpAddr>, socket: Option<&Socket>) -> Self {
        if self.kind == Kind::EgressDenied && destination.is_some_and(is_metadata) {
            return Self {
                severity: Severity::High,
                technique: Some("T1552.005"), // Unsecured Credentials: Cloud Instance Metadata API
                short: "cloud metadata service",
                ..self
            };
        }
        if self.kind == Kind::RawSocket && socket.is_some_and(|socket| socket.protocol == "mptcp") {
            return Self {
                severity: Severity::Low,
                technique: None,
                remedy: Remedy::Instead(
                    "use plain TCP, as programs do by themselves where there is no MPTCP",
                ),
                ..self
            };
        }
        self
    }
}

/// What agentnet did about something with this outcome.
pub const fn action(outcome: Outcome, reason: Reason) -> Action {
    match (outcome, reason) {
        (Outcome::Audited | Outcome::Allowed, _) => Action::Alerted,
        (Outcome::Blocked, Reason::Quarantined) => Action::Quarantined,
        (Outcome::Blocked, _) => Action::Blocked,
    }
}

/// The reason with this label.
pub fn reason_from_label(label: &str) -> Option<Reason> {
    Reason::ALL.iter().copied().find(|reason| reason.label() == label)
}

/// What is to be known of an agent that was governed late.
pub const LATE: &str = "it is late: processes were in its cgroup before it was governed, and may have sent anything until \
     then; to govern them from their first packet, select a cgroup above it that is there before";

/// A change in the state of enforcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// The policy is in force and refuses what it does not allow.
    Started,
    /// The policy is loaded and only reports.
    Auditing,
    /// Its policy, or where it is in force, was changed while the agent ran.
    Changed,
    /// A policy that was to be read anew is invalid, and the one of before stays; the error that says why.
    Kept(String),
    /// Connections that the policy does not allow live on, as was asked for; where they go.
    Spared(String),
    /// Packets without a socket of the agent's are not judged everywhere; where and why not.
    Exposed(String),
    /// It was selected, and processes were there before its policy was in force.
    Late,
    /// What else the policies select may not be seen; why.
    Unseen(String),
    /// The agent ended and its policy was taken down.
    Ended,
    /// The agent was let go by hand and is not governed any more.
    Detached,
    /// The policy is not in force although it should be; the error that says why.
    Inactive(String),
}

impl Enforcement {
    /// The name in JSON.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Auditing => "auditing",
            Self::Changed => "changed",
            Self::Kept(_) => "kept",
            Self::Spared(_) => "spared",
            Self::Exposed(_) => "exposed",
            Self::Late => "late",
            Self::Unseen(_) => "unseen",
            Self::Ended => "ended",
            Self::Detached => "detached",
            Self::Inactive(_) => "inactive",
        }
    }

    /// The severity.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Started | Self::Auditing | Self::Changed | Self::Ended => Severity::Info,
            Self::Detached => Severity::Low,
            Self::Spared(_) | Self::Exposed(_) | Self::Late => Severity::Medium,
            Self::Kept(_) | Self::Unseen(_) => Severity::High,
            Self::Inactive(_) => Severity::Critical,
        }
    }

    /// The sentence.
    pub fn sentence(&self, agent: &str, policy: &str) -> String {
        match self {
            Self::Started => {
                format!("Agent {agent} runs under policy {policy}: what no rule allows is refused.")
            }
            Self::Auditing => format!(
                "Agent {agent} runs under policy {policy} in audit mode: nothing is refused, what would be is reported."
            ),
            Self::Changed => format!("Agent {agent} is now under policy {policy} as it was read anew."),
            Self::Kept(error) => format!(
                "Agent {agent} stays under policy {policy} as it was, because it cannot be replaced: {error}; \
                 correct it and run `agentnet reload`."
            ),
            Self::Spared(to) => format!(
                "Agent {agent} keeps connections that policy {policy} does not allow, because they were to be kept when \
                 it was attached: {to}. They live until they are closed or the policy is changed."
            ),
            Self::Exposed(doors) => format!(
                "Policy {policy} is enforced on the sockets of agent {agent}, and what it sends without one is not judged \
                 everywhere: {doors}."
            ),
            Self::Late => format!("Agent {agent} is under policy {policy}, and {LATE}."),
            Self::Unseen(why) => format!(
                "Agent {agent} stays under policy {policy}, and others that policies select may come unnoticed: {why}; \
                 correct that and look at `agentnet status`."
            ),
            Self::Ended => format!("Agent {agent} has ended and policy {policy} was taken down."),
            Self::Detached => format!(
                "Agent {agent} was detached: policy {policy} is not in force on it any more, and it may send anything."
            ),
            Self::Inactive(error) => format!(
                "Policy {policy} is not enforced on agent {agent}, which may send anything: {error}; \
                 stop the agent and run `agentnet doctor`."
            ),
        }
    }

    /// The error behind it.
    pub fn error(&self) -> Option<String> {
        match self {
            Self::Inactive(error) | Self::Kept(error) | Self::Unseen(error) => Some(error.clone()),
            Self::Started
            | Self::Auditing
            | Self::Changed
            | Self::Spared(_)
            | Self::Exposed(_)
            | Self::Late
            | Self::Ended
            | Self::Detached => None,
        }
    }
}

/// A technique as alerts carry it.
pub fn technique(id: Option<&'static str>) -> Option<Cow<'static, str>> {
    id.map(Cow::Borrowed)
}
