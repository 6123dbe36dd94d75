//! Reading policies anew while agents run.
//!
//! The new policy goes to a free slot, one write per agent switches it over and makes what is remembered of
//! connections void, and the connections that the new policy does not allow are closed. A policy that
//! is invalid changes nothing. Nobody else notices.

use std::{path::Path, sync::Arc};

use agentnet_common::abi::{AgentCfg, MODE_AUDIT};
use jiff::Timestamp;

use super::{
    existing::Occasion,
    selection::{Selection, host_of},
    serve::Rings,
    start::StartError,
    state::Engine,
};
use crate::{
    act::Act,
    agent::resolv,
    alert::class::Enforcement,
    control::protocol::Failure,
    policy::{DIRECTORY, Policy, resolvers::Resolution},
};

impl Engine {
    /// Reads every policy anew, governs what is selected by now, and says what came of it.
    ///
    /// # Errors
    /// With everything that is wrong; agents of invalid policies keep what they have.
    pub(super) fn reload(&mut self, rings: &mut Rings) -> Result<String, Failure> {
        self.reloads += 1;
        let mut wrong = Vec::new();
        match resolv::this_host() {
            Ok((host, unknown)) => {
                self.host = host;
                self.unknown_resolvers = unknown;
            }
            Err(error) => wrong.push(format!("the addresses of this host are those of before: {error}")),
        }
        wrong.extend(self.read_secrets().iter().cloned());
        let (mut changed, mut closed) = (0, 0);
        for id in self.agents.keys().copied().collect::<Vec<_>>() {
            match self.reload_one(id) {
                Ok(None) => {}
                Ok(Some(count)) => {
                    changed += 1;
                    closed += count;
                }
                Err(why) => {
                    if !wrong.contains(&why) {
                        wrong.push(why);
                    }
                }
            }
        }
        let all = self.agents.len();
        let selected = self.reselect(rings);
        for why in selected.wrong {
            if !wrong.contains(&why) {
                wrong.push(why);
            }
        }
        let mut done =
            format!("{changed} of {all} agents have another policy now; {closed} connections were closed");
        if selected.begun + selected.ended > 0 {
            done.push_str(&format!(
                "; {} agents were selected and {} are selected no more",
                selected.begun, selected.ended
            ));
        }
        if wrong.is_empty() {
            Ok(done)
        } else {
            Err(Failure::new(format!("{}\n{done}", wrong.join("\n"))).exit(2))
        }
    }

    /// Reads one agent's policy anew; how many connections were closed, if it is another one.
    fn reload_one(&mut self, id: u32) -> Result<Option<usize>, String> {
        let Some(agent) = self.agents.get(&id) else { return Ok(None) };
        // Of a text that came with the request there is no newer one, but this host's addresses may be others.
        let text = (!agent.policy.is_unknown()).then(|| agent.policy.text().to_owned());
        let text = text.or_else(|| super::kept::Kept::read(&self.settings.state, &agent.name).ok()?.text);
        let read = self.reread(&agent.origin.clone(), text.as_deref(), agent.own.as_ref());
        let selection = match read {
            Ok(selection) => selection,
            Err(why) => {
                self.stays_as_it_was(id, &why);
                return Err(why);
            }
        };
        let Some(agent) = self.agents.get(&id) else { return Ok(None) };
        if Arc::ptr_eq(&selection.policy, &agent.policy) {
            self.is_as_written(id);
            return Ok(None);
        }
        if let Err(error) = self.switch(id, &selection.policy) {
            let why = error.to_string();
            self.stays_as_it_was(id, &why);
            return Err(why);
        }
        self.is_as_written(id);
        self.keep(id);
        let now = Timestamp::now();
        let Self { agents, followers, .. } = self;
        if let Some(agent) = agents.get_mut(&id) {
            tracing::info!(agent = %agent.name, "under its policy as it was read anew");
            agent.change(&Enforcement::Changed, now, followers);
        }
        match self.settle(id, Occasion::Reload) {
            Ok(report) => Ok(Some(report.destroyed.len())),
            Err(error) => {
                // Their packets are refused all the same.
                tracing::warn!(%error, "connections that are not allowed any more were not closed");
                Ok(Some(0))
            }
        }
    }

