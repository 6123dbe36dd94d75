//! What makes two verdicts the same, and how many different ones are told apart.

use std::sync::Arc;

use agentnet_common::{
    abi::COMM_BYTES,
    addr::Endpoint,
    event::Outcome,
    user::{Cause, VerdictRecord},
    verdict::{Reason, RuleId},
};
use jiff::{SignedDuration, Timestamp};

use super::super::{
    door::UnixSocket,
    fold::{self, Merge},
    model::Query,
};

/// Refusals, and as many allowed flows, that are told apart in one window of [`fold::WINDOW`]. What is more
/// is folded by its reason or rule alone: an agent that tries a thousand addresses must not wash older
/// alerts out of the log.
pub const DISTINCT_PER_WINDOW: u32 = 100;

/// A verdict and who brought it about.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) record: VerdictRecord,
    pub(super) executable: Option<Arc<str>>,
    /// The name of the far end.
    pub(super) domain: Option<Arc<str>>,
    pub(super) various: bool,
}

impl Merge for Told {
    fn merge(&mut self, later: Self) {
        // A name ends, and the same endpoint goes on to be talked to.
        let domain = later.domain.clone().or_else(|| self.domain.take().filter(|_| !later.various));
        *self = Self { domain, ..later };
    }
}

/// What makes two verdicts the same to people.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Exact {
        outcome: Outcome,
        cause: Why,
        endpoint: Endpoint,
        detail: u32,
        /// What a DNS message asked for.
        query: Option<Query>,
        /// The server name that was said in TLS.
        server_name: Option<Box<[u8]>>,
        /// The Unix socket that was asked for.
        unix: Option<UnixSocket>,
        comm: [u8; COMM_BYTES],
        executable: Option<Arc<str>>,
    },
    Various {
        outcome: Outcome,
        cause: Why,
    },
}

/// A [`Cause`] as part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Why {
    Rule(RuleId),
    Reason(Reason),
}

impl From<Cause> for Why {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Rule(rule) => Self::Rule(rule),
            Cause::Reason(reason) => Self::Reason(reason),
        }
    }
}

/// Counts what is told apart in a window.
#[derive(Default)]
pub(super) struct Distinct {
    opened: Option<Timestamp>,
    count: u32,
}

impl Distinct {
    /// Whether its window is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        !self.opened.is_some_and(|opened| {
            let age: SignedDuration = now.duration_since(opened);
            !age.is_negative() && age < fold::WINDOW
        })
    }

    /// Whether one more may be told apart.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        if self.is_over(now) {
            *self = Self { opened: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= DISTINCT_PER_WINDOW
    }
}
