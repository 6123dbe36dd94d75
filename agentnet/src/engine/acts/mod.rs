//! What people do by hand, put in force: the kernel first, then the record, then whoever is told.
//!
//! The ledger is what holds. For each agent it is written into the maps that the programs ask, and the agent gets a
//! new generation, so that nothing remembered stands in the way; then connections that are forbidden now are
//! closed. What closes something is done although it cannot be recorded; what opens something ends by itself in
//! the kernel, whether this engine lives then or not.

mod found;
mod kept;
mod ledger;
mod orders;

use std::{collections::BTreeMap, sync::Arc};

use agentnet_common::abi::{AgentCfg, CFG_BLOCKS, CFG_GRANTS, Grant, MODE_QUARANTINE, OPEN};
use jiff::Timestamp;

use self::ledger::Ledger;
use super::{existing::Occasion, start::StartError, state::Engine};
use crate::{
    act::{self, Act, InForce, What},
    agent::AgentName,
    alert::by_hand::{Change, Did},
    control::protocol::Status,
    kernel::{KernelError, acts::Written},
    policy::Policy,
};

pub use self::kept::{forget as forget_kept, read as read_kept};

/// How long it is waited before what could not be ended is tried again, nanoseconds.
const RETRY: u64 = 10_000_000_000;

/// What was done by hand, and what the kernel has of it.
#[derive(Debug, Default)]
pub(super) struct Acts {
    ledger: Ledger,
    /// By agent.
    written: BTreeMap<u32, Written>,
}

impl Acts {
    /// What was done to `agent` and holds.
    pub(super) fn of(&self, agent: &AgentName) -> Vec<Act> {
        self.ledger.of(agent).cloned().collect()
    }

    /// The same as the verdict reads it.
    pub(super) fn in_force(&self, agent: &AgentName) -> InForce {
        InForce::new(self.of(agent), act::now())
    }

    /// The configuration `cfg`, as the policy of `agent` gives it, with what was done by hand on top.
    pub(super) fn on(&self, agent: &AgentName, cfg: AgentCfg) -> AgentCfg {
        let Written { blocks, grants } = self.ledger.written(agent);
        let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
        let flags = cfg.flags & !(CFG_BLOCKS | CFG_GRANTS)
            | flag(CFG_BLOCKS, !blocks.is_empty())
            | flag(CFG_GRANTS, !grants.is_empty());
        let mode = if self.ledger.quarantine(agent).is_some() { MODE_QUARANTINE } else { cfg.mode };
        AgentCfg { mode, flags, ..cfg }
    }

    /// What is to be in `agent`'s slot: its policy, without the names that are blocked.
    ///
    /// # Errors
    /// If there is no room for them.
    pub(super) fn narrowed(
        &self,
        agent: &AgentName,
        policy: &Arc<Policy>,
    ) -> Result<Arc<Policy>, StartError> {
        let names = self.ledger.names(agent);
        // What is in force of a policy that cannot be read, only the kernel knows.
        if names.is_empty() || policy.is_unknown() {
            return Ok(Arc::clone(policy));
        }
        let narrowed = policy.without(names.iter().map(String::as_str));
        narrowed.map(Arc::new).map_err(StartError::Policy)
    }

    /// What is for none of these agents: it holds for those that begin later.
    pub(super) fn waiting(&self, agents: &[Status]) -> Vec<Act> {
        let is_shown = |act: &&Act| !agents.iter().any(|status| act.concerns(&status.agent));
        self.ledger.all().iter().filter(is_shown).cloned().collect()
    }
}

impl Engine {
    /// Has the kernel hold what was done to an agent by hand. Its configuration is to say so, see [`Acts::on`].
    ///
    /// # Errors
    /// If a map is full or cannot be written; it is tried again with the next change.
    pub(super) fn write_acts(&mut self, id: u32, name: &AgentName) -> Result<(), KernelError> {
        let after = self.acts.ledger.written(name);
        let before = self.acts.written.entry(id).or_default();
        if *before == after {
            return Ok(());
        }
        match self.kernel.write_acts(id, before, &after) {
            Ok(()) => {
                *before = after;
                Ok(())
            }
            Err(error) => {
                // What is there now is not known: all of it is written or deleted the next time.
                let nets = before.blocks.keys().chain(after.blocks.keys());
                let blocks = nets.map(|net| (*net, OPEN)).collect();
                let endpoints = before.grants.keys().chain(after.grants.keys());
                let grants = endpoints.map(|endpoint| (*endpoint, Grant::default())).collect();
                *before = Written { blocks, grants };
                Err(error)
            }
        }
    }

