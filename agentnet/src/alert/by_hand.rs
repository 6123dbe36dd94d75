//! What people do by hand, as it is told to others.

use super::{
    model::Severity,
    text::{MAX_SENTENCE, clean},
};
use crate::act::{Act, By, What, short};

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
            (Did::Done, What::Block { .. } | What::BlockName { .. }) => "blocked",
            (Did::Done, What::Allow(_)) => "allowed",
            (Did::Done, What::Quarantine) => "quarantined",
            (Did::Undone, What::Block { .. } | What::BlockName { .. }) => "unblocked",
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
        let Self { act, .. } = self;
        let somebody = || "Somebody who is not known any more".to_owned();
        let (who, by) = (capital(act.who()), self.by.map_or_else(somebody, By::to_string));
        let (terms, why) =
            (act.terms(), self.why.map(|why| format!(" ({})", clean(why, MAX_SENTENCE))).unwrap_or_default());
        let agents = if act.agent.is_some() { format!("agent {agent}") } else { "every agent".to_owned() };
        let done = match &act.what {
            What::Block { net } => format!("{who} blocked {} for {agents}{terms}", short(*net)),
            What::BlockName { name } => {
                format!("{who} blocked {} and all below it for {agents}{terms}", clean(name, MAX_SENTENCE))
            }
            What::Allow(allowed) => format!("{who} allowed {agents} to send to {allowed}{terms}"),
            What::Quarantine => format!("{who} put {agents} into quarantine{terms}"),
        };
        let had = match &act.what {
            What::Block { .. } | What::BlockName { .. } => format!("{who} had blocked it{terms}"),
            What::Allow(_) => format!("{who} had allowed it{terms}"),
            What::Quarantine => format!("{who} had put it there{terms}"),
        };
        let no_longer = match &act.what {
            What::Block { net } => format!("{} is no longer blocked for {agents}", short(*net)),
            What::BlockName { name } => {
                format!("{} is no longer blocked for {agents}", clean(name, MAX_SENTENCE))
            }
            What::Allow(allowed) => {
                format!("Agent {agent} is no longer allowed by hand to send to {allowed}")
            }
            What::Quarantine => format!("Agent {agent} is no longer in quarantine"),
        };
        match self.did {
            Did::Done => format!("{done}."),
            Did::Kept => format!("Agent {agent} has begun, and what was done by hand before holds: {done}."),
            Did::Undone => format!("{no_longer}: {by} took that back{why}. {had}."),
            Did::Ended => format!("{no_longer}, because the time for it is over. {had}."),
            Did::Withdrawn => {
                format!("{no_longer}, because policy {policy} as it was read anew denies it{why}. {had}.")
            }
        }
    }
}

/// The beginning of a sentence.
fn capital(text: String) -> String {
    let mut letters = text.chars();
    match letters.next() {
        // Names of users are written as they are.
        Some(first) if text.starts_with("somebody ") || text.starts_with("detection ") => {
            first.to_uppercase().chain(letters).collect()
        }
        _ => text,
    }
}
