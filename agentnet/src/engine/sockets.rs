//! Sockets that a policy does not allow to exist: destroyed when it comes into force over them, or before it
//! goes out of force.
//!
//! The kernel judges every packet; this is about what has been queued, and about a process that should learn at
//! once that its connection is over.

use std::{collections::HashSet, net::SocketAddr, os::fd::AsFd as _};

use agentnet_common::{
    abi::{AgentCfg, LOCAL_ANY, LOCAL_DENY},
    addr::{Addr, Endpoint, protocol},
    verdict::{Scope, Verdict, decide},
};

use super::{host::SocketsError, netns};
use crate::{
    agent::cgroup::Cgroup,
    kernel::sockdiag::{self, InetSocket, Protocol, State},
    policy::compile::Compiled,
};

/// Destroys the TCP connections made in `cgroup` or below that `policy`, as `cfg` has it, does not allow, in
/// whatever network namespace they are, and says how many.
///
/// # Errors
/// If one of them may still be there.
pub(super) fn destroy_forbidden(
    cgroup: &Cgroup,
    policy: &Compiled,
    cfg: &AgentCfg,
) -> Result<usize, SocketsError> {
    let ids: HashSet<u64> = cgroup.ids()?.into_iter().collect();
    let mut destroyed = 0;
    for namespace in netns::all().map_err(SocketsError::Namespaces)? {
        let all = sockdiag::sockets(Some(namespace.as_fd()), Protocol::Tcp)?;
        let place = Place::of(&all, &ids);
        let judged = all.iter().filter(|socket| place.is_forbidden(socket, policy, cfg));
        // By name: what is made meanwhile is judged by the kernel.
        let forbidden: HashSet<u64> = judged.map(|socket| socket.cookie).collect();
        if !forbidden.is_empty() {
            let select = |socket: &InetSocket| forbidden.contains(&socket.cookie);
            destroyed += sockdiag::destroy_tcp(Some(namespace.as_fd()), &select)?;
        }
    }
    Ok(destroyed)
}

/// A network namespace, as an agent's sockets see it.
struct Place<'a> {
    /// The agent's cgroups.
    ids: &'a HashSet<u64>,
    /// Ports at which the agent itself listens.
    listening: HashSet<u16>,
    /// Both ends of every connection, of whomever: one whose reverse is among them stays on this host.
    pairs: HashSet<(SocketAddr, SocketAddr)>,
    /// Those of the agent.
    own: HashSet<(SocketAddr, SocketAddr)>,
}

impl<'a> Place<'a> {
    fn of(all: &[InetSocket], ids: &'a HashSet<u64>) -> Self {
        let mut place = Self { ids, listening: HashSet::new(), pairs: HashSet::new(), own: HashSet::new() };
        for socket in all {
            let own = place.is_own(socket);
            if socket.state == State::Listen {
                if own {
                    place.listening.insert(socket.local.port());
                }
                continue;
            }
            let pair = (plain(socket.local), plain(socket.remote));
            place.pairs.insert(pair);
            if own {
                place.own.insert(pair);
            }
        }
        place
    }

    fn is_own(&self, socket: &InetSocket) -> bool {
        socket.cgroup.is_some_and(|id| self.ids.contains(&id))
    }

    fn is_forbidden(&self, socket: &InetSocket, policy: &Compiled, cfg: &AgentCfg) -> bool {
        let is_connection = !matches!(socket.state, State::Listen | State::Close | State::TimeWait);
        if !is_connection || !self.is_own(socket) {
            return false;
        }
        let (local, remote) = (plain(socket.local), plain(socket.remote));
        let reverse = (remote, local);
        let on_host = remote.ip().is_loopback() || remote.ip() == local.ip() || self.pairs.contains(&reverse);
        if self.listening.contains(&local.port()) {
            // The peer came to the agent.
            let may_come_in = match cfg.listen {
                LOCAL_DENY => false,
                LOCAL_ANY => true,
                _ => on_host,
            };
            if may_come_in && !cfg.is_quarantined() {
                return false;
            }
        }
        let scope = match (on_host, self.own.contains(&reverse)) {
            (true, true) => Scope::OwnListener,
            (true, false) => Scope::ForeignListener,
            (false, _) => Scope::Remote,
        };
        let endpoint = Endpoint::new(Addr::from(remote.ip()), remote.port(), protocol::TCP);
        matches!(decide(policy, cfg, &endpoint, scope), Verdict::Deny(_))
    }
}

/// An IPv4 address as such, also where an IPv6 socket has it.
fn plain(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}
