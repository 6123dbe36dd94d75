//! Tables of operations and what the agent is to be told.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::battery::lacking;
use crate::{
    probe::{Report, Request},
    skip,
};

/// What the system call is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Success.
    Ok,
    /// Exactly this `errno`.
    Errno(i32),
    /// Anything: the kernel hides what became of it, and the far end has to tell.
    Anything,
    /// Some error: which one depends on the layer that refuses first.
    Refused,
}

/// What a refused operation is told at once.
pub const EPERM: Said = Said::Errno(libc::EPERM);

/// Operations in their order, each with what it is to be told.
#[derive(Default)]
pub struct Expected {
    requests: Vec<Request>,
    said: Vec<Said>,
}

impl Expected {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One operation more.
    #[must_use]
    pub fn case(mut self, op: &str, to: impl Into<SocketAddr>, said: Said) -> Self {
        self.requests.push(Request::new(op, to.into()));
        self.said.push(said);
        self
    }

    /// Several operations that are told the same.
    #[must_use]
    pub fn cases(self, ops: &[&str], to: impl Into<SocketAddr>, said: Said) -> Self {
        let to = to.into();
        ops.iter().fold(self, |table, op| table.case(op, to, said))
    }

    /// What the probe is to do.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Compares the reports, all of them, before it fails. What the kernel lacks is skipped by name; a
    /// missing protocol is also a refusal, so that only expected successes can be skipped.
    ///
    /// # Errors
    /// With every report that is not as expected.
    pub fn check(&self, reports: &[Report]) -> Result<()> {
        let mut wrong = Vec::new();
        for (report, said) in reports.iter().zip(&self.said) {
            let fits = match said {
                Said::Ok => report.ok,
                Said::Anything => true,
                Said::Errno(errno) => report.errno == *errno,
                Said::Refused => !report.ok,
            };
            if fits {
                continue;
            }
            if *said == Said::Ok && lacking(report) {
                skip!(report.op, "{} by this kernel", report.error);
                continue;
            }
            wrong.push(format!("expected {said:?}: {report:?}"));
        }
        ensure!(
            wrong.is_empty() && reports.len() == self.said.len(),
            "{} reports:\n{}",
            reports.len(),
            wrong.join("\n")
        );
        Ok(())
    }
}
