//! What detectors are shown: an event with what was worked out about it once, and the state of its workload.

use super::{
    bank::Config,
    dns::View,
    domains::{Base, Classes},
    event::{Event, Time},
    finding::Findings,
    ledger::Ledger,
};

/// Whose event it is, and where findings go.
#[derive(Debug)]
pub struct Scene<'a, 'f> {
    /// The event.
    pub event: &'a Event<'a>,
    /// What the operator set.
    pub config: &'a Config,
    /// What the workload told whom.
    pub ledger: &'a mut Ledger,
    /// Names that do not exist, lately.
    pub dga: &'a mut super::dga::State,
    /// What was exchanged by ICMP, lately.
    pub icmp: &'a mut super::icmp::State,
    /// Where findings go.
    pub findings: &'a mut Findings<'f>,
}

impl Scene<'_, '_> {
    /// When it happened.
    pub const fn now(&self) -> Time {
        self.event.time
    }

    /// Whether a domain was told so much that it is to be blocked: what else a name says changes nothing, and a
    /// tunnel must not be able to keep the detectors busy.
    pub fn is_known(&self, dns: &DnsScene<'_>) -> bool {
        self.findings.repeats == super::finding::Repeats::Counted
            && dns.told_before.get() >= super::dns_budget::BLOCK_DAY
    }
}

/// A DNS message, and what is known of its name.
#[derive(Debug)]
pub struct DnsScene<'a> {
    /// The message.
    pub view: &'a View,
    /// The registrable domain of its name.
    pub base: Base<'a>,
    /// What stands for the base in the ledger.
    pub key: &'a [u8],
    /// What is before the base, in the case it was sent in.
    pub sub: &'a [u8],
    /// Whether the base is among the most visited.
    pub popular: bool,
    /// Whether a service asks for such names all day.
    pub infrastructure: bool,
    /// What kinds of service the name belongs to.
    pub classes: Classes,
    /// The listed name behind [`Self::classes`].
    pub listed: &'a [u8],
    /// Information of the labels before the base.
    pub information: super::lm::Bits,
    /// That of the first of them, each.
    pub said: [super::lm::Bits; super::about::LABELS],
    /// Information of the name that the base had not been told before, filled in by [`super::dns_budget`].
    pub told_before: std::cell::Cell<u32>,
}

/// What stands in the ledger for all names without a top-level domain.
pub const UNKNOWN: &[u8] = b"?";

/// The head of an HTTP request, or the address of one in a list.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method, if known.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a [u8],
    /// The host as the request has it, with its port if it has one.
    pub host: &'a [u8],
    /// The registrable domain of the host, or its address: what stands for it in the ledger.
    pub key: &'a [u8],
    /// Headers in their order.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// Whether the registrable domain is among the most visited.
    pub popular: bool,
    /// What kinds of service the host belongs to.
    pub classes: Classes,
    /// The listed name behind [`Self::classes`].
    pub listed: &'a [u8],
}

impl Request<'_> {
    /// The host for people.
    pub fn subject(&self) -> String {
        crate::alert::text::clean(&String::from_utf8_lossy(self.host), 255)
    }
}

/// Bytes that were sent.
#[derive(Debug)]
pub struct Bytes<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// How many of the first ones were shown before.
    pub shown: usize,
    /// Whom they were sent to, for people.
    pub subject: &'a str,
    /// What stands for them in the ledger.
    pub key: &'a [u8],
    /// Whether their registrable domain is among the most visited.
    pub popular: bool,
    /// What they are, for people: "the body of a request".
    pub what: &'static str,
}
