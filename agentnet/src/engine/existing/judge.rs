//! The verdict about a socket that is there already, by what the kernel lists of it. No system calls here.
//!
//! It is the programs' own verdict, [`verdict::judge`]. What they see of a packet has to be inferred here: whether the
//! peer is on this host and whose it is, and which side of a connection asked for it.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use agentnet_common::{
    abi::AgentCfg,
    addr::{Addr, Endpoint, protocol},
    verdict::{self, Acts, Reason, RuleId, Scope, Tables, Verdict},
};

use crate::kernel::sockdiag::{InetSocket, Protocol, State};

/// All sockets of one network namespace.
pub(super) struct Scene<'a> {
    own: &'a HashSet<u64>,
    /// By protocol, own end and other end.
    pairs: HashMap<(Protocol, End, End), &'a InetSocket>,
    /// Those that wait for somebody, by protocol and port.
    waiting: HashMap<(Protocol, u16), Vec<&'a InetSocket>>,
    /// Addresses that some socket here has as its own.
    addresses: HashSet<IpAddr>,
}

/// An address and port, IPv4 whether it was written mapped or not.
type End = (IpAddr, u16);

fn end(address: SocketAddr) -> End {
    (address.ip().to_canonical(), address.port())
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scope: Scope,
    /// Whether the peer seems to have come to us: a listener of ours has this port, and none is at the peer's.
    pub(super) came_in: bool,
}

/// The other end of a socket, as the programs name it.
pub(super) fn endpoint(protocol: Protocol, remote: SocketAddr) -> Endpoint {
    let number = match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
    };
    Endpoint::new(Addr::from(remote.ip().to_canonical()), remote.port(), number)
}

impl<'a> Scene<'a> {
    /// Of `sockets`, those made in the cgroups `own` are the agent's.
    pub(super) fn new(sockets: &'a [(Protocol, InetSocket)], own: &'a HashSet<u64>) -> Self {
        let mut scene = Self {
            own,
            pairs: HashMap::with_capacity(sockets.len()),
            waiting: HashMap::new(),
            addresses: HashSet::new(),
        };
        for (protocol, socket) in sockets {
            let local = end(socket.local);
            if !local.0.is_unspecified() {
                scene.addresses.insert(local.0);
            }
            if is_connected(*protocol, socket) {
                scene.pairs.insert((*protocol, local, end(socket.remote)), socket);
            } else if local.1 != 0 {
                scene.waiting.entry((*protocol, local.1)).or_default().push(socket);
            }
        }
        scene
    }

    /// Whether the agent made it.
    pub(super) fn is_own(&self, socket: &InetSocket) -> bool {
        socket.cgroup.is_some_and(|id| self.own.contains(&id))
    }

    /// Where the peer of a connected socket is.
    pub(super) fn place(&self, protocol: Protocol, socket: &InetSocket) -> Place {
        let (local, remote) = (end(socket.local), end(socket.remote));
        let other = self.pairs.get(&(protocol, remote, local));
        let here = other.is_some()
            || is_loopback(remote.0)
            || remote.0 == local.0
            || self.addresses.contains(&remote.0);
        let scope = match other {
            _ if !here => Scope::Remote,
            Some(other) if self.is_own(other) => Scope::OwnListener,
            Some(_) => Scope::ForeignListener,
            // Of several receivers the kernel picks one: all of them have to be the agent's.
            None => {
                let mut receivers = self.waiting_at(protocol, remote).peekable();
                match receivers.peek().is_some() && receivers.all(|receiver| self.is_own(receiver)) {
                    true => Scope::OwnListener,
                    false => Scope::ForeignListener,
                }
            }
        };
        let asked = protocol == Protocol::Tcp && socket.state != State::SynSent;
        let came_in = asked
            && self.waiting_at(protocol, local).any(|listener| self.is_own(listener))
            // A connection out of the listener's own port looks the same, but for who waits at its other end.
            && (!here || self.waiting_at(protocol, remote).next().is_none());
        Place { scope, came_in }
    }

