//! The engine of a running agentnet: one task owns all mutable state.
//!
//! [`process`] makes the engine a process of its own, [`start`] puts an agent under its policy, [`state`] is
//! what it knows, [`serve`] is the loop that feeds it, [`end`] takes everything down, [`host`] does that
//! for engines that died.

use std::{io, path::Path};

pub mod end;
pub mod existing;
pub mod explain;
pub mod host;
pub mod netns;
pub mod outbox;
pub mod process;
pub mod serve;
pub mod sources;
pub mod start;
pub mod state;

/// Where an engine keeps what outlives it: its own log and the alerts.
pub const STATE_DIRECTORY: &str = "/var/lib/agentnet";

/// The only agent of an engine of `run`. Its maps are its own, so the number need not tell agents apart.
pub const AGENT: u32 = 1;

/// The policy slot of [`AGENT`].
const SLOT: u32 = 0;

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
    /// The agent cannot be taken down.
    #[error(transparent)]
    End(#[from] end::EndError),
}

/// Makes a directory of root's, and those above it.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}