    /// The policy that an agent has from `origin`, read anew; `own` is whom it asks for names.
    pub(super) fn reread(
        &self,
        origin: &super::selection::Origin,
        text: Option<&str>,
        own: Option<&Resolution>,
    ) -> Result<Selection, String> {
        let directory = self.settings.policies.as_deref().unwrap_or(Path::new(DIRECTORY));
        Selection::again(origin, text, directory, &host_of(&self.host, own), &self.slots)
    }

    /// Puts another policy in force on an agent, by one write.
    ///
    /// # Errors
    /// If the kernel does not take it; what was in force still is.
    pub(super) fn switch(&mut self, id: u32, policy: &Arc<Policy>) -> Result<(), StartError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let narrowed = self.acts.narrowed(&agent.name, policy)?;
        let slot = self.slots.lease(&mut self.kernel, &narrowed)?;
        let before = agent.cfg;
        let mut cfg = policy.compiled.agent_cfg(id, slot, before.generation.wrapping_add(1));
        if agent.only_audit {
            cfg.mode = MODE_AUDIT;
        }
        let (name, audit) = (agent.name.clone(), cfg.mode == MODE_AUDIT);
        // Before: a deny rule speaks from its first moment on.
        let withdrawn = self.withdraw(id, policy);
        let cfg = self.acts.on(&name, cfg);
        if let Err(error) = self.put_in_force(id, cfg) {
            self.slots.release(&mut self.kernel, slot);
            return Err(error);
        }
        let acts = self.acts.of(&name);
        let Some(agent) = self.agents.get_mut(&id) else { return Ok(()) };
        agent.narrowed = narrowed;
        agent.closed = acts.iter().filter_map(Act::blocks_name).map(str::to_owned).collect();
        let mut meta = agent.meta().clone();
        meta.policy.clone_from(&policy.compiled.name);
        meta.audit = audit;
        if let Err(error) = agent.footprint.rewrite(meta) {
            tracing::warn!(agent = %agent.name, %error, "the registry has its policy of before");
        }
        agent.explain_by(policy, acts, Timestamp::now(), &mut self.followers);
        self.tell_withdrawn(id, &withdrawn);
        self.slots.release(&mut self.kernel, before.slot);
        Ok(())
    }

    /// Changes an agent's configuration, as a whole: at the hooks of its cgroup and at its interfaces.
    ///
    /// # Errors
    /// If the kernel does not take it; what was in force still is.
    pub(super) fn put_in_force(&mut self, id: u32, cfg: AgentCfg) -> Result<(), StartError> {
        let Self { agents, kernel, line, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return Ok(()) };
        kernel.configure(agent.cgroup.path(), cfg)?;
        if let Err(error) = line.configure(kernel, cfg) {
            let before = agent.cfg;
            // The error that led here is the one to tell; what is in force now is looked at every second.
            let _ = kernel.configure(agent.cgroup.path(), before);
            let _ = line.configure(kernel, before);
            return Err(error.into());
        }
        agent.cfg = cfg;
        Ok(())
    }

    fn stays_as_it_was(&mut self, id: u32, why: &str) {
        let Self { agents, followers, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        tracing::error!(agent = %agent.name, why, "its policy stays as it was");
        agent.change(&Enforcement::Kept(why.to_owned()), Timestamp::now(), followers);
        agent.outdated = Some(format!("its policy stays as it was before it was changed: {why}"));
    }

    fn is_as_written(&mut self, id: u32) {
        if let Some(agent) = self.agents.get_mut(&id) {
            agent.outdated = None;
        }
    }
}
