//! Sockets that an agent has already when its policy begins, or changes.
//!
//! The order that is safe: the links are attached and configured first, so that every packet is judged, and only
//! then is looked at what is there: what a policy does not allow is destroyed then, and nothing new of the kind
//! can come up. What is allowed is marked, because the programs know a listener of the agent's, and a connection
//! that came in, by what they remembered when these were made.
//!
//! A socket is the agent's if it was *made* in its cgroup or below, wherever the process that holds it is now. One
//! that came from outside, inherited or passed over a Unix socket, stays its maker's: nothing here touches it, and
//! the programs do not see it. Connections without a whole socket belong to nobody any more: one in
//! `TIME_WAIT` has nothing to send, a half-open one is judged with its listener. Datagrams are not queued, and
//! each is judged: a socket that is not connected has nothing to be destroyed for.
//!
//! A socket that was made in a cgroup below which has been removed since is not found here: no path leads to its
//! identifier. The programs govern it all the same.

mod holders;
mod judge;

use std::{
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
};

use agentnet_common::{
    abi::{
        AgentCfg, CACHED_ALLOW, CACHED_NONE, COMM_BYTES, MODE_AUDIT, Process, ROLE_ACCEPTED, ROLE_NONE,
        SockState,
    },
    addr::Addr,
    verdict::{Acts, Reason, RuleId, Scope, Tables, Verdict},
};

use self::{
    holders::Held,
    judge::{Place, Scene},
};
use super::netns;
use crate::{
    agent::{
        cgroup::{Cgroup, CgroupError},
        target::Member,
    },
    kernel::{
        marks::Marks,
        sockdiag::{self, InetSocket, Protocol, SockDiagError, State},
    },
};

/// How often is looked again after something was destroyed: a listing may miss a socket whose hash bucket changes.
const ROUNDS: usize = 8;

/// Whose sockets, and what is to become of them.
#[derive(Clone, Copy)]
pub struct Question<'a, T> {
    /// The policy that is in force now.
    pub tables: &'a T,
    /// Whether it is known: if not, only what somebody has forbidden by hand is forbidden.
    pub is_known: bool,
    /// What was done by hand and holds now.
    pub acts: &'a dyn Acts,
    /// The configuration that is in force now.
    pub cfg: AgentCfg,
    /// The agent's cgroup.
    pub cgroup: &'a Cgroup,
    /// Where to mark what stays. Without it nothing is marked, and what needs a mark cannot stay.
    pub marks: Option<&'a Marks>,
}

/// Why is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The agent has just been put under its policy.
    Attach {
        /// Connections that the policy does not allow stay until it changes.
        keep_established: bool,
    },
    /// Its policy has just been changed.
    Reload,
}

/// A connected socket that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: State,
    /// Its own end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What names it.
    pub cookie: u64,
    /// User id of its owner.
    pub uid: u32,
    /// Bytes sent, or to be sent, that the peer has not acknowledged.
    pub unsent: u32,
    /// A process that holds it; `None` if none does any more, or none that can be seen.
    pub process: Option<Member>,
    /// What the policy says.
    pub verdict: Verdict,
}

/// What became of the sockets that were there.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Allowed, and untouched.
    pub kept: Vec<Existing>,
    /// Not allowed, and still there: because they were to be kept, or the policy only audits. To be reported.
    pub spared: Vec<Existing>,
    /// Destroyed.
    pub destroyed: Vec<Existing>,
    /// Sockets that wait for somebody; they stay.
    pub waiting: usize,
    /// Sockets that the programs now know to be the agent's.
    pub marked: usize,
}

