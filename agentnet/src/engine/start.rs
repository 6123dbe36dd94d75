//! Putting agents under their policies: everything or nothing.
//!
//! Owner lock, cgroup, policy, links and configuration, proof, and only then a process moves in: there is no
//! moment at which it runs ungoverned in its cgroup. Whatever fails, what was done is undone in reverse.

use std::{
    io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use agentnet_common::abi::MAX_AGENTS;
use jiff::Timestamp;

use super::{
    agent::{Agent, Beginning, Phase, Session},
    host::{self, Footprint},
    selection::Selection,
    slots::SlotError,
    state::Engine,
};
use crate::{
    agent::{
        AgentName,
        cgroup::{Cgroup, CgroupError, Hierarchy},
        registry::{EngineKind, Entry, Exclusive, Listed, Meta, Registry, RegistryError},
    },
    alert::{
        by_hand::{Change, Did},
        class::Enforcement,
    },
    control::{
        peer::{self, ChildError, Peer},
        protocol::{Failure, PolicySource, Reply, Run},
    },
    exit,
    kernel::{KernelError, mounts::MountError, pins, tcx::TcxError},
};

/// Why an agent was not put under its policy. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The process is not to be governed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The policy is invalid.
    #[error("{0}")]
    Policy(String),
    /// The addresses of this host are not known.
    #[error("cannot list the addresses of this host: {0}")]
    Addresses(#[source] io::Error),
    /// bpffs is missing.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The name is taken, or the registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The cgroup cannot be made or the process not be moved.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// There are too many policies.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// There are too many agents.
    #[error("this engine governs {} agents already, which is all it can", MAX_AGENTS - 1)]
    Full,
    /// There are too many agents below one.
    #[error("agent `{0}` has {MAX_NESTED} agents below it already, which is all it may have")]
    TooManyNested(AgentName),
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel refuses at the interfaces.
    #[error(transparent)]
    Interfaces(#[from] TcxError),
    /// There are pins that no entry of the registry accounts for.
    #[error(
        "{} exists, though no agent of that name is registered; it may enforce a policy still, so look with \
         `agentnet status` and remove it when it is not needed",
        .0.display()
    )]
    Pinned(PathBuf),
}

/// Agents that may be made from within another one: it could have all that an engine can govern.
const MAX_NESTED: usize = 16;

impl StartError {
    /// What the client is told.
    pub fn failure(&self) -> Failure {
        let next = match self {
            Self::Registry(RegistryError::InUse(_) | RegistryError::Ownerless(_)) => {
                "; choose another name with --agent"
            }
            // A build without the programs has nothing to ask the kernel for.
            Self::Kernel(KernelError::Stub) => "",
            Self::Kernel(_) => "; `agentnet doctor` tells what this kernel lacks",
            _ => "",
        };
        let code = if matches!(self, Self::Policy(_)) { exit::WRONG_USAGE } else { exit::OWN_FAILURE };
        Failure::new(format!("{self}{next}")).exit(code)
    }
}

type Result<T, E = StartError> = std::result::Result<T, E>;

/// A name that was taken, and who else there is.
#[derive(Debug)]
pub(super) struct Claim {
    exclusive: Exclusive,
    entry: Entry,
    others: Vec<Listed>,
}

impl Claim {
    /// Takes the name `agent`, after having cleared what dead engines have left.
    ///
    /// # Errors
    /// If it is taken, or the registry cannot be used.
    pub(super) fn of(agent: &AgentName) -> Result<Self> {
        let registry = Registry::system();
        let exclusive = registry.exclusive()?;
        for (name, result) in registry.collect(&exclusive, &host::System)? {
            match result {
                Ok(()) => tracing::info!(agent = %name, "cleared what a dead engine had left"),
                Err(error) => {
                    tracing::warn!(agent = %name, %error, "cannot clear what a dead engine has left");
                }
            }
        }
        let others = registry.list()?;
        let entry = registry.claim(&exclusive, agent)?;
        Ok(Self { exclusive, entry, others })
    }

    /// Writes down what is about to be made. From then on an error takes down what there is.
    ///
    /// # Errors
    /// If there are pins already, or it cannot be written.
    pub(super) fn footprint(self, agent: &AgentName, meta: &Meta) -> Result<Footprint> {
        let Self { exclusive, entry, others: _ } = self;
        let pinned = match meta.engine {
            EngineKind::Run => meta.pins.clone(),
            EngineKind::Daemon => pins::links_of(&meta.pins, agent),
        };
        if pinned.exists() {
            entry.remove(&exclusive)?;
            return Err(StartError::Pinned(pinned));
        }
        if let Err(error) = entry.write(meta) {
            entry.remove(&exclusive)?;
            return Err(error.into());
        }
        Ok(Footprint::new(exclusive, entry, agent, meta))
    }

