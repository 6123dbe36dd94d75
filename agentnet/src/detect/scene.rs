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
    /// Where findings go.
    pub findings: &'a mut Findings<'f>,
}

impl Scene<'_, '_> {
    /// When it happened.
    pub const fn now(&self) -> Time {
        self.event.time
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
    /// Information of the name that the base had not been told before, filled in by [`super::dns_budget`].
    pub told_before: std::cell::Cell<u32>,
}

/// What stands in the ledger for all names without a top-level domain.
pub const UNKNOWN: &[u8] = b"?";
