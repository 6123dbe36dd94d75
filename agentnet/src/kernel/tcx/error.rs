//! Why an agent has no second line.

use std::{io, path::PathBuf};

use agentnet_common::abi::HOSTCG_DEPTH;

use crate::kernel::{KernelError, interfaces::InterfaceError};

/// Why an agent has no second line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcxError {
    /// Programs or maps.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The interfaces are not known.
    #[error(transparent)]
    Interfaces(#[from] InterfaceError),
    /// A program cannot be attached.
    #[error("cannot attach program {program} to interface {interface}: {source} (tcx takes Linux 6.6)")]
    Attach {
        /// Its name.
        program: &'static str,
        /// Index of the interface.
        interface: u32,
        /// Why.
        source: io::Error,
    },
    /// Something about a pinned link.
    #[error("the link pinned at {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map cannot be written.
    #[error("cannot write map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Another agent has the interface: all packets there would be judged by one policy.
    #[error(
        "interface {interface} of the container belongs to another agent already; govern the cgroup that holds \
         both as one agent"
    )]
    Shared {
        /// Its name in the container.
        interface: String,
    },
    /// The cgroup cannot be looked at.
    #[error("cannot look at cgroup {}: {source}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The cgroup is deeper in the tree than the program looks.
    #[error("cgroup {} is more than {HOSTCG_DEPTH} levels deep: packet sockets made there cannot be told", .0.display())]
    Deep(PathBuf),
    /// The host's interfaces could not be looked at or attached to, for all agents alike.
    #[error("{0}")]
    Unlisted(String),
    /// A descriptor cannot be kept.
    #[error("cannot keep the network namespace: {0}")]
    Namespace(#[source] io::Error),
}
