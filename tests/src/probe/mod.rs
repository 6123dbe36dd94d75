//! The agent's side: operations that try to get bytes to an address, each by another way.
//!
//! An operation is a function and a line in the [`CATALOGUE`] of its file's subject. It reports what the
//! system call said and never panics; what arrived is for the far end to say.

pub mod crowd;
pub mod dns;
pub mod icmp;
pub mod link;
pub mod local;
pub mod option;
pub mod outside;
pub mod packet;
pub mod process;
pub mod raw;
pub mod report;
pub mod run;
pub mod script;
pub mod stream;
pub mod talk;
pub mod tcp;
pub mod tun;
pub mod udp;
pub mod uring;
pub mod ways;

use std::{io, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::lab::net::Family;

pub use report::Report;

/// What an operation is to do.
#[derive(Clone, Debug, Serialize, Deserialize, clap::Args)]
pub struct Args {
    /// Where the bytes are to arrive.
    #[arg(long)]
    pub to: SocketAddr,
    /// An endpoint that the policy allows, for attacks that need a legitimate flow first.
    #[arg(long)]
    pub via: SocketAddr,
    /// The bytes that are looked for at the far end.
    #[arg(long, default_value = "MARKER")]
    pub marker: String,
    /// A process outside the agent, for attacks that work through another one.
    #[arg(long)]
    #[serde(default)]
    pub victim: Option<i32>,
}

impl Args {
    /// The bytes to be sent.
    pub fn secret(&self) -> &[u8] {
        self.marker.as_bytes()
    }
}

/// A request of a suite: the operation's name and what it is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Name in the [`CATALOGUE`].
    pub op: String,
    /// What to do.
    #[serde(flatten)]
    pub args: Args,
}

impl Request {
    /// An operation against `to`, with the allowed endpoint of its family at hand and a marker of its own.
    pub fn new(op: &str, to: SocketAddr) -> Self {
        let via = Family::of(to.ip().to_canonical()).allowed_endpoint();
        Self { op: op.to_owned(), args: Args { to, via, marker: format!("<{op}>{to}</{op}>"), victim: None } }
    }

    /// With a process outside the agent to work through.
    #[must_use]
    pub fn victim(mut self, pid: i32) -> Self {
        self.args.victim = Some(pid);
        self
    }
}

/// Why an operation did not succeed: the step and its `errno`.
#[derive(Debug)]
pub struct Failure {
    /// The call that failed.
    pub step: &'static str,
    /// What it said.
    pub error: io::Error,
}

impl Failure {
    /// A step that failed without a system call's saying so.
    pub fn new(step: &'static str, kind: io::ErrorKind) -> Self {
        Self { step, error: kind.into() }
    }
}

/// Bytes the kernel accepted, or the step that failed.
pub type Outcome = Result<usize, Failure>;

/// Names the step of a failed call.
pub trait Step<T> {
    /// Gives the error the name of the call.
    ///
    /// # Errors
    /// The error it had.
    fn step(self, step: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure { step, error: error.into() })
    }
}

/// What the far end sees of an operation that nothing stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// The marker, in a packet to the target.
    Marker,
    /// A packet to the target, without the marker.
    Packet,
    /// The marker, in a packet to another address: broadcast, multicast, the first stop of a route.
    Elsewhere,
    /// Nothing; only what the call says counts.
    Nothing,
}

/// Which families an operation knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 and IPv6.
    Both,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Whom the kernel lets do it, agentnet aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Anybody.
    Nothing,
    /// A capability or files of root.
    Privilege,
}

/// An operation.
#[derive(Clone, Copy)]
pub struct Operation {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// What it tries, in one line.
    pub about: &'static str,
    /// Does it.
    pub run: fn(&Args) -> Outcome,
    /// What the far end sees if nothing stops it.
    pub trace: Trace,
    /// The families it knows.
    pub families: Families,
    /// What it needs of the kernel.
    pub needs: Needs,
    /// Whether it is right that its marker reaches the allowed host in an ordinary packet: it is sent there,
    /// and what would have turned it elsewhere was refused.
    pub reaches_allowed: bool,
}

impl Operation {
    const fn new(name: &'static str, trace: Trace, about: &'static str, run: fn(&Args) -> Outcome) -> Self {
        Self {
            name,
            about,
            run,
            trace,
            families: Families::Both,
            needs: Needs::Nothing,
            reaches_allowed: false,
        }
    }

    const fn only(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    const fn to_allowed(mut self) -> Self {
        self.reaches_allowed = true;
        self
    }

    const fn privileged(mut self) -> Self {
        self.needs = Needs::Privilege;
        self
    }

    /// Whether the operation can be tried on this address.
    pub fn knows(&self, addr: SocketAddr) -> bool {
        match self.families {
            Families::Both => true,
            Families::V4 => addr.is_ipv4(),
            Families::V6 => addr.is_ipv6(),
        }
    }

    /// Runs it and reports.
    pub fn report(&self, args: &Args) -> Report {
        Report::new(self.name, args.to, (self.run)(args))
    }
}

/// All operations, by subject.
pub const CATALOGUE: &[&[Operation]] = &[
    tcp::OPERATIONS,
    udp::OPERATIONS,
    icmp::OPERATIONS,
    raw::OPERATIONS,
    packet::OPERATIONS,
    link::OPERATIONS,
    option::OPERATIONS,
    uring::OPERATIONS,
    process::OPERATIONS,
    outside::OPERATIONS,
    tun::OPERATIONS,
    local::OPERATIONS,
];

/// Every operation.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    CATALOGUE.iter().copied().flatten()
}

/// The operation of that name.
pub fn find(name: &str) -> Option<&'static Operation> {
    operations().find(|operation| operation.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::operations;

    #[test]
    fn names_are_unique() {
        let mut seen = HashSet::new();
        assert!(operations().all(|operation| seen.insert(operation.name)));
    }
}
