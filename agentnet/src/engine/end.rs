//! Taking an agent down, because it has no process left or because it is let go.
//!
//! Sockets that hold refused data go first: their queues would be sent as soon as nobody refuses it. Then the
//! links go, and with them enforcement; then the last records are read.

use std::collections::HashSet;

use jiff::Timestamp;

use super::{
    agent::{Agent, Phase},
    existing::{ExistingError, Occasion},
    host::{self, RemoveError, SocketsError},
    selectors::id_of,
    serve::Rings,
    state::Engine,
};
use crate::{
    agent::registry::EngineKind,
    alert::class::Enforcement,
    control::protocol::{Failure, Reply},
    exit,
    kernel::{KernelError, tcx::TcxError},
};

/// Why an agent was not taken down. It stays under its policy; the next command about agents that is root tries
/// again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// It is not known which sockets hold refused data.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Its second line cannot be ended.
    #[error(transparent)]
    Interfaces(#[from] TcxError),
    /// They cannot be destroyed.
    #[error("sockets with refused data cannot be destroyed: {0}")]
    Sockets(#[from] SocketsError),
    /// It is not known which connections the policy does not allow.
    #[error(transparent)]
    Existing(#[from] ExistingError),
    /// Something is left.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl Engine {
    /// Takes the agent down and tells its client.
    ///
    /// # Errors
    /// See [`EndError`]. Unless only [`EndError::Remove`] is left to do, the agent stays as it is.
    pub(super) fn end(&mut self, id: u32, rings: &mut Rings) -> Result<(), EndError> {
        let ended = self.disarm(id).inspect_err(|error| self.stays(id, error));
        self.records(rings.rest());
        ended?;
        let now = Timestamp::now();
        let Self { agents, kernel, followers, .. } = self;
        let Some(mut agent) = agents.remove(&id) else { return Ok(()) };
        let by_hand = agent.is_attached() && agent.is_there();
        agent.change(if by_hand { &Enforcement::Detached } else { &Enforcement::Ended }, now, followers);
        agent.count(kernel, now, followers);
        // An engine that is there for one agent takes its maps along.
        if self.kind == EngineKind::Daemon {
            // An agent that gets the number begins with room of its own, so that nothing is opened by what is left.
            if let Err(error) = self.kernel.close_room(id) {
                tracing::warn!(agent = %agent.name, %error, "the room for its names was not freed");
            }
            self.slots.release(&mut self.kernel, agent.cfg.slot);
        }
        self.forget(&agent.name);
        self.detection.forget(id, &agent.name);
        // Where a policy selects it, the next one of the name begins without anybody's doing.
        self.forget_acts(id, &agent.name, agent.selected.is_some() && !by_hand);
        tracing::info!(agent = %agent.name, "taken down");
        let (mut footprint, closing) = agent.close(now, &mut self.followers);
        let removed = footprint.remove();
        closing.tell(match &removed {
            Ok(()) => Reply::Finished,
            Err(error) => Reply::Error(Failure::new(error.to_string()).exit(exit::OWN_FAILURE)),
        });
        Ok(removed?)
    }

    /// Destroys what must not be sent and ends enforcement.
    fn disarm(&mut self, id: u32) -> Result<(), EndError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let audits = agent.is_audit() && !agent.cfg.has_blocks();
        let (attached, all) = (agent.is_attached() && agent.is_there(), self.has_lost_count(id)?);
        let (refused, mut destroyed) = self.destroy_refused(id, all)?;
        if attached && !all && !audits {
            // Its processes live on, and what they have queued and was not tried yet would leave.
            destroyed += self.settle(id, Occasion::Reload)?.destroyed.len();
        }
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        if destroyed > 0 {
            tracing::info!(agent = %agent.name, destroyed, "destroyed sockets with refused data");
        }
        // First, while its links can still be told from others.
        self.line.release(&self.kernel, &agent.name, id)?;
        self.kernel.detach(&agent.name, agent.cgroup.path())?;
        self.kernel.forget_refused(refused)?;
        Ok(())
    }

    /// Whether nobody knows which sockets of the agent hold refused data, because there were more than fit on the list or
    /// what its policy refuses is not known: then all may.
    fn has_lost_count(&self, id: u32) -> Result<bool, EndError> {
        let is_unknown = self.agents.get(&id).is_some_and(|agent| agent.policy.is_unknown());
        Ok(is_unknown || self.kernel.counters(id)?.refused_overflow > 0)
    }

    /// Destroys the agent's sockets that hold refused data, or `all` of them: what was held back must not leave when it
    /// would be let through. Which these were, and how many were destroyed.
    ///
    /// # Errors
    /// If one of them may still be there.
    pub(super) fn destroy_refused(&self, id: u32, all: bool) -> Result<(HashSet<u64>, usize), EndError> {
        let refused = self.kernel.refused()?.into_iter();
        let refused: HashSet<u64> = refused.filter(|(_, of)| *of == id).map(|(cookie, _)| cookie).collect();
        let cgroup = self.agents.get(&id).filter(|_| all).map(|agent| &agent.cgroup);
        let destroyed = host::destroy_sockets(&refused, cgroup)?;
        Ok((refused, destroyed))
    }

    fn stays(&mut self, id: u32, error: &EndError) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        tracing::error!(agent = %agent.name, %error, "the agent stays under its policy");
        let problem = format!("{error}; what is left of the agent stays under its policy");
        match agent.session.take() {
            // Its client does not wait for another try, and this engine is there for it alone.
            Some(session) if self.kind == EngineKind::Run => {
                let failure = Failure::new(error.to_string()).exit(exit::OWN_FAILURE);
                session.outbox.close([Reply::Error(failure)]);
            }
            session => agent.session = session,
        }
        agent.notice(problem.clone());
        agent.stuck = Some(problem);
    }
}

impl Agent {
    /// Whether it was let go by hand, and its processes live on.
    pub(super) fn is_attached(&self) -> bool {
        self.phase == Phase::Attached
    }

    /// Whether its cgroup is there still, and not another one in the same place.
    pub(super) fn is_there(&self) -> bool {
        let now = id_of(self.cgroup.path());
        now.is_some() && now == self.place
    }
}
