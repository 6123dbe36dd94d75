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
        self.slots.release(&mut self.kernel, agent.cfg.slot);
        self.forget(&agent.name);
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
        let refused: HashSet<u64> = self
            .kernel
            .refused()?
            .into_iter()
            .filter(|(_, of)| *of == id)
            .map(|(cookie, _)| cookie)
            .collect();
        // More than fit on the list, or nobody knows what is refused: then all sockets of the agent.
        let all = self.kernel.counters(id)?.refused_overflow > 0 || agent.policy.is_unknown();
        let mut destroyed = host::destroy_sockets(&refused, all.then_some(&agent.cgroup))?;
        if agent.is_attached() && !all && !agent.is_audit() && agent.is_there() {
            // Its processes live on, and what they have queued and was not tried yet would leave.
            destroyed += self.settle(id, Occasion::Reload)?.destroyed.len();
        }
        if destroyed > 0 {
            tracing::info!(agent = %agent.name, destroyed, "destroyed sockets with refused data");
        }
        // First, while its links can still be told from others.
        self.line.release(&self.kernel, &agent.name, id)?;
        self.kernel.detach(&agent.name, agent.cgroup.path())?;
        self.kernel.forget_refused(refused)?;
        Ok(())
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
