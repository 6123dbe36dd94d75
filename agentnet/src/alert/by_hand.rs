//! What people do by hand, as it is told to others.

use super::model::Severity;
use crate::act::{Act, By, What};

/// What became of an act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// It was done.
    Done,
    /// Somebody took it back.
    Undone,
    /// Its time was over.
    Ended,
    /// The policy was changed, and denies now what was allowed.
    Withdrawn,
    /// It holds for an agent that has just begun.
    Kept,
}

/// A change of what was done by hand.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// What became of it.
    pub did: Did,
    /// The act.
    pub act: &'a Act,
    /// Who took it back.
    pub by: Option<&'a By>,
    /// Why it was taken back, in somebody's words, or the rule that denies what was allowed.
    pub why: Option<&'a str>,
}

impl<'a> Change<'a> {
    /// A change that nobody made just now, or that is in the act itself.
    pub const fn new(did: Did, act: &'a Act) -> Self {
        Self { did, act, by: None, why: None }
    }

    /// The name in JSON.
    pub const fn label(&self) -> &'static str {
        match (self.did, &self.act.what) {
            (Did::Done, What::Block { .. }) => "blocked",
            (Did::Done, What::Allow(_)) => "allowed",
            (Did::Done, What::Quarantine) => "quarantined",
            (Did::Undone, What::Block { .. }) => "unblocked",
            (Did::Undone, What::Allow(_)) => "revoked",
            (Did::Undone, What::Quarantine) => "released",
            (Did::Ended, _) => "ended",
            (Did::Withdrawn, _) => "withdrawn",
            (Did::Kept, _) => "kept",
        }
    }

    /// The severity: what opens something is to be seen, and so is that an agent is in quarantine.
    pub const fn severity(&self) -> Severity {
        match (self.did, &self.act.what) {
            (Did::Done | Did::Kept, What::Quarantine) => Severity::Medium,
            (Did::Done | Did::Undone | Did::Withdrawn | Did::Kept, _) => Severity::Low,
            (Did::Ended, _) => Severity::Info,
        }
    }

    /// The sentence about `agent`, whose policy is called `policy`.
    pub fn sentence(&self, agent: &str, policy: &str) -> String {
        let Self { did, act, .. } = self;
        let what = match &act.what {
            What::Block { net } => {
                let for_whom = if act.agent.is_some() { format!("agent {agent}") } else { "every agent".to_owned() };
                format!("{} is blocked for {for_whom}", crate::act::short(*net))
            }
            What::Allow(allowed) => {
                format!("Agent {agent} may send to {allowed}, whatever policy {policy} allows")
            }
            What::Quarantine => format!("Agent {agent} is in quarantine and may send nothing at all"),
        };
        let circumstances = act.circumstances();
        let by = self.by.map(|by| format!(" by {by}")).unwrap_or_default();
        let why = self.why.map(|why| format!(" ({why})")).unwrap_or_default();
        match did {
            Did::Done => format!("{what}: {circumstances}."),
            Did::Kept => format!("{what}, as it was before agent {agent} began: {circumstances}."),
            Did::Undone => format!("It was taken back{by}{why} that: {what}. It was {circumstances}."),
            Did::Ended => format!("Its time is over, and it does not hold any more that: {what}. It was {circumstances}."),
            Did::Withdrawn => format!(
                "It does not hold any more that: {what}. It was {circumstances}, and policy {policy} as it was read \
                 anew denies it{why}."
            ),
        }
    }
}
