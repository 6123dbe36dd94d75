//! Unix sockets that were refused, in the terms of alerts.

use std::borrow::Cow;

use agentnet_common::user::VerdictRecord;
use serde::{Deserialize, Serialize};

use super::{
    class::Class,
    model::{Kind, Severity},
    text::{MAX_PATH, clean},
};
use crate::policy::unix::{Known, Reach, suggestion};

/// A Unix socket that a process asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixSocket {
    /// The name that the process gave: a path, or an abstract name behind an `@`.
    pub name: String,
    /// Type of the process's own socket, such as `SOCK_STREAM`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// What usually listens there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<Cow<'static, str>>,
}

impl UnixSocket {
    /// That of a verdict, if it is about one.
    pub(super) fn of(verdict: &VerdictRecord) -> Option<Self> {
        let name = clean(&verdict.door.as_ref()?.text(), MAX_PATH);
        let kind = match i32::try_from(verdict.event.detail >> 16).unwrap_or_default() {
            libc::SOCK_STREAM => Cow::Borrowed("SOCK_STREAM"),
            libc::SOCK_DGRAM => Cow::Borrowed("SOCK_DGRAM"),
            libc::SOCK_SEQPACKET => Cow::Borrowed("SOCK_SEQPACKET"),
            other => Cow::Owned(format!("type {other}")),
        };
        let what = Known::of(&name).map(|known| Cow::Borrowed(known.what));
        Some(Self { name, kind, what })
    }

    /// What is known of it.
    pub(super) fn known(&self) -> Option<Known> {
        Known::of(&self.name)
    }

    /// What a policy has to say to open it, if it can.
    pub(super) fn suggestion(&self) -> Option<String> {
        // What was cleaned or cut is not the name any more.
        let whole = !self.name.contains("\\u{") && !self.name.contains(['\u{fffd}', '…']);
        whole.then(|| suggestion(&self.name)).flatten().map(|toml| toml.trim_end().replace('\n', " "))
    }

    /// Whether a policy can open it without giving the agent more than a conversation.
    pub(super) fn is_harmless(&self) -> bool {
        self.suggestion().is_some() && self.known().is_none_or(|known| known.reach == Reach::Notes)
    }

    /// The name as TOML.
    pub(super) fn quoted(&self) -> String {
        toml::Value::String(self.name.clone()).to_string()
    }

    /// The class of the refusal.
    pub(super) fn class(&self, class: Class) -> Class {
        match self.known().map(|known| known.reach) {
            Some(Reach::Commands) => Class {
                kind: Kind::EscapeAttempt,
                severity: Severity::High,
                short: "would run programs outside",
                because: "whoever listens there does what it is asked to, outside of the policy",
                ..class
            },
            Some(Reach::Names | Reach::Notes) => Class { severity: Severity::Low, ..class },
            Some(Reach::Session) | None => class,
        }
    }

    /// What to do about the refusal, with this policy.
    pub(super) fn remedy(&self, policy: &str) -> String {
        let Some(suggestion) = self.suggestion() else {
            return format!(
                "to allow it, add to policy {policy} its full path: [local] unix_allow = [\"/…\"]"
            );
        };
        let add = format!("to allow it, add to policy {policy}: {suggestion}");
        match self.known() {
            Some(Known { what, reach: Reach::Commands | Reach::Session, .. }) => {
                format!("{add}, if the agent may do whatever {what} does for it")
            }
            Some(Known { reach: Reach::Names, .. }) => {
                format!("programs that ask there go on without it; {add}")
            }
            _ => add,
        }
    }
}

impl std::fmt::Display for UnixSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        match &self.what {
            Some(what) => write!(f, "unix {name} ({what})"),
            None => write!(f, "unix {name}"),
        }
    }
}
