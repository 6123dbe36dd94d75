//! Taking an agent down that has no process left.
//!
//! Sockets that hold refused data go first: their queues would be sent as soon as nobody refuses it.
//! Then the last records are read, then the links go, and with them enforcement.

use super::{
    AGENT,
    host::{self, RemoveError, SocketsError},
    sources::Records,
    start::Governed,
    state::State,
};
use crate::{
    alert::class::Enforcement,
    control::protocol::{Failure, Reply},
    exit,
    kernel::KernelError,
};

/// Why an agent was not taken down. It stays under its policy; the next command about agents that is root tries
/// again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// It is not known which sockets hold refused data.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// They cannot be destroyed.
    #[error("sockets with refused data cannot be destroyed: {0}")]
    Sockets(#[from] SocketsError),
    /// Something is left.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

/// Takes the agent down and tells the client.
///
/// # Errors
/// See [`EndError`].
pub async fn end(mut state: State, alerts: &mut Records, samples: &mut Records) -> Result<(), EndError> {
    let destroyed = destroy_refused(&state.governed);
    state.records(alerts.rest());
    state.records(samples.rest());
    match &destroyed {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "destroyed sockets with refused data"),
        Err(error) => {
            tracing::error!(%error, "the agent stays under its policy");
            state.notice(format!("{error}; what is left of the agent stays under its policy"));
        }
    }
    if destroyed.is_ok() {
        state.change(&Enforcement::Ended);
    }
    let (Governed { kernel, mut footprint, .. }, outbox, summary) = state.close();
    let removed = match destroyed {
        Ok(_) => kernel.detach().map_err(EndError::from).and_then(|()| Ok(footprint.remove()?)),
        Err(error) => Err(error),
    };
    let last = match &removed {
        Ok(()) => Reply::Finished,
        Err(error) => Reply::Error(Failure { message: error.to_string(), exit: exit::OWN_FAILURE }),
    };
    outbox.close([Reply::Summary(Box::new(summary)), last]).await;
    removed
}

fn destroy_refused(governed: &Governed) -> Result<usize, EndError> {
    let refused = governed.kernel.refused()?;
    // More than fit on the list: then all sockets of the agent, none of which has a process any more.
    let overflow = governed.kernel.counters(AGENT)?.refused_overflow > 0;
    Ok(host::destroy_sockets(&refused, overflow.then_some(&governed.cgroup))?)
}
