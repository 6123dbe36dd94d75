//! The engine of a running agentnet: one task owns all mutable state.
//!
//! [`state`] is what it knows, [`serve`] the loop that feeds it, `answer` what clients may ask. An agent is put under
//! its policy by [`start`] or [`attach`] and taken down by `end`; `reload` changes its policy. [`process`]
//! makes an engine for one agent a process of its own, [`daemon`] is the one that stays. [`host`] clears
//! up after engines that died.

use std::{io, path::Path};

pub mod acts;
pub mod adopt;
mod agent;
mod answer;
pub mod attach;
mod builds;
pub mod daemon;
pub mod detection;
mod end;
pub mod existing;
pub mod explain;
mod follow;
pub mod host;
mod kept;
mod line;
pub mod netns;
pub mod notify;
mod policies;
pub mod process;
mod reload;
pub mod reset;
pub mod selection;
mod selectors;
pub mod serve;
pub mod slots;
pub mod sources;
pub mod start;
pub mod state;

/// Where an engine keeps what outlives it: its own log and the alerts.
pub const STATE_DIRECTORY: &str = "/var/lib/agentnet";

/// What stops an engine that has begun to serve. The agent stays under its policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The agent cannot be put under its policy.
    #[error(transparent)]
    Start(#[from] start::StartError),
    /// The client does not speak as it should.
    #[error(transparent)]
    Frame(#[from] crate::control::frame::FrameError),
    /// The client asked for something else first.
    #[error("the client did not begin with a process to govern")]
    NotARun,
    /// The kernel does not deliver events.
    #[error("cannot wait for events ({what}): {error}")]
    Events {
        /// Which ones.
        what: &'static str,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A part of it has ended that should not.
    #[error("the task of the {0} has ended, so the engine ends too; every agent stays under its policy")]
    Task(&'static str),
    /// The agent cannot be taken down.
    #[error(transparent)]
    End(#[from] end::EndError),
}

/// What waits for everything.
fn runtime() -> Result<tokio::runtime::Runtime, EngineError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| EngineError::Events { what: "the runtime", error })
}

/// Makes a directory of root's, and those above it.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}
