//! What an operation says about itself: one JSON line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Outcome;

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub op: String,
    /// The target.
    pub to: SocketAddr,
    /// Whether every call succeeded.
    pub ok: bool,
    /// The call that failed, if one did.
    #[serde(default)]
    pub step: String,
    /// Its `errno`, 0 if there is none.
    #[serde(default)]
    pub errno: i32,
    /// The error as text.
    #[serde(default)]
    pub error: String,
    /// Bytes the kernel accepted.
    #[serde(default)]
    pub bytes: usize,
    /// The process that did it.
    pub pid: u32,
}

impl Report {
    /// The report of an operation that ended like this.
    pub fn new(op: &str, to: SocketAddr, outcome: Outcome) -> Self {
        let mut report = Self {
            op: op.to_owned(),
            to,
            ok: outcome.is_ok(),
            step: String::new(),
            errno: 0,
            error: String::new(),
            bytes: 0,
            pid: std::process::id(),
        };
        match outcome {
            Ok(bytes) => report.bytes = bytes,
            Err(failure) => {
                failure.step.clone_into(&mut report.step);
                report.errno = failure.error.raw_os_error().unwrap_or(0);
                report.error = failure.error.to_string();
            }
        }
        report
    }
}
