//! Lines that could not be written: counted, and told now and then.

use jiff::{SignedDuration, Timestamp};

/// Least time between two reports of trouble with one file.
pub const REPORT_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// Trouble with writing, reported at most once every [`REPORT_INTERVAL`]. Nothing stops for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Lines that were not written since the last report.
    pub lost: u64,
    /// What the system said last.
    pub error: String,
}

/// Trouble that was not reported yet.
#[derive(Debug, Default)]
pub(super) struct Unreported {
    lost: u64,
    error: Option<String>,
    last: Option<Timestamp>,
}

impl Unreported {
    /// A line was not written.
    pub(super) fn lost(&mut self, error: String) {
        self.lost += 1;
        self.error = Some(error);
    }

    /// No line was lost, and not all is well.
    pub(super) fn disorder(&mut self, error: String) {
        self.error = Some(error);
    }

    /// What is to be reported now; `all` ends the wait.
    pub(super) fn take(&mut self, now: Timestamp, all: bool) -> Option<Trouble> {
        // A clock that was set back does not silence the report.
        let waited = self.last.is_none_or(|last| now < last || now.duration_since(last) >= REPORT_INTERVAL);
        if !(waited || all) {
            return None;
        }
        let error = self.error.take()?;
        self.last = Some(now);
        Some(Trouble { lost: std::mem::take(&mut self.lost), error })
    }
}
