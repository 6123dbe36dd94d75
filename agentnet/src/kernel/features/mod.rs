//! What this kernel and host can do: tried, never guessed from a version number.
//!
//! Programs are loaded and attached to a cgroup of our own without a process in it, a connection of our own
//! is destroyed. Nothing is left behind and nothing of anybody else's is touched.

mod bpf;
mod hooks;
mod host;
pub mod landlock;
mod maps;
mod privileges;
mod program;
mod scratch;
mod settings;

use serde::Serialize;

/// How it stands with one thing that agentnet uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// It works less well than it could, or leaves a gap.
    Degraded,
    /// It is not there.
    Missing,
    /// It could not be tried, mostly for want of root.
    Unknown,
}

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Refusing what a policy does not allow.
    Enforcement,
    /// Starting and confining an agent with `agentnet run`.
    Run,
    /// Guarding containers from the host, which the daemon does.
    Containers,
}

/// What is looked at.
#[derive(Clone, Copy, Debug)]
struct Subject {
    id: &'static str,
    title: &'static str,
    needed_for: Purpose,
    required: bool,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name.
    pub id: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// How it stands.
    pub state: State,
    /// Whether agentnet cannot do without.
    pub required: bool,
    /// What it is needed for.
    pub needed_for: Purpose,
    /// What was seen.
    pub detail: String,
    /// How to get it or to close the gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    /// Whether it stands in the way: required, and missing or not known to work.
    pub fn blocks(&self) -> bool {
        self.required && matches!(self.state, State::Missing | State::Unknown)
    }
}

impl Subject {
    const fn required(id: &'static str, title: &'static str, needed_for: Purpose) -> Self {
        Self { id, title, needed_for, required: true }
    }

    const fn optional(id: &'static str, title: &'static str, needed_for: Purpose) -> Self {
        Self { id, title, needed_for, required: false }
    }

    fn check(self, state: State, detail: impl Into<String>, fix: Option<String>) -> Check {
        let Self { id, title, needed_for, required } = self;
        Check { id, title, state, required, needed_for, detail: detail.into(), fix }
    }

    fn ok(self, detail: impl Into<String>) -> Check {
        self.check(State::Ok, detail, None)
    }

    fn degraded(self, detail: impl Into<String>, fix: impl Into<String>) -> Check {
        self.check(State::Degraded, detail, Some(fix.into()))
    }

    fn missing(self, detail: impl Into<String>, fix: impl Into<String>) -> Check {
        self.check(State::Missing, detail, Some(fix.into()))
    }

    fn unknown(self, detail: impl Into<String>) -> Check {
        self.check(State::Unknown, detail, None)
    }

    fn needs_root(self) -> Check {
        self.unknown("needs root to be tried")
    }
}

/// Looks at everything; within each purpose in the order in which it should be read and put right. Takes
/// well under a second.
pub fn probe() -> Vec<Check> {
    let privileges = privileges::Privileges::of_this_process();
    let mut checks = host::probe(&privileges);
    checks.extend(hooks::probe(&privileges));
    checks
}
