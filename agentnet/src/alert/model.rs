//! What is written, one JSON object a line: [`Alert`] and [`Flow`].
//!
//! The order of fields and the names of values are a contract, see docs/alerts.md. A field that does not
//! apply is `null`; only `evidence` leaves out what its kind does not have.

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    door::UnixSocket,
    names::{Socket, SocketOption},
};
use crate::{
    act::{Act, By},
    detect::evidence::Thousandths,
};

/// Text that is a constant when made and owned when read back.
type Label = Cow<'static, str>;

/// Something an operator should know of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// When it happened; for repeats, when the last one happened.
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    /// UUID of version 7; text order is the order of writing.
    pub id: String,
    /// Name of the host.
    pub host: String,
    /// Name of the agent.
    pub agent: String,
    /// What kind of thing it is.
    pub kind: Kind,
    /// How urgent it is.
    pub severity: Severity,
    /// What agentnet did.
    pub action: Action,
    /// One English sentence: what was tried, by whom, why it was refused, what to do.
    pub reason: String,
    /// Who did it, if known.
    pub process: Option<Process>,
    /// The far end, if there is one.
    pub destination: Option<Destination>,
    /// What decided.
    pub policy: PolicyRef,
    /// What was measured.
    pub evidence: Evidence,
    /// MITRE ATT&CK technique, where one fits.
    pub technique: Option<Label>,
    /// Community ID version 1, where both ends are known.
    pub community_id: Option<String>,
    /// How many like it this one stands for, itself included.
    pub count: u64,
}

/// A connection or datagram flow that was let through: a line at its start, and one at its end if it carried data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// When it started, or ended.
    #[serde(with = "rfc3339")]
    pub time: Timestamp,
    /// UUID of version 7; text order is the order of writing.
    pub id: String,
    /// Name of the host.
    pub host: String,
    /// Name of the agent.
    pub agent: String,
    /// `flow`, which no alert has.
    pub kind: FlowKind,
    /// `allowed` or `ended`, which no alert has.
    pub action: FlowAction,
    /// Who started it, if known.
    pub process: Option<Process>,
    /// The far end.
    pub destination: Option<Destination>,
    /// The rule that allows it.
    pub policy: PolicyRef,
    /// What was measured.
    pub evidence: Evidence,
    /// Community ID version 1, where both ends are known.
    pub community_id: Option<String>,
    /// How many like it this one stands for, itself included.
    pub count: u64,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Output {
    /// Something an operator should know of.
    Alert(Box<Alert>),
    /// Something that was let through.
    Flow(Box<Flow>),
}

/// What kind of thing an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A connection, datagram or packet that the policy refuses, in either direction.
    EgressDenied,
    /// A DNS query for a name that the policy does not allow.
    DnsDenied,
    /// A server name in TLS that is none by which the address was opened, or none at all where one has to be said.
    SniMismatch,
    /// A socket of a kind that sends what rules cannot name: raw, ping, MPTCP, SCTP, ...
    RawSocket,
    /// An attempt to slip past the hooks: socket options and packet headers that would hide a destination.
    EscapeAttempt,
    /// Something happened that could not be recorded.
    VisibilityLost,
    /// Enforcement began, ended, is not active or could not decide.
    Enforcement,
    /// Data in names that are looked up, and in what is answered.
    DnsTunnel,
    /// A DNS message that is malformed or hides data, or a resolver that is not the policy's.
    DnsAnomaly,
    /// Data in the addresses and bodies of requests.
    UrlEntropy,
    /// A secret that leaves.
    Secret,
    /// ICMP that carries something.
    IcmpTunnel,
    /// A service where anybody can read what is sent.
    DestinationClass,
    /// Many names that do not exist and look generated.
    Dga,
    /// Somebody blocked, allowed or quarantined something by hand, or that has ended.
    Act,
}

impl Kind {
    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::EgressDenied => "egress_denied",
            Self::DnsDenied => "dns_denied",
            Self::SniMismatch => "sni_mismatch",
            Self::RawSocket => "raw_socket",
            Self::EscapeAttempt => "escape_attempt",
            Self::VisibilityLost => "visibility_lost",
            Self::Enforcement => "enforcement",
            Self::DnsTunnel => "dns_tunnel",
            Self::DnsAnomaly => "dns_anomaly",
            Self::UrlEntropy => "url_entropy",
            Self::Secret => "secret",
            Self::IcmpTunnel => "icmp_tunnel",
            Self::DestinationClass => "destination_class",
            Self::Dga => "dga",
            Self::Act => "act",
        }
    }
}

/// How urgent an alert is, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For the record.
    Info,
    /// Ordinary programs do this; nothing got out.
    Low,
    /// Ordinary programs seldom do this, or an allowlist lacks something; look when there is time.
    Medium,
    /// Ordinary programs do not do this, or agentnet itself is hindered; look today.
    High,
    /// Something is not enforced; look now.
    Critical,
}

impl Severity {
    /// Every severity, least first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity of this name.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.label() == label)
    }
}

/// What agentnet did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Refused it.
    Blocked,
    /// Said so and nothing more: the policy only audits, or there was nothing to refuse.
    Alerted,
    /// Refused it because the agent is in quarantine.
    Quarantined,
}

