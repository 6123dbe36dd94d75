//! Findings of detectors as alerts.

use super::model::Severity;
use crate::detect::{action::Action, finding::Strength};

/// How urgent a finding is, by what it is worth and what was done.
pub const fn severity(strength: Strength, action: Action) -> Severity {
    match (strength, action) {
        (Strength::Hint, _) => Severity::Info,
        (_, Action::Quarantine) => Severity::Critical,
        (Strength::Alert, _) => Severity::Medium,
        (Strength::Block, _) => Severity::High,
    }
}
