//! What was done by hand and holds, as the engine keeps it. No system calls here.

use std::collections::BTreeSet;

use crate::{
    act::{self, Act, Allowed, What},
    agent::AgentName,
    kernel::acts::Written,
    policy::net::Net,
};

/// Acts that one agent may have, and as many there may be for every agent: each block is a node of the kernel's trie for
/// every agent it is for.
pub(super) const MOST: usize = 128;

/// All acts of an engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    /// In the order of their numbers.
    acts: Vec<Act>,
    /// Agents that have ended and whose acts hold for the next of the name, because a policy selects it.
    waiting: BTreeSet<AgentName>,
}

impl Ledger {
    /// Of what was kept.
    pub(super) fn new(mut acts: Vec<Act>, waiting: BTreeSet<AgentName>) -> Self {
        acts.sort_by_key(|act| act.id);
        Self { acts, waiting }
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Act] {
        &self.acts
    }

    /// Agents whose acts are kept until the next of the name begins.
    pub(super) const fn waiting(&self) -> &BTreeSet<AgentName> {
        &self.waiting
    }

    /// The number of the next act: larger than those of all that hold.
    pub(super) fn next_id(&self) -> u32 {
        self.acts.last().map_or(1, |act| act.id.saturating_add(1))
    }

    /// Those that are about `agent`.
    pub(super) fn of<'a>(&'a self, agent: &'a AgentName) -> impl Iterator<Item = &'a Act> {
        self.acts.iter().filter(move |act| act.concerns(agent))
    }

    /// Adds one, in the place of one that says the same of the same agents. That one.
    ///
    /// # Errors
    /// If there are too many.
    pub(super) fn add(&mut self, act: Act) -> Result<Option<Act>, String> {
        let same = self.position(|other| other.agent == act.agent && other.says_the_same(&act));
        let replaced = same.map(|at| self.acts.remove(at));
        if self.acts.iter().filter(|other| other.agent == act.agent).count() >= MOST {
            return Err(match &act.agent {
                Some(agent) => format!("agent {agent} has {MOST} acts by hand already"),
                None => format!("there are {MOST} blocks for every agent already"),
            } + ", which is all there may be; take back what is not needed, or write rules");
        }
        self.acts.push(act);
        Ok(replaced)
    }

    /// The act with this number, which is none any more.
    pub(super) fn remove(&mut self, id: u32) -> Option<Act> {
        self.position(|act| act.id == id).map(|at| self.acts.remove(at))
    }

    fn position(&self, is: impl Fn(&Act) -> bool) -> Option<usize> {
        self.acts.iter().position(is)
    }

    /// The block of just this network, for just these agents.
    pub(super) fn block(&self, agent: Option<&AgentName>, net: Net) -> Option<&Act> {
        self.acts.iter().find(|act| act.agent.as_ref() == agent && act.blocks() == Some(net))
    }

    /// What quarantines `agent`.
    pub(super) fn quarantine(&self, agent: &AgentName) -> Option<&Act> {
        self.acts.iter().find(|act| act.concerns(agent) && act.what == What::Quarantine)
    }

    /// The act of `agent` that allows what `is` says.
    pub(super) fn allowed(&self, agent: &AgentName, is: impl Fn(&Allowed) -> bool) -> Option<&Act> {
        self.acts.iter().find(|act| act.concerns(agent) && act.allows().is_some_and(&is))
    }

    /// Those that are over at `now`, nanoseconds of `CLOCK_BOOTTIME`.
    pub(super) fn over(&self, now: u64) -> Vec<u32> {
        self.acts.iter().filter(|act| act.is_over(now)).map(|act| act.id).collect()
    }

    /// Forgets what was done to an agent that has ended; with `again`, because an agent of that name may begin by itself,
    /// only what was allowed. Whether anything was forgotten.
    pub(super) fn end(&mut self, agent: &AgentName, again: bool) -> bool {
        let before = self.acts.len();
        self.acts.retain(|act| act.agent.as_ref() != Some(agent) || again && act.closes());
        if self.acts.iter().any(|act| act.agent.as_ref() == Some(agent)) {
            self.waiting.insert(agent.clone());
        }
        self.acts.len() != before
    }

    /// An agent of this name has begun.
    pub(super) fn begin(&mut self, agent: &AgentName) {
        self.waiting.remove(agent);
    }

    /// Forgets what was done to agents that are not `known` and not waited for.
    pub(super) fn prune(&mut self, known: impl Fn(&AgentName) -> bool) {
        let Self { acts, waiting } = self;
        acts.retain(|act| act.agent.as_ref().is_none_or(|of| known(of) || act.closes() && waiting.contains(of)));
        waiting.retain(|name| !known(name) && acts.iter().any(|act| act.agent.as_ref() == Some(name)));
    }

    /// What the kernel is to hold for `agent`.
    pub(super) fn written(&self, agent: &AgentName) -> Written {
        Written { blocks: act::nodes(self.of(agent)), grants: act::grants(self.of(agent)) }
    }
}

impl Act {
    /// Whether both cannot hold beside each other.
    fn says_the_same(&self, other: &Self) -> bool {
        match (&self.what, &other.what) {
            (What::Block { net }, What::Block { net: same }) => net == same,
            (What::Quarantine, What::Quarantine) => true,
            (What::Allow(allowed), What::Allow(same)) => {
                allowed.is_called(&same.target, same.port, same.protocol)
            }
            _ => false,
        }
    }
}
