//! Why something cannot be governed.

use std::{io, path::PathBuf};

use super::Sharers;
use crate::agent::{cgroup::CgroupError, container::ContainerError, tool::ToolError};

/// Why what a person named is not governed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The hierarchy cannot be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No such cgroup.
    #[error("there is no cgroup {}; it ends with its unit or container, so start that first", path.display())]
    Missing {
        /// What was named.
        path: PathBuf,
    },
    /// A path with `..`.
    #[error("{} leads upwards: write the path without `..`", path.display())]
    Climbs {
        /// What was named.
        path: PathBuf,
    },
    /// A path that leads elsewhere.
    #[error("{} is not below the cgroup hierarchy", path.display())]
    Outside {
        /// What was named.
        path: PathBuf,
    },
    /// Something else.
    #[error("{} is not the directory of a cgroup", path.display())]
    NoCgroup {
        /// What was named.
        path: PathBuf,
    },
    /// A cgroup of the old kind.
    #[error(
        "{} is a cgroup of version 1, which tells the kernel nothing about sockets; name the process's cgroup \
         of version 2, below {}",
        path.display(), top.display()
    )]
    Version1 {
        /// What was named.
        path: PathBuf,
        /// Where the other kind is.
        top: PathBuf,
    },
    /// The top of the hierarchy.
    #[error(
        "that is the root cgroup, which holds the whole host: governing it would cut off the host, agentnet \
         included; start the agent with `agentnet run`, or as a unit of its own"
    )]
    Root,
    /// agentnet itself would be governed.
    #[error(
        "agentnet itself runs in {cgroup} or below: governing that would cut off what governs; name a cgroup \
         that only the agent is in"
    )]
    Own {
        /// The cgroup.
        cgroup: String,
    },
    /// The first process would be governed.
    #[error(
        "process 1, which the host cannot be without, is in {cgroup}: name a cgroup that only the agent is in"
    )]
    Init {
        /// The cgroup.
        cgroup: String,
    },
    /// Threads of one process in several cgroups.
    #[error(
        "{cgroup} holds single threads: other threads of the same processes would not be governed; name {domain}, \
         which holds all of them"
    )]
    Threaded {
        /// The cgroup.
        cgroup: String,
        /// The one that holds the processes.
        domain: String,
    },
    /// A cgroup in which nothing can live.
    #[error(
        "{cgroup} cannot hold processes (the kernel calls it `{kind}`): name the cgroup that the agent is in"
    )]
    Invalid {
        /// The cgroup.
        cgroup: String,
        /// What the kernel calls it.
        kind: String,
    },
    /// No such process.
    #[error("there is no process {pid}, or it has ended")]
    NoProcess {
        /// The process.
        pid: i32,
    },
    /// A thread.
    #[error("{pid} is a thread of process {process}: name that")]
    Thread {
        /// The thread.
        pid: i32,
        /// Its process.
        process: i32,
    },
    /// The cgroup was removed under the process.
    #[error("the cgroup that process {pid} lives in was removed: it is ending, or has been left behind")]
    Deleted {
        /// The process.
        pid: i32,
    },
    /// The process was moved.
    #[error("process {pid} was moved to another cgroup meanwhile: it is not governed; try again")]
    Moved {
        /// The process.
        pid: i32,
    },
    /// Others live there.
    #[error(
        "process {pid} shares its cgroup {cgroup} with others, who would be governed as well: {others}. \
         --whole-cgroup governs them all; to govern {pid} alone, start it anew with `agentnet run`"
    )]
    Shared {
        /// The process.
        pid: i32,
        /// The cgroup.
        cgroup: String,
        /// The others.
        others: Sharers,
    },
    /// Not a unit.
    #[error("{0:?} is not the name of a unit; it is written like claude@a.service")]
    UnitName(String),
    /// No such unit.
    #[error("there is no unit {unit}; `systemctl list-units` names those there are")]
    NoUnit {
        /// The unit.
        unit: String,
    },
    /// A unit without processes.
    #[error(
        "the unit {unit} is not started (it is {state}), and has a cgroup only while it runs: start it first, or \
         let a policy wait for it with [[agents]] unit = \"{unit}\""
    )]
    UnitStopped {
        /// The unit.
        unit: String,
        /// What systemd says of it.
        state: String,
    },
    /// Units of several managers.
    #[error("several units are called {unit}: {}; name one of them with --cgroup", found.join(", "))]
    UnitAmbiguous {
        /// The unit.
        unit: String,
        /// Their cgroups.
        found: Vec<String>,
    },
    /// systemd does not answer.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The namespaces cannot be read.
    #[error("cannot look at network namespaces: {0}")]
    Namespaces(#[source] io::Error),
}
