//! What is kept of what agents did: JSON lines in segments, one directory for each stream and agent.
//!
//! ```text
//! /var/lib/agentnet/alerts/AGENT/20261122T120405.000000001Z.jsonl
//! /var/lib/agentnet/flows/AGENT/…
//! ```
//!
//! A segment is named by the UTC time of its beginning, so that names sort by time, and it is written by one
//! engine: [`writer`] begins a new one at each start, at a size and after a day. [`archive`] holds what an
//! engine writes and has [`retention`] remove the oldest. [`history`] reads the segments of all agents as
//! one sequence while others write and remove them; [`follow`] hears what engines tell live, and [`tail`]
//! makes one sequence of both.
//! [`mod@file`] is for the files that users name with `--alerts`.

use std::path::{Path, PathBuf};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::alert::model::Output;

pub mod access;
mod append;
pub mod archive;
pub mod file;
pub mod follow;
pub mod history;
pub mod line;
pub mod retention;
pub mod segment;
pub mod tail;
pub mod trouble;
pub mod writer;

#[cfg(test)]
mod tests;

/// Where segments are kept if the configuration says nothing else.
pub const DIRECTORY: &str = "/var/lib/agentnet";

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// What somebody should know of.
    Alerts,
    /// What was let through.
    Flows,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 2] = [Self::Alerts, Self::Flows];

    /// Its name, and that of its directory.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Alerts => "alerts",
            Self::Flows => "flows",
        }
    }

    /// The stream that `output` belongs to.
    pub const fn of(output: &Output) -> Self {
        match output {
            Output::Alert(_) => Self::Alerts,
            Output::Flow(_) => Self::Flows,
        }
    }

    /// Its directory in the store at `store`.
    pub fn directory(self, store: &Path) -> PathBuf {
        store.join(self.label())
    }
}

/// How much of a stream is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk of all agents together. What is over it is removed, oldest first; the segments being
    /// written stay.
    pub bytes: u64,
    /// How long a segment is kept after its last line.
    pub age: SignedDuration,
}

/// Largest segment, in bytes.
const MAX_SEGMENT: u64 = 8 << 20;

/// Segments that a stream has room for at least, so that removing one is a small part of it.
const MIN_SEGMENTS: u64 = 16;

impl Limits {
    /// Bytes of a segment.
    const fn segment_bytes(&self) -> u64 {
        let share = self.bytes / MIN_SEGMENTS;
        if share < MAX_SEGMENT { share } else { MAX_SEGMENT }
    }
}

/// Where lines are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory of the store.
    pub directory: PathBuf,
    /// How much is kept of [`Stream::Alerts`].
    pub alerts: Limits,
    /// How much is kept of [`Stream::Flows`].
    pub flows: Limits,
}

impl Default for Options {
    /// In [`DIRECTORY`], 256 MiB of alerts for 90 days and 256 MiB of flows for 30 days.
    fn default() -> Self {
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        Self {
            directory: DIRECTORY.into(),
            alerts: Limits { bytes: 256 << 20, age: days(90) },
            flows: Limits { bytes: 256 << 20, age: days(30) },
        }
    }
}

impl Options {
    /// The limits of a stream.
    pub const fn limits(&self, stream: Stream) -> Limits {
        match stream {
            Stream::Alerts => self.alerts,
            Stream::Flows => self.flows,
        }
    }
}

/// Who may read what is written, besides root.
///
/// Nobody may write: the agent's own user must not edit what is said about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readers {
    /// The members of this group.
    pub group: Option<u32>,
    /// This user, who started the agent.
    pub user: Option<u32>,
}