    /// Has the kernel hold nothing of an agent that is gone: the next one of its number is another.
    pub(super) fn unwrite_acts(&mut self, id: u32) {
        let Some(before) = self.acts.written.remove(&id).filter(|written| !written.is_empty()) else {
            return;
        };
        if let Err(error) = self.kernel.write_acts(id, &before, &Written::default()) {
            self.acts.written.insert(id, before);
            // Nobody gets the number as long as something of it is left.
            self.reserved.push(id);
            self.problem(format!(
                "what was allowed and blocked by hand for an agent that is gone is left: {error}"
            ));
        }
    }

    /// Puts what was done to an agent by hand in force.
    ///
    /// # Errors
    /// If the kernel does not take it: that the agent is not enforced is told until it does.
    pub(super) fn put_acts(&mut self, id: u32) -> Result<(), StartError> {
        let put = self.try_put_acts(id);
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.unacted =
                put.as_ref().err().map(|error| format!("what was done by hand is not in force: {error}"));
        }
        put
    }

    fn try_put_acts(&mut self, id: u32) -> Result<(), StartError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let (name, policy) = (agent.name.clone(), Arc::clone(&agent.policy));
        let names = self.acts.ledger.names(&name);
        let slot = agent.cfg.slot;
        let narrowed = if agent.closed == names {
            None
        } else if policy.is_unknown() {
            return Err(StartError::Policy(format!(
                "policy {} cannot be read, so no name can be blocked or unblocked",
                policy.compiled.name
            )));
        } else {
            Some(self.acts.narrowed(&name, &policy)?)
        };
        self.write_acts(id, &name)?;
        let fresh = match &narrowed {
            Some(narrowed) => self.slots.lease(&mut self.kernel, narrowed)?,
            None => slot,
        };
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let base = AgentCfg {
            slot: fresh,
            mode: agent.policy_mode(),
            generation: agent.cfg.generation.wrapping_add(1),
            ..agent.cfg
        };
        let cfg = self.acts.on(&name, base);
        if let Err(error) = self.put_in_force(id, cfg) {
            if narrowed.is_some() {
                self.slots.release(&mut self.kernel, fresh);
            }
            return Err(error);
        }
        if let Some(narrowed) = narrowed {
            self.slots.release(&mut self.kernel, slot);
            if let Some(agent) = self.agents.get_mut(&id) {
                (agent.narrowed, agent.closed) = (narrowed, names);
            }
        }
        let acts = self.acts.of(&name);
        let Self { agents, followers, .. } = self;
        if let Some(agent) = agents.get_mut(&id) {
            agent.explain_by(&policy, acts, Timestamp::now(), followers);
        }
        Ok(())
    }

    /// Agents that an act is about, by number.
    fn concerned(&self, act: &Act) -> Vec<u32> {
        self.agents.values().filter(|agent| act.concerns(&agent.name)).map(super::agent::Agent::id).collect()
    }

    /// Tells of a change, in the stream of every agent that it is about.
    fn tell_act(&mut self, change: &Change<'_>) {
        let now = Timestamp::now();
        tracing::info!(did = change.label(), act = %change.act, "by hand");
        let Self { agents, followers, .. } = self;
        for agent in agents.values_mut().filter(|agent| change.act.concerns(&agent.name)) {
            agent.act(change, now, followers);
        }
    }

    /// Ends what is over. The kernel lets nothing through by what is over, so nothing depends on this being quick.
    pub(super) fn end_acts(&mut self) {
        let unacted = self.agents.values().filter(|agent| agent.unacted.is_some() && agent.is_there());
        for id in unacted.map(super::agent::Agent::id).collect::<Vec<_>>() {
            // Told by the agent's problems.
            let _ = self.put_acts(id);
        }
        let over = self.acts.ledger.over(act::now());
        if over.is_empty() {
            return;
        }
        for number in over {
            let Some(act) = self.acts.ledger.remove(number) else { continue };
            if let Err(why) = self.end_act(&act) {
                tracing::error!(%act, why, "what is over cannot be ended; it is tried again");
                let again = Act { expiry: act::now().saturating_add(RETRY), ..act };
                // There was room for it a moment ago.
                let _ = self.acts.ledger.add(again);
                continue;
            }
            self.tell_act(&Change::new(Did::Ended, &act));
        }
        if let Err(why) = self.keep_acts() {
            self.problem(why);
        }
    }

    /// Ends an act that is no more in the ledger.
    fn end_act(&mut self, act: &Act) -> Result<(), String> {
        for id in self.concerned(act) {
            self.lift(id, act)?;
        }
        Ok(())
    }

    /// Ends for one agent an act that is no more in the ledger: what it held back is destroyed first, and what is
    /// forbidden without it is closed. How many connections were.
    fn lift(&mut self, id: u32, act: &Act) -> Result<usize, String> {
        if !self.agents.get(&id).is_some_and(super::agent::Agent::is_there) {
            // It is about to be taken down.
            return Ok(0);
        }
        if act.closes() {
            self.destroy_held(id)?;
        }
        self.put_acts(id).map_err(|error| error.to_string())?;
        match &act.what {
            // Nothing is forbidden that was not before.
            What::Block { .. } | What::BlockName { .. } | What::Quarantine => Ok(0),
            What::Allow(_) => match self.settle(id, Occasion::Reload) {
                Ok(report) => Ok(report.destroyed.len()),
                Err(error) => {
                    // Their packets are refused all the same.
                    tracing::warn!(%error, "connections that are not allowed any more were not closed");
                    Ok(0)
                }
            },
        }
    }

    /// Destroys what was held back, which would leave when it is let through.
    fn destroy_held(&self, id: u32) -> Result<(), String> {
        let told = |error: super::end::EndError| error.to_string();
        let all = self.kernel.counters(id).is_ok_and(|counters| counters.refused_overflow > 0);
        let (refused, destroyed) = self.destroy_refused(id, all).map_err(told)?;
        if destroyed > 0 {
            tracing::info!(agent = id, destroyed, "destroyed sockets with refused data");
        }
        self.kernel.forget_refused(refused).map_err(|error| error.to_string())
    }

    /// An agent begins, to which this was done before.
    pub(super) fn begin_acts(&mut self, id: u32) -> Vec<Act> {
        let Some(agent) = self.agents.get(&id) else { return Vec::new() };
        self.acts.ledger.begin(&agent.name);
        self.acts.of(&agent.name)
    }

    /// Forgets what was done to an agent that has ended; with `again`, because the next one of its name begins by itself,
    /// only what was allowed.
    pub(super) fn forget_acts(&mut self, id: u32, name: &AgentName, again: bool) {
        self.unwrite_acts(id);
        if self.acts.ledger.end(name, again)
            && let Err(why) = self.keep_acts()
        {
            self.problem(why);
        }
    }

    /// Takes back what was allowed and `policy`, which is about to come into force, denies. Each with the rule.
    pub(super) fn withdraw(&mut self, id: u32, policy: &Policy) -> Vec<(Act, String)> {
        let Some(agent) = self.agents.get(&id) else { return Vec::new() };
        let name = agent.name.clone();
        let denied = |act: &Act| {
            let endpoints = act.allows()?.endpoints();
            let rule = endpoints.into_iter().find_map(|endpoint| orders::denied(policy, &endpoint))?;
            Some((act.clone(), rule))
        };
        let withdrawn: Vec<(Act, String)> = self.acts.ledger.of(&name).filter_map(denied).collect();
        if withdrawn.is_empty() {
            return withdrawn;
        }
        for (act, _) in &withdrawn {
            self.acts.ledger.remove(act.id);
        }
        if let Err(error) = self.write_acts(id, &name) {
            self.stand(
                id,
                format!("what was allowed by hand and is denied by the policy cannot be taken back: {error}"),
            );
        }
        if let Err(why) = self.keep_acts() {
            self.problem(why);
        }
        withdrawn
    }

    /// Tells of what was taken back because a policy denies it.
    pub(super) fn tell_withdrawn(&mut self, id: u32, withdrawn: &[(Act, String)]) {
        let Self { agents, followers, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        for (act, rule) in withdrawn {
            let change = Change { why: Some(rule), ..Change::new(Did::Withdrawn, act) };
            agent.act(&change, Timestamp::now(), followers);
        }
    }
}