/// Why it is not known what became of them. What was not destroyed is refused packet by packet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExistingError {
    /// The agent's cgroups cannot be listed.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The namespaces that sockets may be in are not known.
    #[error("cannot list the network namespaces: {0}")]
    Namespaces(#[source] io::Error),
    /// The processes cannot be listed.
    #[error("cannot list the processes that hold sockets: {0}")]
    Processes(#[source] io::Error),
    /// The sockets cannot be listed or destroyed.
    #[error(transparent)]
    SockDiag(#[from] SockDiagError),
    /// New ones keep coming up.
    #[error("{0} connections that are not allowed keep coming up though they are destroyed")]
    Remaining(usize),
}

type Result<T, E = ExistingError> = std::result::Result<T, E>;

/// One socket of the agent's, and what is to become of it.
struct Judged {
    existing: Existing,
    place: Place,
    held: Option<OwnedFd>,
    state: Option<SockState>,
}

/// What was there.
#[derive(Default)]
struct Sight {
    connected: Vec<Judged>,
    waiting: Vec<Held>,
    waiting_count: usize,
}

/// Says what would become of the agent's connected sockets, and changes nothing. May take long where there are
/// many processes or sockets, so not for a task that has to answer others.
///
/// # Errors
/// See [`ExistingError`].
pub fn survey<T: Tables>(question: &Question<'_, T>, occasion: Occasion) -> Result<Vec<Existing>> {
    let namespaces = netns::all().map_err(ExistingError::Namespaces)?;
    Ok(look(question, occasion, &namespaces)?.connected.into_iter().map(|judged| judged.existing).collect())
}

/// Destroys what the policy does not allow and marks what stays. Call it once the policy is in force. May take long,
/// as [`survey`].
///
/// # Errors
/// See [`ExistingError`]; some sockets may have been destroyed.
pub fn settle<T: Tables>(question: &Question<'_, T>, occasion: Occasion) -> Result<Report> {
    let namespaces = netns::all().map_err(ExistingError::Namespaces)?;
    let audit = question.cfg.mode == MODE_AUDIT;
    let keep = occasion == Occasion::Attach { keep_established: true };
    let mut report = Report::default();
    let mut remaining = 0;
    for _ in 0..ROUNDS {
        let sight = look(question, occasion, &namespaces)?;
        report.waiting = sight.waiting_count;
        (report.kept, report.spared, report.marked) = (Vec::new(), Vec::new(), 0);
        for held in &sight.waiting {
            report.marked += usize::from(mark(question, held.socket.as_ref(), None, |_| {}, &held.process));
        }
        let mut forbidden = Vec::new();
        for judged in sight.connected {
            let denied = matches!(judged.existing.verdict, Verdict::Deny(_));
            let by_hand =
                matches!(judged.existing.verdict, Verdict::Deny(Reason::Blocked | Reason::Quarantined));
            if !question.is_known && !by_hand {
                continue;
            }
            // What opens a connection is judged afresh whatever is remembered: only what is open can be kept.
            let spare = (audit || keep && judged.existing.state != State::SynSent) && !by_hand;
            let fate = if denied && !spare { None } else { Some(denied) };
            let marked = fate.is_some_and(|denied| mark_connected(question, &judged, denied));
            report.marked += usize::from(marked);
            match fate {
                Some(_) if !marked && needs_mark(question, &judged, denied) => {
                    forbidden.push(judged.existing);
                }
                Some(true) => report.spared.push(judged.existing),
                Some(false) => report.kept.push(judged.existing),
                None => forbidden.push(judged.existing),
            }
        }
        if forbidden.is_empty() {
            return Ok(report);
        }
        remaining = forbidden.len();
        let cookies: HashSet<u64> = forbidden.iter().map(|existing| existing.cookie).collect();
        for namespace in &namespaces {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let select = |socket: &InetSocket| {
                    judge::is_connected(protocol, socket) && cookies.contains(&socket.cookie)
                };
                sockdiag::destroy(Some(namespace.as_fd()), protocol, &select)?;
            }
        }
        let known: HashSet<u64> = report.destroyed.iter().map(|existing| existing.cookie).collect();
        report.destroyed.extend(forbidden.into_iter().filter(|existing| !known.contains(&existing.cookie)));
    }
    Err(ExistingError::Remaining(remaining))
}

/// Destroys what a changed policy does not allow any more: [`settle`] for [`Occasion::Reload`].
///
/// # Errors
/// As [`settle`].
pub fn newly_forbidden<T: Tables>(question: &Question<'_, T>) -> Result<Report> {
    settle(question, Occasion::Reload)
}

fn look<T: Tables>(question: &Question<'_, T>, occasion: Occasion, namespaces: &[OwnedFd]) -> Result<Sight> {
    let own: HashSet<u64> = question.cgroup.ids()?.into_iter().collect();
    let mut listed = Vec::new();
    for namespace in namespaces {
        let mut sockets = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let found = sockdiag::sockets(Some(namespace.as_fd()), protocol)?;
            sockets.extend(found.into_iter().map(|socket| (protocol, socket)));
        }
        listed.push(sockets);
    }
    let ours = |socket: &InetSocket| socket.cgroup.is_some_and(|id| own.contains(&id));
    let wanted: HashMap<u64, u64> = listed
        .iter()
        .flatten()
        .filter(|(_, socket)| socket.inode != 0 && ours(socket))
        .map(|(_, socket)| (u64::from(socket.inode), socket.cookie))
        .collect();
    let mut holders = holders::find(&wanted, &question.cgroup.pids()?).map_err(ExistingError::Processes)?;
    let mut sight = Sight::default();
    for sockets in &listed {
        let scene = Scene::new(sockets, &own);
        for (protocol, socket) in sockets.iter().filter(|(_, socket)| ours(socket)) {
            let held = holders.remove(&socket.cookie);
            if !judge::is_connected(*protocol, socket) {
                sight.waiting_count += 1;
                sight.waiting.extend(held);
                continue;
            }
            sight.connected.push(judge(question, occasion, &scene, *protocol, socket, held));
        }
    }
    Ok(sight)
}

