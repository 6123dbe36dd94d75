//! What clients ask and engines answer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    act::{Act, Acted, Order},
    agent::{AgentName, target::Spec},
    alert::{
        model::{Output, Severity},
        summary::Summary,
    },
    store::Stream,
};

/// A request to an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// With a pidfd of a waiting child of the client: put it under a policy. The connection stays open.
    Run(Run),
    /// The command of [`Request::Run`] has ended: take the agent down. Only by the connection that asked for it, and
    /// again when it waits no longer.
    Finish {
        /// Wait for what is left of the agent instead of killing it.
        wait: bool,
    },
    /// What is governed, and whether it is really enforced.
    Status,
    /// Put a cgroup that exists under a policy. Only the daemon does.
    Attach(Attach),
    /// Take an agent out of its policy. Only the daemon does, and only for what was attached.
    Detach {
        /// The agent.
        agent: AgentName,
    },
    /// Tell alerts or flows from now on, until the connection is closed.
    Follow(Follow),
    /// Read every policy anew.
    Reload,
    /// Block, allow or quarantine something by hand, or take that back.
    Act(Order),
}

/// What is to be governed, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// The agent's name.
    pub agent: AgentName,
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
    /// The name it was asked for by, if it was no path. The daemon takes the policy of that name from its own
    /// directory, and follows it when it changes.
    pub name: Option<String>,
    /// Name of the file, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// A cgroup that exists, and what is to be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The name the agent gets.
    pub agent: AgentName,
    /// Where it lives: a cgroup or a process. What takes other programs to find, the client finds.
    pub target: Spec,
    /// The agent's policy; without one nothing is blocked.
    pub policy: Option<PolicySource>,
    /// Only report what the policy would refuse.
    pub audit: bool,
    /// Let connections live on that the policy would not have allowed to be made.
    pub keep_established: bool,
    /// Govern the cgroup of a process although it shares it with others.
    pub whole_cgroup: bool,
}

/// What is to be told as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// Which kind.
    pub what: Stream,
    /// Of this agent only.
    pub agent: Option<AgentName>,
    /// Alerts of this severity or above only.
    pub min_severity: Option<Severity>,
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
    Status(Box<Report>),
    /// It was done; a sentence says what.
    Done(String),
    /// The answer to [`Request::Act`].
    Acted(Box<Acted>),
    /// So many lines came faster than this follower took them; they are in the log.
    Missed(u64),
}

/// What an engine governs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Process id of the engine.
    pub engine: u32,
    /// Whether it is the daemon.
    pub daemon: bool,
    /// When it was started.
    pub started: Timestamp,
    /// What is not as it should be with the engine itself.
    pub problems: Vec<String>,
    /// The agents that the asker may know of.
    pub agents: Vec<Status>,
    /// What was done by hand and is for none of these now: it holds for agents that begin later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
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
    /// The asker lacks the right to ask that; somebody else may have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denied: bool,
}

impl Failure {
    /// A failure with exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), exit: 1, denied: false }
    }

    /// The same with another exit code.
    #[must_use]
    pub const fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// The asker may not.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { denied: true, ..Self::new(message) }
    }
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
    /// Whether it is in quarantine and may send nothing.
    #[serde(default)]
    pub quarantined: bool,
    /// What was done to it by hand and holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
    /// The directory of its cgroup.
    pub cgroup: String,
    /// Whether the cgroup was there before the agent.
    pub attached: bool,
    /// The user who asked for it.
    pub uid: u32,
    /// When it was started.
    pub started: Timestamp,
    /// Where programs are attached.
    pub hooks: Vec<String>,
    /// Where packets are judged that have no socket of the agent's; `None` for agents of `run`, which cannot send them.
    pub interfaces: Option<Doors>,
    /// Why the policy is not in force as it should be; empty if it is.
    pub problems: Vec<String>,
    /// The selector that it was governed for, as it is written in its policy, if nobody asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Whether its processes may have sent something before it was governed.
    #[serde(default)]
    pub late: bool,
    /// What else should be known: a newer policy that is invalid, for example.
    pub notes: Vec<String>,
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
}

/// The interfaces of the host that guard an agent, and what passes by none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// The host's ends of its containers' interfaces.
    pub containers: Vec<String>,
    /// Where frames of its packet sockets are refused, if it lives on the host.
    pub host: Vec<String>,
    /// What is not guarded and why, a sentence each.
    pub open: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_keep_their_form() {
        let run = Request::Run(Run {
            agent: "a".parse().unwrap(),
            policy: Some(PolicySource { name: None, file: "p.toml".into(), text: "version = 1\n".into() }),
            audit: false,
        });
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(
            text,
            r#"{"run":{"agent":"a","policy":{"name":null,"file":"p.toml","text":"version = 1\n"},"audit":false}}"#
        );
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
            r#"{"run":{"agent":"a","policy":null,"audit":false,"extra":1}}"#,
            r#"{"run":{"agent":"a","policy":null}}"#,
            r#"{"finish":{}}"#,
            "null",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text} was accepted");
        }
    }
}
