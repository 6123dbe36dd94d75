//! Taking over the agents of a daemon that is gone: killed, stopped or of an older version.
//!
//! They have been under their policies all the time. Their links are moved to the programs of this build, their
//! policies read anew; what ended meanwhile is taken down as it would have been.

use std::sync::Arc;

use agentnet_common::abi::AgentCfg;
use jiff::Timestamp;

use super::{
    agent::{Agent, Beginning, Phase},
    host::Footprint,
    kept::Kept,
    selection::{Origin, Selection},
    serve::Rings,
    start::StartError,
    state::Engine,
};
use crate::{
    agent::{
        AgentName,
        registry::{EngineKind, Exclusive, Meta, Owner, Registry, RegistryError},
    },
    alert::class::Enforcement,
    kernel::pins,
    policy::Policy,
};

/// Why an agent is not looked after. It stays under the policy it has.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// Its entry in the registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What the kernel holds.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Engine {
    /// Takes over every agent that a daemon before this one has left. Whatever does not work is told by `status`,
    /// and the agent stays as it was.
    ///
    /// # Errors
    /// If the registry cannot be used at all.
    pub(super) fn adopt(&mut self, rings: &mut Rings) -> Result<(), RegistryError> {
        let registry = Registry::system();
        let exclusive = registry.exclusive()?;
        let listed = registry.list()?;
        let mut known = Vec::new();
        let mut ours = Vec::new();
        for listed in listed {
            known.push(listed.name.clone());
            match listed.meta {
                Some(meta) if meta.engine == EngineKind::Daemon && listed.owner == Owner::Gone => {
                    ours.push((listed.name, meta));
                }
                _ => {}
            }
        }
        self.reserve(&known, &ours);
        self.load_acts();
        super::kept::prune(&self.settings.state, &known);
        // Written down, and never attached: a daemon died in between.
        let (unfinished, ours): (Vec<_>, Vec<_>) = ours.into_iter().partition(|(_, meta)| meta.id == 0);
        for (name, meta) in &ours {
            if let Err(error) = self.adopt_one(&registry, &exclusive, name, meta) {
                let problem = format!("agent {name} is not looked after: {error}; it stays under its policy");
                self.problem(problem);
            }
        }
        let unfinished = unfinished.iter().map(|(name, meta)| {
            registry.adopt(&exclusive, name).map(|entry| Footprint::adopted(entry, name, meta))
        });
        let unfinished: Vec<_> = unfinished.collect();
        drop(exclusive);
        for footprint in unfinished {
            if let Err(error) = footprint.map_err(Into::into).and_then(|mut footprint| footprint.remove()) {
                self.problem(format!("something is left of an agent that was not attached: {error}"));
            }
        }
        let Self { line, kernel, agents, reserved, .. } = self;
        if let Err(error) = line.prune(kernel, |id| agents.contains_key(&id) || reserved.contains(&id)) {
            self.problem(format!("something is left at interfaces of agents that are gone: {error}"));
        }
        self.prune_acts(&known);
        self.retire_others();
        // What the daemon before did not get to read: now there is somebody whom it can be told of.
        self.records(rings.rest());
        for id in self.agents.keys().copied().collect::<Vec<_>>() {
            self.end_if_over(id, rings);
        }
        Ok(())
    }

    /// Sets aside what the kernel holds for agents before any number or slot is given to another: of those that
    /// are about to be taken over, and of links that nobody has written down.
    fn reserve(&mut self, known: &[AgentName], ours: &[(AgentName, Meta)]) {
        let pinned = pins::agents(self.kernel.pins()).unwrap_or_default();
        for (name, meta) in ours {
            self.reserved.push(meta.id);
            if let Ok(cfg) = self.kernel.configuration(&meta.cgroup) {
                self.slots.reserve(cfg.slot);
            } else if let Some(cfg) = self.kernel.configuration_of(name) {
                self.slots.reserve(cfg.slot);
            }
        }
        for name in pinned.iter().filter(|name| !known.contains(name)) {
            let problem = match self.kernel.configuration_of(name) {
                Some(cfg) => {
                    self.reserved.push(cfg.agent);
                    self.slots.reserve(cfg.slot);
                    format!("{name} has pinned links that the registry does not know; they stay in force")
                }
                // Its cgroup is gone: nothing to be held back by it any more.
                None => match pins::clear_agent(self.kernel.pins(), name) {
                    Ok(()) => continue,
                    Err(error) => format!("pins of {name} are left: {error}"),
                },
            };
            self.problem(problem);
        }
    }

    fn adopt_one(
        &mut self,
        registry: &Registry,
        exclusive: &Exclusive,
        name: &AgentName,
        meta: &Meta,
    ) -> Result<(), AdoptError> {
        let entry = registry.adopt(exclusive, name)?;
        let footprint = Footprint::adopted(entry, name, meta);
        let phase = if meta.made { Phase::Orphaned } else { Phase::Attached };
        let here = meta.pins == self.kernel.pins();
        let held = if here { self.kernel.configuration(&meta.cgroup).ok() } else { None };
        let mut notes = Vec::new();
        if let Some(cfg) = held
            && let Err(error) = self.kernel.relink(name, &meta.cgroup)
        {
            notes.push(format!("its programs are those of the daemon before: {error}"));
            tracing::error!(agent = %name, %error, slot = cfg.slot, "programs were not replaced");
        }
        if let Err(error) = self.kernel.give_budget(meta.id) {
            notes.push(format!("it has the budget of samples of before: {error}"));
        }
        if here && let Err(error) = self.line.adopt(&self.kernel, name, meta.id) {
            notes.push(format!("its interfaces are guarded by the programs of before: {error}"));
            tracing::error!(agent = %name, %error, "programs were not replaced");
        }
        let (selection, problem) = self.select_again(name, meta);
        notes.extend(problem);
        let before = held.or_else(|| self.held_elsewhere(name, meta)).unwrap_or_default();
        let cfg = AgentCfg { agent: meta.id, ..before };
        self.recall_acts(meta.id, name, &cfg);
        let (log, acts) = (self.log(name, meta.uid), self.acts.of(name));
        let narrowed = Arc::clone(&selection.policy);
        let beginning =
            Beginning { name: name.clone(), cfg, selection, footprint, phase, log, acts, narrowed };
        let counters = self.kernel.counters(meta.id).unwrap_or_default();
        let mut agent = Agent::new(beginning, self.clock).resumed(&counters);
        agent.notes = notes;
        if let Ok(kept) = Kept::read(&self.settings.state, name) {
            agent.selected = kept.selected;
            agent.place = kept.place.or(agent.place);
        }
        let gone = !agent.is_there();
        self.agents.insert(meta.id, agent);
        self.reserved.retain(|id| *id != meta.id);
        self.restore_ledger(meta.id);
        if !gone {
            if let Err(error) = self.write_acts(meta.id, name) {
                self.stand(meta.id, format!("what was done by hand is as it was before: {error}"));
            }
            let links = pins::links_of(self.kernel.pins(), name);
            let installed = match (here, held) {
                (true, Some(_)) => self.reinstall(meta.id),
                // They belong to maps that are gone: nobody can say what they let through, and pins are not
                // to be taken from under them.
                (true, None) if links.exists() => Err(StartError::Pinned(links)),
                _ => self.attach_again(meta.id),
            };
            if let Err(error) = installed {
                self.stand(meta.id, format!("its policy is the one of before: {error}"));
            }
            self.know_names(meta.id);
            self.guard(meta.id);
            self.watch(meta.id);
        }
        self.tell_adopted(meta.id);
        self.tell_open(meta.id);
        Ok(())
    }

    /// The agent's policy, read anew. If that is not possible, what is in force is known to the kernel alone; then
    /// with a sentence about it.
    fn select_again(&self, name: &AgentName, meta: &Meta) -> (Selection, Option<String>) {
        let unknown = |origin: Origin, audit: bool, why: String| {
            let policy = Arc::new(Policy::unknown(&meta.policy));
            let problem = format!("its policy cannot be read, so the one of before stays in force: {why}");
            (Selection { policy, origin, audit, own: None, note: None }, Some(problem))
        };
        let kept = match Kept::read(&self.settings.state, name) {
            Ok(kept) => kept,
            Err(error) => {
                return unknown(Origin::Text(meta.policy.clone()), meta.audit, error.to_string());
            }
        };
        match self.reread(&kept.origin, kept.text.as_deref(), kept.own.as_ref()) {
            Ok(selection) => (Selection { audit: kept.audit, own: kept.own, ..selection }, None),
            Err(why) => {
                let (unknown, problem) = unknown(kept.origin, kept.audit, why);
                (Selection { own: kept.own, ..unknown }, problem)
            }
        }
    }

    /// Puts the policy that was read into the place of the one that the daemon before has left.
    fn reinstall(&mut self, id: u32) -> Result<(), StartError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        if agent.policy.is_unknown() {
            return self.put_acts(id);
        }
        let policy = Arc::clone(&agent.policy);
        self.switch(id, &policy)
    }

    /// Notes something that `status` is to tell of the agent.
    pub(super) fn stand(&mut self, id: u32, problem: String) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        tracing::error!(agent = %agent.name, problem);
        agent.notes.push(problem);
    }

    fn tell_adopted(&mut self, id: u32) {
        let Self { agents, followers, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        let problems = agent.notes.join("; ");
        tracing::info!(agent = %agent.name, problems, "taken over");
        let change = if agent.is_audit() { Enforcement::Auditing } else { Enforcement::Started };
        agent.change(&change, Timestamp::now(), followers);
        if !problems.is_empty() {
            agent.change(&Enforcement::Kept(problems), Timestamp::now(), followers);
        }
    }
}