/// The kind of every [`Flow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowKind {
    /// `flow`.
    #[default]
    Flow,
}

/// What became of a [`Flow`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowAction {
    /// It began.
    #[default]
    Allowed,
    /// It is over.
    Ended,
}

/// A process. Its texts are the agent's choice; they come cleaned, see [`super::text::clean`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Command name of the thread.
    pub comm: String,
    /// Path of the executable, ` (deleted)` behind it if it is gone; `None` if the process was gone first.
    pub exe: Option<String>,
    /// User id in the initial user namespace.
    pub uid: u32,
}

/// The far end of a flow: the destination, or the source of what came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Its address.
    pub ip: IpAddr,
    /// Its port, for protocols that have ports.
    pub port: Option<u16>,
    /// Lower-case name of the protocol, or its IANA number as text.
    pub protocol: Label,
    /// The name by which the agent came to the address, if known.
    pub domain: Option<String>,
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.port {
            Some(port) => write!(f, "{} {}", self.protocol, SocketAddr::new(self.ip, port))?,
            None => write!(f, "{} {}", self.protocol, self.ip)?,
        }
        self.domain.as_ref().map_or(Ok(()), |domain| write!(f, " {domain}"))
    }
}

/// What decided: a policy and, where one did, a rule of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// The policy's name.
    pub name: String,
    /// The rule, in one line.
    pub rule: Option<String>,
    /// The file the rule is written in.
    pub file: Option<String>,
    /// Line of the file, from 1.
    pub line: Option<u32>,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every one is a verdict")]
pub enum Evidence {
    /// A verdict of the kernel.
    Verdict(VerdictEvidence),
    /// What a flow carried.
    Flow(FlowEvidence),
    /// Something that was not recorded.
    Loss(LossEvidence),
    /// The state of enforcement.
    Enforcement(EnforcementEvidence),
    /// Something that was done by hand.
    Act(Box<ActEvidence>),
    /// What a detector measured.
    Detection(Box<DetectionEvidence>),
}

/// What a detector measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionEvidence {
    /// How sure the detector is, from 0 to 1.
    pub score: Thousandths,
    /// How sure all detectors together are about the destination, from 0 to 1.
    pub fused_score: Thousandths,
    /// Who had started the process, its parent first; those that were still there when it was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
    /// The numbers.
    #[serde(flatten)]
    pub measured: crate::detect::evidence::Evidence,
}

/// A process above another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Process id in the initial namespace.
    pub pid: u32,
    /// Command name of its first thread.
    pub comm: String,
    /// Path of the executable, ` (deleted)` behind it if it is gone; `None` if it cannot be read.
    pub exe: Option<String>,
}

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Out of the agent.
    Egress,
    /// Into the agent.
    Ingress,
}

/// What a verdict of the kernel rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictEvidence {
    /// Label of [`agentnet_common::event::Hook`].
    pub hook: Label,
    /// Label of [`agentnet_common::verdict::Reason`]; a flow has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Label>,
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of the packet, IP header included; 0 at hooks that see no packet.
    pub bytes: u32,
    /// Bytes that had already left for the destination through the socket; absent where not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_before_block: Option<u64>,
    /// The local end, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The special-purpose network of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special: Option<String>,
    /// The socket that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<Socket>,
    /// The socket option that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub option: Option<SocketOption>,
    /// What a DNS message asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<Query>,
    /// The server name that was said in TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The Unix socket that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<Box<UnixSocket>>,
    /// Socket cookie (`SO_COOKIE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_cookie: Option<u64>,
    /// There were so many different ones that process and destination are those of the last one only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub various: bool,
}

/// The question of a DNS message.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Query {
    /// The name, bytes that no host name has as `\\DDD` (RFC 1035, 5.1).
    pub name: String,
    /// Mnemonic of the type, or `TYPE` and its number (RFC 3597, 5).
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a flow carried from its first data on; of several folded together, the sum.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEvidence {
    /// Bytes out, IP headers included.
    pub bytes_out: u64,
    /// Packets out, before segmentation.
    pub packets_out: u64,
    /// Bytes in, IP headers included; of TCP those of segments with data.
    pub bytes_in: u64,
    /// Packets in.
    pub packets_in: u64,
    /// How long it lasted, milliseconds; of several the longest.
    pub duration_ms: u64,
    /// The local end, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Socket cookie (`SO_COOKIE`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_cookie: Option<u64>,
    /// There were so many different ones that process and destination are those of the last one only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub various: bool,
}

/// What could not be recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossEvidence {
    /// Label of [`super::loss::Cause`].
    pub cause: Label,
    /// How much was lost since the last alert of this cause.
    pub lost: u64,
    /// How much was lost since the agent began.
    pub total: u64,
    /// The error behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The state of enforcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcementEvidence {
    /// Label of [`super::class::Enforcement`].
    pub state: Label,
    /// The error behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that was done by hand, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActEvidence {
    /// Label of [`super::by_hand::Change`].
    pub did: Label,
    /// What was done.
    #[serde(rename = "of")]
    pub act: Act,
    /// Who took it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
    /// Why it was taken back, or the rule that denies what was allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// RFC 3339 with exactly nine digits after the second, in UTC: text order is the order of time.
mod rfc3339 {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.9}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(deserializer)
    }
}
