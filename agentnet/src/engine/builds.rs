//! Taking over from a daemon of another build, whose maps are not ours: another version, or one that keeps something in
//! another form.
//!
//! Both enforce for a moment: first ours with what theirs knew of the agent, and only then theirs go.

use std::{
    iter,
    path::{Path, PathBuf},
};

use agentnet_common::abi::AgentCfg;

use super::{existing::Occasion, selectors::id_of, start::StartError, state::Engine};
use crate::{
    agent::{AgentName, registry::Meta},
    kernel::{Kernel, KernelError, held::Held, inherit, pins},
};

/// The kernel with the maps of the daemon before this one, or with new ones where it has left none that fit: what rests on
/// those is set aside and goes on to be enforced until it is taken over.
///
/// # Errors
/// If the kernel refuses.
pub(super) fn open_kernel(pins: &Path) -> Result<Kernel, KernelError> {
    match Kernel::adopt(pins) {
        Err(KernelError::Shape { path, what }) => {
            tracing::info!(map = %path.display(), what, "the daemon before was of another build, and its maps are set aside");
            pins::set_aside(pins).map_err(|source| KernelError::Unpin { path: pins.to_owned(), source })?;
            Kernel::adopt(pins)
        }
        adopted => adopted,
    }
}

impl Engine {
    /// Where another build has pinned the links of the agent.
    fn elsewhere(&self, name: &AgentName) -> Option<PathBuf> {
        let others = pins::others(self.kernel.pins()).unwrap_or_default();
        others.into_iter().find(|pins| pins::links_of(pins, name).exists())
    }

    /// What the programs of another build hold of the agent, as far as it can be read.
    pub(super) fn held_elsewhere(&self, name: &AgentName, meta: &Meta) -> Option<AgentCfg> {
        let cgroup = id_of(&meta.cgroup)?;
        Held::at(&self.elsewhere(name)?).configuration(cgroup).ok()
    }

    /// Governs an agent of another build's daemon, or one whose links are gone: ours first, then theirs go.
    ///
    /// # Errors
    /// If ours cannot be attached; then theirs stay.
    pub(super) fn attach_again(&mut self, id: u32) -> Result<(), StartError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        if agent.policy.is_unknown() {
            return Ok(());
        }
        let (name, before) = (agent.name.clone(), agent.cfg);
        let theirs = self.elsewhere(&name);
        let narrowed = self.acts.narrowed(&name, &agent.policy)?;
        let slot = self.slots.lease(&mut self.kernel, &narrowed)?;
        let Some(agent) = self.agents.get_mut(&id) else { return Ok(()) };
        agent.narrowed = narrowed;
        let mut cfg = agent.policy.compiled.agent_cfg(id, slot, 1);
        cfg.mode = agent.policy_mode();
        agent.cfg = self.acts.on(&name, cfg);
        if let Err(error) = self.enforce_beside(id, theirs.as_deref()) {
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.cfg = before;
            }
            self.slots.release(&mut self.kernel, slot);
            return Err(error);
        }
        self.guard(id);
        let Some(agent) = self.agents.get_mut(&id) else { return Ok(()) };
        let mut meta = agent.meta().clone();
        meta.pins = self.kernel.pins().to_owned();
        agent.footprint.rewrite(meta)?;
        if let Some(theirs) = theirs {
            let cleared = pins::clear_agent(&theirs, &name);
            cleared.map_err(|source| KernelError::Unpin { path: theirs, source })?;
        }
        Ok(())
    }

    /// Has our programs judge the agent as well as those whose pins are below `theirs`.
    fn enforce_beside(&mut self, id: u32, theirs: Option<&Path>) -> Result<(), StartError> {
        let Self { agents, kernel, .. } = self;
        let Some(agent) = agents.get(&id) else { return Ok(()) };
        let cgroup = agent.cgroup.path();
        kernel.prepare(cgroup, id)?;
        let inherited = theirs.map_or(Ok(()), |theirs| kernel.inherit(theirs, id));
        if let Err(error) = inherited {
            self.stand(
                id,
                format!(
                    "what names it had resolved is not known any more, and has to be resolved again: {error}"
                ),
            );
        }
        // Sockets are told to our programs before these are asked about them: without, they take what came in for what
        // goes out.
        self.settle_or_tell(id);
        let Self { agents, kernel, .. } = self;
        let Some(agent) = agents.get(&id) else { return Ok(()) };
        kernel.enforce(&agent.name, agent.cgroup.path(), agent.cfg)?;
        // Those that were made meanwhile.
        self.settle_or_tell(id);
        Ok(())
    }

    fn settle_or_tell(&mut self, id: u32) {
        if let Err(error) = self.settle(id, Occasion::Attach { keep_established: false }) {
            self.stand(id, format!("connections of before may be refused: {error}"));
        }
    }

    /// Tells what daemons of other builds did not get to read, and removes what they have left when nothing is enforced by
    /// it any more.
    pub(super) fn retire_others(&mut self) {
        for theirs in pins::others(self.kernel.pins()).unwrap_or_default() {
            if let Ok(rings) = inherit::rings(&theirs) {
                for mut ring in rings {
                    self.records(iter::from_fn(|| ring.next_record()).collect());
                }
                self.agents.values_mut().for_each(|agent| agent.pipeline.renumber());
            }
            let mut left = pins::agents(&theirs).unwrap_or_default();
            left.retain(|name| {
                !(inherit::is_over(&theirs, name) && pins::clear_agent(&theirs, name).is_ok())
            });
            let known: Vec<_> = self.agents.values().map(|agent| agent.name.clone()).collect();
            for name in left.iter().filter(|name| !known.contains(name)) {
                self.problem(format!("{name} has pinned links of another build that the registry does not know; they stay in force"));
            }
            if left.is_empty()
                && let Err(error) = pins::retire(&theirs)
            {
                self.problem(format!("{} cannot be removed: {error}", theirs.display()));
            }
        }
    }
}
