//! A stored line, read no further than it has to be.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::alert::model::{Output, Severity};

/// The identifier of an alert or flow, by which lines of different agents are put in order: that of a UUID
/// of version 7, which begins with the time of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u128);

/// Bits of an identifier below its milliseconds (RFC 9562, 5.7).
const BELOW_MILLIS: u32 = 80;

impl Id {
    /// Reads an identifier.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(|id| Self(id.as_u128()))
    }

    /// The first identifier that can be made at `time`.
    pub fn first_at(time: Timestamp) -> Self {
        Self(u128::try_from(time.as_millisecond()).unwrap_or(0) << BELOW_MILLIS)
    }

    /// When it was made.
    pub fn time(self) -> Timestamp {
        let millis = i64::try_from(self.0 >> BELOW_MILLIS).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
    }
}

/// A line of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line as it is stored, without its end.
    pub text: String,
    /// When it happened.
    pub time: Timestamp,
    /// Its identifier.
    pub id: Id,
    /// The agent's name.
    pub agent: String,
    /// How urgent it is; `None` for flows, and for what a later version calls it.
    pub severity: Option<Severity>,
}

/// What every line has, whatever version wrote it.
#[derive(Deserialize)]
struct Head<'a> {
    time: Timestamp,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    agent: Cow<'a, str>,
    #[serde(borrow)]
    severity: Option<Cow<'a, str>>,
}

impl Line {
    /// Reads a line; `None` if it is none, as when a crash has cut it short.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let Head { time, id, agent, severity } = serde_json::from_str(text).ok()?;
        let id = Id::parse(&id)?;
        let severity = severity.and_then(|label| Severity::parse(&label));
        Some(Self { text: text.to_owned(), time, id, agent: agent.into_owned(), severity })
    }

    /// The line of an output that came live: the same that is stored.
    ///
    /// `None` if its identifier is none.
    pub fn of(output: &Output) -> Option<Self> {
        let (time, id, agent, severity) = match output {
            Output::Alert(alert) => (alert.time, &alert.id, &alert.agent, Some(alert.severity)),
            Output::Flow(flow) => (flow.time, &flow.id, &flow.agent, None),
        };
        let text = serde_json::to_string(output).ok()?;
        Some(Self { text, time, id: Id::parse(id)?, agent: agent.clone(), severity })
    }

    /// All of it; `None` if a later version has written what this one does not know.
    pub fn output(&self) -> Option<Output> {
        serde_json::from_str(&self.text).ok()
    }

    /// Whether it is at least as urgent as `least`. What a later version calls it may be.
    pub fn is_at_least(&self, least: Severity) -> bool {
        self.severity.is_none_or(|severity| severity >= least)
    }
}
