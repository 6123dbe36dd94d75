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
        // A quarantine takes no room in the kernel, and is what is left to do when nothing else fits.
        let counted = |other: &&Act| other.agent == act.agent && other.what != What::Quarantine;
        if act.what != What::Quarantine && self.acts.iter().filter(counted).count() >= MOST {
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

    /// The block of just this name, for just these agents.
    pub(super) fn block_name(&self, agent: Option<&AgentName>, name: &str) -> Option<&Act> {
        self.acts.iter().find(|act| act.agent.as_ref() == agent && act.blocks_name() == Some(name))
    }

    /// The names that are blocked for `agent`.
    pub(super) fn names(&self, agent: &AgentName) -> BTreeSet<String> {
        self.of(agent).filter_map(Act::blocks_name).map(str::to_owned).collect()
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
        acts.retain(|act| {
            act.agent.as_ref().is_none_or(|of| known(of) || act.closes() && waiting.contains(of))
        });
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
            (What::BlockName { name }, What::BlockName { name: same }) => name == same,
            (What::Quarantine, What::Quarantine) => true,
            (What::Allow(allowed), What::Allow(same)) => {
                allowed.is_called(&same.target, same.port, same.protocol)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentnet_common::abi::OPEN;
    use jiff::Timestamp;

    use super::*;
    use crate::act::Transport;

    fn name(text: &str) -> AgentName {
        text.parse().unwrap()
    }

    fn act(ledger: &Ledger, agent: Option<&str>, what: What, length: Option<Duration>) -> Act {
        let (until, expiry) = act::end(length);
        let agent = agent.map(name);
        Act {
            id: ledger.next_id(),
            what,
            agent,
            by: None,
            detection: None,
            reason: None,
            since: Timestamp::now(),
            until,
            expiry,
        }
    }

    fn block(text: &str) -> What {
        What::Block { net: act::net(text).unwrap() }
    }

    fn allow(text: &str) -> What {
        let addresses = vec![text.parse().unwrap()];
        let target = text.to_owned();
        What::Allow(Allowed { target, addresses, port: 443, protocol: Transport::Tcp, local: false })
    }

    fn add(ledger: &mut Ledger, agent: Option<&str>, what: What) -> Option<Act> {
        let length = matches!(what, What::Allow(_)).then_some(Duration::from_secs(60));
        ledger.add(act(ledger, agent, what, length)).unwrap()
    }

    #[test]
    fn what_is_done_again_takes_the_place_of_what_was() {
        let mut ledger = Ledger::default();
        for (agent, what) in [
            (None, block("10.0.0.0/8")),
            (Some("a"), block("10.0.0.0/8")),
            (Some("a"), What::Quarantine),
            (Some("a"), allow("192.0.2.1")),
            (Some("b"), allow("192.0.2.1")),
        ] {
            assert_eq!(add(&mut ledger, agent, what.clone()), None);
            let replaced = add(&mut ledger, agent, what).unwrap();
            assert_eq!(replaced.id + 1, ledger.all().last().unwrap().id);
        }
        assert_eq!(ledger.all().len(), 5);
        assert_eq!(ledger.of(&name("a")).count(), 4);
        assert_eq!(ledger.of(&name("c")).count(), 1);
        let ids: Vec<u32> = ledger.all().iter().map(|act| act.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }

    #[test]
    fn there_are_not_more_than_fit() {
        let mut ledger = Ledger::default();
        let net = |index: usize| block(&format!("10.{}.{}.0/24", index / 256, index % 256));
        for index in 0..MOST {
            add(&mut ledger, None, net(index));
            add(&mut ledger, Some("a"), net(index));
        }
        for agent in [None, Some("a")] {
            let more = act(&ledger, agent, net(MOST), None);
            assert!(ledger.add(more).is_err());
            // What is there can be done again.
            assert!(add(&mut ledger, agent, net(0)).is_some());
        }
        add(&mut ledger, Some("b"), net(MOST));
        // All agents there may be, with all they may have and a node for IPv4 each, fit into the kernel's trie.
        let most = (agentnet_common::abi::MAX_AGENTS as usize - 1) * (2 * MOST + 1);
        assert!(most <= agentnet_common::abi::BLOCK_ENTRIES as usize);
    }

    #[test]
    fn a_quarantine_always_fits() {
        let mut ledger = Ledger::default();
        for index in 0..MOST {
            add(&mut ledger, Some("a"), What::BlockName { name: format!("n{index}.example") });
        }
        let more = act(&ledger, Some("a"), What::BlockName { name: "more.example".to_owned() }, None);
        assert!(ledger.add(more).is_err());
        add(&mut ledger, Some("a"), What::Quarantine);
        assert_eq!(ledger.names(&name("a")).len(), MOST);
        assert!(ledger.names(&name("b")).is_empty());
        assert!(ledger.block_name(Some(&name("a")), "n7.example").is_some());
        assert!(ledger.block_name(None, "n7.example").is_none());
        // Names are no nodes of the kernel's trie for addresses.
        assert!(ledger.written(&name("a")).is_empty());
    }

    #[test]
    fn only_what_closes_waits_for_an_agent_that_begins_again() {
        let mut ledger = Ledger::default();
        for agent in ["a", "b"] {
            add(&mut ledger, Some(agent), What::Quarantine);
            add(&mut ledger, Some(agent), allow("192.0.2.1"));
        }
        add(&mut ledger, None, block("10.0.0.0/8"));
        assert!(ledger.end(&name("a"), true) && ledger.end(&name("b"), false));
        assert!(!ledger.end(&name("a"), true), "nothing more to forget");
        assert!(ledger.quarantine(&name("a")).is_some() && ledger.quarantine(&name("b")).is_none());
        let kept = Ledger::new(ledger.all().to_vec(), ledger.waiting().clone());
        assert_eq!(kept, ledger);
        ledger.prune(|_| false);
        assert!(ledger.quarantine(&name("a")).is_some(), "it is waited for");
        ledger.begin(&name("a"));
        ledger.prune(|agent| *agent == name("a"));
        assert!(ledger.quarantine(&name("a")).is_some(), "it is there");
        ledger.prune(|_| false);
        assert_eq!(ledger.all().len(), 1, "what is for every agent stays");
    }

    #[test]
    fn the_kernel_gets_what_concerns_an_agent() {
        let mut ledger = Ledger::default();
        add(&mut ledger, None, block("::/0"));
        add(&mut ledger, Some("a"), block("2001:db8::7"));
        add(&mut ledger, Some("a"), allow("192.0.2.1"));
        let written = ledger.written(&name("a"));
        assert_eq!(written.blocks.len(), 3);
        assert_eq!(written.blocks.get(&Net::V4), Some(&OPEN));
        assert_eq!(written.grants.len(), 2, "the endpoint and its address");
        let other = ledger.written(&name("b"));
        assert_eq!((other.blocks.len(), other.grants.len()), (2, 0));
    }
}