fn judge<T: Tables>(
    question: &Question<'_, T>,
    occasion: Occasion,
    scene: &Scene<'_>,
    protocol: Protocol,
    socket: &InetSocket,
    held: Option<Held>,
) -> Judged {
    let (process, held) = held.map_or((None, None), |held| (Some(held.process), held.socket));
    let read = |marks: &Marks| marks.read(held.as_ref()?.as_fd()).ok().flatten();
    let state = question.marks.and_then(read).filter(|state| state.agent == question.cfg.agent);
    let mut place = scene.place(protocol, socket);
    if let Some(state) = state {
        // The programs saw it being made, if it was made since they are there.
        let accepted = protocol == Protocol::Tcp && state.role == ROLE_ACCEPTED;
        place.came_in = accepted || occasion != Occasion::Reload && place.came_in;
    }
    if protocol == Protocol::Udp && question.cfg.may_come_in(place.scope != Scope::Remote) {
        // Whoever may come in may be answered, and who has come in is the programs' to know: each datagram is
        // judged by them.
        place.came_in = true;
    }
    let endpoint = judge::endpoint(protocol, socket.remote);
    let name = state
        .filter(|state| protocol == Protocol::Tcp && state.is_peer(&endpoint))
        .map_or(0, |state| state.name);
    let verdict = judge::verdict(question.tables, question.acts, &question.cfg, &endpoint, place, name);
    let existing = Existing {
        protocol,
        state: socket.state,
        local: socket.local,
        remote: socket.remote,
        cookie: socket.cookie,
        uid: socket.uid,
        unsent: socket.tx_queue,
        process,
        verdict,
    };
    Judged { existing, place, held, state }
}

/// Whether a socket that is to stay is refused, or takes the agent's for a stranger's, unless it is marked.
fn needs_mark<T>(question: &Question<'_, T>, judged: &Judged, denied: bool) -> bool {
    let is_marked = |role| judged.state.is_some_and(|state| state.role == role);
    if question.cfg.mode == MODE_AUDIT || judged.existing.protocol == Protocol::Udp && !denied {
        return false;
    }
    match judged.existing.verdict {
        Verdict::Allow(RuleId::REPLY) => !is_marked(ROLE_ACCEPTED),
        Verdict::Allow(_) => judged.place.scope == Scope::OwnListener && judged.state.is_none(),
        Verdict::Deny(_) => true,
    }
}

/// Tells the programs about a connected socket that stays.
fn mark_connected<T>(question: &Question<'_, T>, judged: &Judged, denied: bool) -> bool {
    let existing = &judged.existing;
    let peer = Addr::from(existing.remote.ip().to_canonical());
    let tcp = existing.protocol == Protocol::Tcp;
    let write = |state: &mut SockState| {
        if denied {
            (state.cached, state.role, state.rule) = (CACHED_ALLOW, ROLE_NONE, RuleId::NONE.0);
            state.generation = question.cfg.generation;
        } else if tcp && existing.verdict == Verdict::Allow(RuleId::REPLY) {
            (state.cached, state.role) = (CACHED_NONE, ROLE_ACCEPTED);
        } else {
            return;
        }
        (state.peer, state.peer_port) = (peer.words, existing.remote.port());
    };
    let unknown = Member { pid: 0, comm: String::new(), uid: Some(existing.uid) };
    let process = existing.process.as_ref().unwrap_or(&unknown);
    mark(question, judged.held.as_ref(), judged.state, write, process)
}

/// Whether the programs were told that `socket` is the agent's.
fn mark<T>(
    question: &Question<'_, T>,
    socket: Option<&OwnedFd>,
    before: Option<SockState>,
    write: impl FnOnce(&mut SockState),
    process: &Member,
) -> bool {
    let (Some(marks), Some(socket)) = (question.marks, socket) else { return false };
    let read = || marks.read(socket.as_fd()).ok().flatten().filter(|s| s.agent == question.cfg.agent);
    let now = read();
    let connection = |s: &SockState| (s.role, s.peer, s.peer_port, s.cached);
    // What was judged may be another connection by now: nothing is said of that.
    if before.is_some_and(|judged| now.as_ref().map(connection) != Some(connection(&judged))) {
        return false;
    }
    let mut state = now.unwrap_or_default();
    state.agent = question.cfg.agent;
    write(&mut state);
    // What the programs have written themselves already is left alone: all of it would be written, and what they
    // change in the meantime be taken back.
    if now == Some(state) {
        return true;
    }
    if state.process.pid == 0 {
        state.process = holder(process);
    }
    marks.write(socket.as_fd(), &state).is_ok()
}

fn holder(process: &Member) -> Process {
    let mut comm = [0; COMM_BYTES];
    // The last byte stays NUL.
    for (target, byte) in comm.iter_mut().zip(process.comm.bytes()).take(COMM_BYTES - 1) {
        *target = byte;
    }
    Process { pid: process.pid.cast_unsigned(), uid: process.uid.unwrap_or_default(), comm }
}