    /// Gives the name back.
    pub(super) fn give_back(self) {
        if let Err(error) = self.entry.remove(&self.exclusive) {
            tracing::warn!(%error, "an entry of the registry is left");
        }
    }
}

/// A process that is to be governed, and who asks for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Child<'fd> {
    pub(super) client: Peer,
    pub(super) pid: i32,
    pub(super) pidfd: BorrowedFd<'fd>,
}

impl<'fd> Child<'fd> {
    /// The process behind `pidfd`, which must be a child of `client`.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn of(client: Peer, pidfd: BorrowedFd<'fd>) -> Result<Self> {
        Ok(Self { client, pid: peer::child(client, pidfd)?, pidfd })
    }
}

/// What an agent made for a process has on this host.
pub(super) fn meta(
    run: &Run,
    child: Child<'_>,
    hierarchy: &Hierarchy,
    claim: &Claim,
    engine: (EngineKind, &Path),
    selection: &Selection,
) -> Result<Meta> {
    let (engine, pins) = engine;
    let origin = hierarchy.of(child.pid).ok();
    let above = origin.as_ref().and_then(|origin| innermost(origin, &claim.others));
    if let Some((name, cgroup)) = above {
        let is_below = |listed: &&Listed| {
            listed.meta.as_ref().is_some_and(|meta| meta.cgroup != *cgroup && meta.cgroup.starts_with(cgroup))
        };
        if claim.others.iter().filter(is_below).count() >= MAX_NESTED {
            return Err(StartError::TooManyNested(name.clone()));
        }
    }
    let parent = parent(hierarchy, origin.as_ref(), above.map(|(_, cgroup)| cgroup));
    Ok(Meta {
        cgroup: parent.join(&run.agent),
        pins: pins.to_owned(),
        started: Timestamp::now(),
        policy: selection.policy.compiled.name.clone(),
        audit: selection.is_audit(),
        client: child.client.pid,
        uid: child.client.uid,
        id: 0,
        engine,
        made: true,
    })
}

/// The innermost agent that `cgroup` is in.
fn innermost<'a>(cgroup: &Cgroup, agents: &'a [Listed]) -> Option<(&'a AgentName, &'a PathBuf)> {
    agents
        .iter()
        .filter_map(|listed| Some((&listed.name, &listed.meta.as_ref()?.cgroup)))
        .filter(|(_, above)| cgroup.path().starts_with(above))
        .max_by_key(|(_, above)| above.components().count())
}

/// The directory below which the agent's cgroup is made, for a process that comes from `origin`, which is in
/// that of the agent `above`.
///
/// A process that is governed already stays below the agents it is in: all their policies apply to it. Its
/// own cgroup is taken if it is root's, or else the innermost agent's: from below a cgroup that a user may
/// write to, the agent could be moved away.
fn parent(hierarchy: &Hierarchy, origin: Option<&Cgroup>, above: Option<&PathBuf>) -> PathBuf {
    match (origin, above) {
        (Some(origin), Some(_)) if origin.is_roots() => origin.path().to_owned(),
        (_, Some(agent)) => agent.clone(),
        (_, None) => hierarchy.home(),
    }
}

impl Engine {
    /// Puts `child` under a policy; [`Engine::begin`] is to follow.
    ///
    /// # Errors
    /// See [`StartError`]; everything is then as it was.
    pub(super) fn run(&mut self, run: &Run, child: Child<'_>) -> Result<u32> {
        let selection = self.select(run.policy.as_ref(), run.audit, Some(child.pid))?;
        let claim = Claim::of(&run.agent)?;
        let pins = self.kernel.pins().to_owned();
        let meta = match meta(run, child, &self.hierarchy, &claim, (self.kind, &pins), &selection) {
            Ok(meta) => meta,
            Err(error) => {
                claim.give_back();
                return Err(error);
            }
        };
        let footprint = claim.footprint(&run.agent, &meta)?;
        self.place(&run.agent, footprint, selection, child)
    }

    /// The policy that a client asks for, for an agent to which the process `pid` belongs.
    pub(super) fn select(
        &self,
        source: Option<&PolicySource>,
        audit: bool,
        pid: Option<i32>,
    ) -> Result<Selection> {
        let directory = self.settings.policies.as_deref();
        Selection::of(source, audit, directory, &self.host, &self.slots, pid).map_err(StartError::Policy)
    }

