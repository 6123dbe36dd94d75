//! What can go wrong between the user side and the kernel.

use std::{io, path::PathBuf};

use aya::maps::MapError;

/// An error of aya's and what is behind it: which call failed is in the first, what the kernel said in the last.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some repeat their cause themselves.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// What can go wrong between the user side and the kernel. Each message names the object it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Built without the kernel object.
    #[error(
        "this build has no kernel programs in it: build with `cargo xtask build`, or set AGENTNET_EBPF_OBJECT"
    )]
    Stub,
    /// The object cannot be read or its maps cannot be made.
    #[error("cannot load the kernel object: {}", with_causes(.0))]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a program, or has it with another type.
    #[error("the kernel object has no program {program} of the right type")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {}", with_causes(source))]
    Load {
        /// Its name.
        program: &'static str,
        /// Why, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel has the hooks at Unix sockets and refused their programs.
    #[error("the kernel refused the programs for Unix sockets: {0}")]
    Unix(#[source] io::Error),
    /// A program cannot be attached.
    #[error("cannot attach program {program} to the cgroup: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {}: {source}", cgroup.display())]
    Cgroup {
        /// Its directory.
        cgroup: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map is missing, of another shape, or an operation on it failed.
    #[error("map {map}: {}", with_causes(source))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// There is no room in a map.
    #[error("map {map} is full: too much was blocked or allowed by hand; take back what is not needed")]
    Full {
        /// Its name.
        map: &'static str,
    },
    /// The agent's configuration cannot be written.
    #[error("cannot write the agent's configuration: {0}")]
    Configure(#[source] io::Error),
    /// What was read back is not what was written.
    #[error("the kernel holds another configuration than the one written: enforcement is not certain")]
    NotInForce,
    /// The pin directory cannot be made.
    #[error("cannot make {}: {source} (is bpffs mounted?)", path.display())]
    PinDirectory {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something cannot be pinned.
    #[error("cannot pin to {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Pins cannot be removed.
    #[error("cannot remove the pins below {}: {source}", path.display())]
    Unpin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pinned map has another shape than the programs of this build expect.
    #[error(
        "the pinned map {} is not what this version of agentnet makes ({what}); detach its agents with the \
         version that pinned it, or run `agentnet reset`",
        path.display()
    )]
    Shape {
        /// The pin.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A pinned link still runs another program than the one it was given.
    #[error("the pinned link {} was not moved to the new program: {source}", path.display())]
    Relink {
        /// The pin.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
