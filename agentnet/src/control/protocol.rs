//! What clients ask and engines answer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    agent::AgentName,
    alert::{model::Output, summary::Summary},
};

/// A request to an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The first request of the client that started the engine, with a pidfd of a waiting child of the
    /// client: put it under a policy.
    Run(Run),
    /// Its command has ended: take the agent down. Only from the client that asked for it, and again when it
    /// waits no longer.
    Finish {
        /// Wait for what is left of the agent instead of killing it.
        wait: bool,
    },
    /// What is governed, and whether it is really enforced.
    Status,
}

/// What is to be governed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The agent's policy; without one nothing is blocked.
    pub policy: Option<PolicySource>,
    /// Only report what the policy would refuse.
    pub audit: bool,
}

/// A policy as its author wrote it. The client reads it with its user's rights: the engine opens no file
/// that a user names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    /// Name of the file, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// A reply of an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The process is governed and may go on.
    Ready(Ready),
    /// The request was refused or failed; nothing was changed.
    Error(Failure),
    /// An alert, or something that was let through.
    Output(Output),
    /// Something the user of the client should know of, in one sentence.
    Notice(String),
    /// Everything that happened, added up.
    Summary(Box<Summary>),
    /// The agent is taken down and nothing of it is left.
    Finished,
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
}

/// Tells of `dropped` lines that found no room on their way; `logged` says whether a log has them.
pub fn too_fast(dropped: u64, logged: bool) -> String {
    let instead = if logged { "all of them are in the log" } else { "no log is written, so they are lost" };
    format!("{dropped} lines came too fast to be shown here; {instead}")
}

/// What was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The agent's name.
    pub agent: AgentName,
    /// The directory of its cgroup.
    pub cgroup: String,
    /// The name of the policy.
    pub policy: String,
    /// Whether the policy only audits.
    pub audit: bool,
    /// The file all alerts are written to, if it can be written.
    pub log: Option<String>,
    /// Where programs are attached.
    pub hooks: Vec<String>,
    /// Sentences about things that are not as one might think.
    pub warnings: Vec<String>,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// One sentence that names the cause and what to do about it.
    pub message: String,
    /// The exit code that fits.
    pub exit: u8,
}

/// An agent as its engine sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's name.
    pub agent: AgentName,
    /// The name of its policy.
    pub policy: String,
    /// Whether the policy only audits.
    pub audit: bool,
    /// The directory of its cgroup.
    pub cgroup: String,
    /// When it was started.
    pub started: Timestamp,
    /// Where programs are attached.
    pub hooks: Vec<String>,
    /// Why the policy is not in force as it should be; empty if it is.
    pub problems: Vec<String>,
    /// How many processes it has.
    pub processes: usize,
    /// Packets let through.
    pub allowed_packets: u64,
    /// Bytes let through, IP headers included.
    pub allowed_bytes: u64,
    /// What was refused, or in audit would have been.
    pub denied: u64,
    /// Records of the kernel that were lost.
    pub lost: u64,
    /// Process id of the engine.
    pub engine: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_their_form() {
        let run = Request::Run(Run {
            policy: Some(PolicySource { file: "p.toml".into(), text: "version = 1\n".into() }),
            audit: false,
        });
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(text, r#"{"run":{"policy":{"file":"p.toml","text":"version = 1\n"},"audit":false}}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), run);
        assert_eq!(
            serde_json::to_string(&Request::Finish { wait: true }).unwrap(),
            r#"{"finish":{"wait":true}}"#
        );
        assert_eq!(serde_json::to_string(&Request::Status).unwrap(), r#""status""#);
    }

    #[test]
    fn a_log_is_not_named_where_there_is_none() {
        assert_eq!(too_fast(3, true), "3 lines came too fast to be shown here; all of them are in the log");
        assert!(too_fast(3, false).ends_with("no log is written, so they are lost"));
    }

    #[test]
    fn unknown_requests_and_fields_are_refused() {
        for text in [
            r#""stop""#,
            r#"{"run":{"policy":null,"audit":false,"extra":1}}"#,
            r#"{"run":{"policy":null}}"#,
            r#"{"finish":{}}"#,
            "null",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text} was accepted");
        }
    }
}