    /// Makes the agent's cgroup, governs it and moves the child there.
    ///
    /// # Errors
    /// See [`StartError`]; everything is then as it was.
    pub(super) fn place(
        &mut self,
        name: &AgentName,
        mut footprint: Footprint,
        selection: Selection,
        child: Child<'_>,
    ) -> Result<u32> {
        let target = footprint.meta().cgroup.clone();
        let made = target.parent().unwrap_or(&target).to_owned();
        Cgroup::create(&made, name)?;
        footprint.has_cgroup();
        let id = self.govern(name, footprint, selection, Phase::Running)?;
        let moved = self.move_in(id, child);
        if let Err(error) = moved {
            self.abandon(id);
            return Err(error);
        }
        Ok(id)
    }

    fn move_in(&mut self, id: u32, child: Child<'_>) -> Result<()> {
        let Some(agent) = self.agents.get_mut(&id) else { return Ok(()) };
        // The number is believed only as long as the pidfd names it.
        if peer::pid(child.pidfd)? != child.pid {
            return Err(ChildError::Gone.into());
        }
        if let Ok(origin) = self.hierarchy.of(child.pid) {
            agent.footprint.takes_from(origin, child.pid);
        }
        Ok(agent.cgroup.place(&self.hierarchy, child.pid)?)
    }

    /// Governs a cgroup that exists. What it has on this host may still be undone by [`Engine::abandon`].
    ///
    /// # Errors
    /// See [`StartError`]; nothing governs it then.
    pub(super) fn govern(
        &mut self,
        name: &AgentName,
        mut footprint: Footprint,
        selection: Selection,
        phase: Phase,
    ) -> Result<u32> {
        let id = self.free_id().ok_or(StartError::Full)?;
        let mut meta = footprint.meta().clone();
        meta.id = id;
        footprint.rewrite(meta)?;
        let meta = footprint.meta();
        let narrowed = self.acts.narrowed(name, &selection.policy)?;
        let slot = self.slots.lease(&mut self.kernel, &narrowed)?;
        // What was done by hand holds from the first packet.
        let cfg = self.acts.on(name, selection.cfg(id, slot, 1));
        let attached = self.write_acts(id, name).and_then(|()| self.kernel.attach(name, &meta.cgroup, cfg));
        if let Err(error) = attached {
            self.unwrite_acts(id);
            self.slots.release(&mut self.kernel, slot);
            return Err(error.into());
        }
        let (log, acts) = (self.log(name, meta.uid), self.acts.of(name));
        let beginning =
            Beginning { name: name.clone(), cfg, selection, footprint, phase, log, acts, narrowed };
        self.agents.insert(id, Agent::new(beginning, self.clock));
        self.know_names(id);
        Ok(id)
    }

    /// Has what is told of the agent name the far ends by what it has resolved.
    pub(super) fn know_names(&mut self, id: u32) {
        let Self { agents, kernel, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        match kernel.resolved(id) {
            Ok(resolved) => agent.pipeline.set_names(Box::new(resolved)),
            Err(error) => {
                tracing::warn!(agent = %agent.name, %error, "its alerts and flows are without names");
            }
        }
    }

    /// Lets go of an agent that was not put under its policy after all.
    pub(super) fn abandon(&mut self, id: u32) {
        let Some(agent) = self.agents.remove(&id) else { return };
        if let Err(error) = self.line.release(&self.kernel, &agent.name, id) {
            tracing::error!(agent = %agent.name, %error, "something of the agent's second line is left");
        }
        if let Err(error) = self.kernel.detach(&agent.name, agent.cgroup.path()) {
            tracing::error!(agent = %agent.name, %error, "something of the agent is left");
        }
        self.slots.release(&mut self.kernel, agent.cfg.slot);
        self.unwrite_acts(id);
        self.detection.forget(id, &agent.name);
    }

    /// The agent is governed: it stays so whatever becomes of this engine. Tells everybody, the client behind
    /// `session` first.
    pub(super) fn begin(&mut self, id: u32, session: Option<Session>) {
        self.watch(id);
        self.keep(id);
        let kept = self.begin_acts(id);
        let Self { agents, followers, kernel, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        agent.footprint.keep();
        agent.session = session;
        let (meta, audit) = (agent.meta(), agent.is_audit());
        tracing::info!(agent = %agent.name, policy = meta.policy, audit, uid = meta.uid, "governed");
        for act in &kept {
            agent.warn(format!("what was done by hand before holds: {act}"));
        }
        let ready = agent.ready(kernel);
        if let Some(session) = &mut agent.session {
            session.outbox.send(Reply::Ready(ready));
        }
        let change = if audit { Enforcement::Auditing } else { Enforcement::Started };
        let now = Timestamp::now();
        agent.change(&change, now, followers);
        for act in &kept {
            agent.act(&Change::new(Did::Kept, act), now, followers);
        }
    }
}