    /// Who waits for what is sent to `at`.
    fn waiting_at(&self, protocol: Protocol, at: End) -> impl Iterator<Item = &'a InetSocket> {
        let all = self.waiting.get(&(protocol, at.1)).into_iter().flatten().copied();
        all.filter(move |socket| {
            let bound = socket.local.ip().to_canonical();
            let waits = protocol == Protocol::Udp || socket.state == State::Listen;
            waits && (bound == at.0 || bound.is_unspecified())
        })
    }
}

/// Whether it has a peer.
pub(super) fn is_connected(protocol: Protocol, socket: &InetSocket) -> bool {
    socket.remote.port() != 0
        && match protocol {
            Protocol::Tcp => !matches!(socket.state, State::Listen | State::Close),
            Protocol::Udp => socket.state == State::Established,
        }
}

/// The verdict about what a socket sends to its peer, whose address the name of hash `name` has opened; 0 if none has.
pub(super) fn verdict<T: Tables>(
    tables: &T,
    acts: &dyn Acts,
    cfg: &AgentCfg,
    endpoint: &Endpoint,
    place: Place,
    name: u64,
) -> Verdict {
    let let_in = place.came_in && cfg.may_come_in(place.scope != Scope::Remote);
    // That it came in is a guess: a rule is the better reason.
    match verdict::judge(tables, acts, cfg, endpoint, place.scope, false) {
        denied @ Verdict::Deny(Reason::NoRule | Reason::PortOrProtocol) if !let_in => {
            tables.still_named(cfg, name, endpoint).map_or(denied, Verdict::Allow)
        }
        Verdict::Deny(reason) if let_in && reason != Reason::Blocked => Verdict::Allow(RuleId::REPLY),
        verdict => verdict,
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    Addr::from(ip).is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{act::InForce, policy::Policy};

    const OWN: u64 = 7;
    const OTHER: u64 = 8;

    fn socket(state: State, local: &str, remote: &str, cgroup: u64) -> (Protocol, InetSocket) {
        let parse = |text: &str| text.parse().unwrap();
        (Protocol::Tcp, InetSocket::for_tests(state, parse(local), parse(remote), cgroup))
    }

    fn listener(local: &str, cgroup: u64) -> (Protocol, InetSocket) {
        socket(State::Listen, local, if local.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }, cgroup)
    }

    fn connection(local: &str, remote: &str, cgroup: u64) -> (Protocol, InetSocket) {
        socket(State::Established, local, remote, cgroup)
    }

    fn udp((_, socket): (Protocol, InetSocket)) -> (Protocol, InetSocket) {
        (Protocol::Udp, socket)
    }

    /// The place of the first of `sockets` among all of them.
    fn place(sockets: &[(Protocol, InetSocket)]) -> (Scope, bool) {
        let own = HashSet::from([OWN]);
        let Place { scope, came_in } = Scene::new(sockets, &own).place(sockets[0].0, &sockets[0].1);
        (scope, came_in)
    }

    #[test]
    fn peers_elsewhere_and_here() {
        let out = connection("10.0.0.2:40000", "192.0.2.1:443", OWN);
        assert_eq!(place(std::slice::from_ref(&out)), (Scope::Remote, false));
        assert_eq!(place(&[out, listener("0.0.0.0:443", OTHER)]), (Scope::Remote, false), "not here");
        let local = connection("127.0.0.1:40000", "127.0.0.1:5432", OWN);
        assert_eq!(
            place(std::slice::from_ref(&local)),
            (Scope::ForeignListener, false),
            "nobody is nobody's own"
        );
        let far_end = connection("127.0.0.1:5432", "127.0.0.1:40000", OTHER);
        assert_eq!(place(&[local.clone(), far_end]), (Scope::ForeignListener, false));
        let own_end = connection("127.0.0.1:5432", "127.0.0.1:40000", OWN);
        assert_eq!(place(&[local, own_end]), (Scope::OwnListener, false));
    }

    #[test]
    fn mapped_addresses_are_those_they_map() {
        let local = connection("[::ffff:127.0.0.1]:40000", "[::ffff:127.0.0.1]:5432", OWN);
        assert_eq!(
            place(&[local, connection("127.0.0.1:5432", "127.0.0.1:40000", OWN)]),
            (Scope::OwnListener, false)
        );
    }

    #[test]
    fn who_came_in_is_told_by_who_waits() {
        let server = connection("10.0.0.2:8080", "192.0.2.1:50000", OWN);
        assert_eq!(place(&[server.clone(), listener("[::]:8080", OWN)]), (Scope::Remote, true));
        assert_eq!(place(&[server.clone(), listener("0.0.0.0:8080", OTHER)]), (Scope::Remote, false));
        assert_eq!(place(&[server, listener("10.0.0.3:8080", OWN)]), (Scope::Remote, false));
    }

    #[test]
    fn going_out_of_a_listeners_port_is_not_coming_in() {
        // From its own listening port to a database of somebody else's on this host.
        let out = connection("127.0.0.1:8080", "127.0.0.1:5432", OWN);
        let all = [
            out,
            connection("127.0.0.1:5432", "127.0.0.1:8080", OTHER),
            listener("127.0.0.1:8080", OWN),
            listener("127.0.0.1:5432", OTHER),
        ];
        assert_eq!(place(&all), (Scope::ForeignListener, false));
    }

    #[test]
    fn datagrams_go_to_whoever_waits() {
        let out = udp(connection("127.0.0.1:40000", "127.0.0.1:53", OWN));
        let waiting = |cgroup| udp(socket(State::Close, "0.0.0.0:53", "0.0.0.0:0", cgroup));
        assert_eq!(place(&[out.clone(), waiting(OWN)]), (Scope::OwnListener, false));
        assert_eq!(place(&[out.clone(), waiting(OTHER)]), (Scope::ForeignListener, false));
        assert_eq!(place(&[out, waiting(OWN), waiting(OTHER)]), (Scope::ForeignListener, false), "either");
    }

    #[test]
    fn the_verdict_is_the_policys() {
        let text = "version = 1\nname = \"t\"\n[[egress.allow]]\ncidr = \"192.0.2.0/24\"\nports = [443]\n";
        let policy = Policy::from_text("t.toml", text, &[]).unwrap().compiled;
        let cfg = policy.agent_cfg(1, 0, 1);
        let judge = |cfg: &AgentCfg, remote: &str, scope, came_in| {
            let acts = InForce::default();
            let endpoint = endpoint(Protocol::Tcp, remote.parse().unwrap());
            verdict(&policy, &acts, cfg, &endpoint, Place { scope, came_in }, 0)
        };
        assert_eq!(judge(&cfg, "192.0.2.1:443", Scope::Remote, false), Verdict::Allow(RuleId(0)));
        assert_eq!(judge(&cfg, "[::ffff:192.0.2.1]:443", Scope::Remote, false), Verdict::Allow(RuleId(0)));
        assert_eq!(judge(&cfg, "192.0.2.1:80", Scope::Remote, false), Verdict::Deny(Reason::PortOrProtocol));
        assert_eq!(judge(&cfg, "198.51.100.1:443", Scope::Remote, false), Verdict::Deny(Reason::NoRule));
        // `listen` is "loopback": this host may come in, others may not.
        assert_eq!(
            judge(&cfg, "127.0.0.1:50000", Scope::ForeignListener, true),
            Verdict::Allow(RuleId::REPLY)
        );
        assert_eq!(judge(&cfg, "198.51.100.1:50000", Scope::Remote, true), Verdict::Deny(Reason::NoRule));
        assert_eq!(
            judge(&cfg, "127.0.0.1:5432", Scope::OwnListener, false),
            Verdict::Allow(RuleId::OWN_LISTENER)
        );
        let quarantined = AgentCfg { mode: agentnet_common::abi::MODE_QUARANTINE, ..cfg };
        for came_in in [false, true] {
            let verdict = judge(&quarantined, "127.0.0.1:50000", Scope::OwnListener, came_in);
            assert_eq!(verdict, Verdict::Deny(Reason::Quarantined));
        }
    }
}
