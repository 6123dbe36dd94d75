//! Listing and destroying real sockets, in network namespaces of the tests' own. Needs root.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    os::linux::fs::MetadataExt as _,
    time::{Duration, Instant},
};

use agentnet::kernel::{
    addrs,
    sockdiag::{self, InetSocket, Protocol, SockDiagError, State},
};
use rstest::rstest;
use rustix::net::{AddressFamily, SocketType};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Runs `body` in a network namespace of its own with loopback up; it ends with the thread.
fn in_netns<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the thread's file descriptors stay shared, only its network namespace changes.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .expect("a network namespace takes root");
            let lo = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(lo.expect("iproute2 is needed").success());
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Asks again until `probe` has an answer; panics when it takes too long.
fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::yield_now();
    }
}

fn tcp() -> Vec<InetSocket> {
    sockdiag::sockets(None, Protocol::Tcp).expect("listing works")
}

/// A connection: the client's end and the server's.
fn connection(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback is up");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let (server, _) = listener.accept().expect("the client is there");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    (client, server)
}

fn socket_cookie(stream: &TcpStream) -> u64 {
    rustix::net::sockopt::socket_cookie(stream).expect("SO_COOKIE")
}

#[rstest]
#[case(V4)]
#[case(V6)]
fn one_of_two_connections_is_destroyed(#[case] loopback: IpAddr) {
    in_netns(|| {
        let listener = TcpListener::bind((loopback, 0)).expect("loopback is up");
        let (mut victim, mut victim_peer) = connection(&listener);
        let (mut other, mut other_peer) = connection(&listener);

        let cookie = socket_cookie(&victim);
        let listed = tcp().into_iter().find(|socket| socket.cookie == cookie).expect("it is listed");
        assert_eq!(listed.state, State::Established);
        assert_eq!(listed.local, victim.local_addr().expect("bound"));
        assert_eq!(listed.remote, listener.local_addr().expect("bound"));
        assert_eq!(listed.uid, rustix::process::getuid().as_raw());
        assert_eq!(u64::from(listed.inode), rustix::fs::fstat(&victim).expect("fstat").st_ino);
        assert_eq!(listed.cgroup, Some(own_cgroup()));

        let destroyed = sockdiag::destroy_tcp(None, &|socket| socket.cookie == cookie).expect("root may");
        assert_eq!(destroyed, 1);

        // The owner is told, and so is the peer.
        let mut byte = [0];
        assert_eq!(victim.read(&mut byte).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
        assert!(victim.write(&byte).is_err());
        assert_eq!(victim_peer.read(&mut byte).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
        assert!(tcp().iter().all(|socket| socket.cookie != cookie), "it is listed no more");

        // The other connection never noticed.
        other.write_all(b"ping").expect("the client's end works");
        let mut ping = [0; 4];
        other_peer.read_exact(&mut ping).expect("the server's end works");
        assert_eq!(&ping, b"ping");
    });
}

#[rstest]
#[case(V4)]
#[case(V6)]
fn an_orphan_with_queued_data_is_destroyed(#[case] loopback: IpAddr) {
    in_netns(|| {
        let listener = TcpListener::bind((loopback, 0)).expect("loopback is up");
        let (mut orphan, mut reader) = connection(&listener);
        let cookie = socket_cookie(&orphan);
        let local = orphan.local_addr().expect("bound");

        // Nobody reads: both buffers fill up, the window closes, the rest waits in the send queue.
        orphan.set_nonblocking(true).expect("fcntl");
        let mut written = 0;
        loop {
            match orphan.write(&[b'x'; 4096]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        drop(orphan);

        let listed = eventually("the orphan", || {
            tcp().into_iter().find(|socket| socket.cookie == cookie && socket.inode == 0)
        });
        assert_eq!(listed.state, State::FinWait1);
        assert_eq!(listed.local, local);
        assert!(listed.tx_queue > 0, "{listed:?}");

        assert_eq!(sockdiag::destroy_tcp(None, &|socket| socket.cookie == cookie).expect("root may"), 1);

        // What was in flight may have arrived; what was queued is gone, and no FIN ends the stream.
        let mut arrived = 0;
        let mut buffer = vec![0; 1 << 16];
        let end = loop {
            match reader.read(&mut buffer) {
                Ok(0) => panic!("an orderly end after {arrived} of {written} bytes"),
                Ok(bytes) => arrived += bytes,
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(end, ErrorKind::ConnectionReset);
        assert!(arrived < written, "{arrived} of {written} bytes arrived");
        assert!(tcp().iter().all(|socket| socket.local != local), "nothing of it is listed");
    });
}

#[test]
fn an_orphan_left_alone_delivers() {
    // The twin of the test above: without destruction all of it arrives, so the loss there is ours.
    in_netns(|| {
        let listener = TcpListener::bind((V4, 0)).expect("loopback is up");
        let (mut orphan, mut reader) = connection(&listener);
        orphan.set_nonblocking(true).expect("fcntl");
        let mut written = 0;
        while let Ok(bytes) = orphan.write(&[b'x'; 4096]) {
            written += bytes;
        }
        drop(orphan);
        let mut arrived = Vec::new();
        reader.read_to_end(&mut arrived).expect("an orderly end");
        assert_eq!(arrived.len(), written);
    });
}

#[test]
fn every_state_is_listed() {
    in_netns(|| {
        let listener = TcpListener::bind((V6, 0)).expect("loopback is up");
        let address = listener.local_addr().expect("bound");
        let has = |state, end: fn(&InetSocket) -> SocketAddr| {
            eventually(&format!("{state:?}"), || {
                tcp().into_iter().find(|s| s.state == state && end(s) == address)
            })
        };
        assert_eq!(has(State::Listen, |s| s.local).cookie, cookie_of(&listener));

        let (client, server) = connection(&listener);
        has(State::Established, |s| s.remote);
        drop(client);
        has(State::FinWait2, |s| s.remote);
        has(State::CloseWait, |s| s.local);
        drop(server);
        let over = has(State::TimeWait, |s| s.remote);
        assert_eq!((over.cgroup, over.inode), (None, 0));

        // A connection that is over and one that never was can be destroyed as well.
        let all = sockdiag::destroy_tcp(None, &|_| true).expect("root may");
        assert_eq!(all, 2, "the listener and the one in TIME_WAIT");
        assert_eq!(tcp(), []);
    });
}

fn cookie_of(listener: &TcpListener) -> u64 {
    rustix::net::sockopt::socket_cookie(listener).expect("SO_COOKIE")
}

#[test]
fn an_ipv4_connection_of_an_ipv6_socket_is_destroyed() {
    in_netns(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback is up");
        let port = listener.local_addr().expect("bound").port();
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
        let mut client = TcpStream::connect((mapped, port)).expect("loopback is up");
        let cookie = socket_cookie(&client);
        let listed = tcp().into_iter().find(|socket| socket.cookie == cookie).expect("it is listed");
        assert_eq!(listed.remote, SocketAddr::new(mapped.into(), port));
        assert_eq!(sockdiag::destroy_tcp(None, &|s| s.cookie == cookie).expect("root may"), 1);
        assert_eq!(client.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
    });
}

#[rstest]
#[case(V4)]
#[case(V6)]
fn udp_sockets_are_listed(#[case] loopback: IpAddr) {
    in_netns(|| {
        let connected = UdpSocket::bind((loopback, 0)).expect("loopback is up");
        let bound = UdpSocket::bind((loopback, 0)).expect("loopback is up");
        connected.connect(bound.local_addr().expect("bound")).expect("loopback is up");

        let listed = sockdiag::sockets(None, Protocol::Udp).expect("listing works");
        assert_eq!(listed.len(), 2, "{listed:?}");
        for (socket, state, remote) in [
            (&connected, State::Established, bound.local_addr().expect("bound")),
            (&bound, State::Close, SocketAddr::new(unspecified(loopback), 0)),
        ] {
            let cookie = rustix::net::sockopt::socket_cookie(socket).expect("SO_COOKIE");
            let found = listed.iter().find(|found| found.cookie == cookie).expect("it is listed");
            assert_eq!((found.state, found.remote), (state, remote));
            assert_eq!(Some(found.local), socket.local_addr().ok());
            assert_eq!(found.cgroup, Some(own_cgroup()));
        }
    });
}

const fn unspecified(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[test]
fn another_namespace_is_reached_through_its_descriptor() {
    in_netns(|| {
        let inside = File::open("/proc/thread-self/ns/net").expect("own namespace");
        let listener = TcpListener::bind((V4, 0)).expect("loopback is up");
        let cookie = cookie_of(&listener);
        in_netns(|| {
            let before = File::open("/proc/thread-self/ns/net").expect("own namespace");
            assert_eq!(tcp(), [], "this one is empty");
            let listed = sockdiag::sockets(Some(inside.as_fd()), Protocol::Tcp).expect("root may enter");
            assert_eq!(listed.iter().map(|s| s.cookie).collect::<Vec<_>>(), [cookie]);
            assert_eq!(sockdiag::destroy_tcp(Some(inside.as_fd()), &|_| true).expect("root may"), 1);
            let after = File::open("/proc/thread-self/ns/net").expect("own namespace");
            let inode = |file: &File| file.metadata().expect("fstat").st_ino();
            assert_eq!(inode(&before), inode(&after), "the caller stays where it is");
        });
        assert_eq!(tcp(), []);
    });
}

#[test]
fn many_sockets_take_many_datagrams() {
    in_netns(|| {
        let sockets: Vec<UdpSocket> =
            (0..700).map(|_| UdpSocket::bind((V6, 0)).expect("loopback is up")).collect();
        let listed = sockdiag::sockets(None, Protocol::Udp).expect("listing works");
        assert_eq!(listed.len(), sockets.len());
    });
}

/// Listeners that share one address.
fn group(size: usize) -> Vec<TcpListener> {
    let mut port = 0;
    let bound = (0..size).map(|_| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        rustix::net::sockopt::set_socket_reuseport(&socket, true).expect("SO_REUSEPORT");
        rustix::net::bind(&socket, &SocketAddr::new(V4, port)).expect("loopback is up");
        rustix::net::listen(&socket, 1).expect("it is bound");
        let listener = TcpListener::from(socket);
        port = listener.local_addr().expect("bound").port();
        listener
    });
    bound.collect()
}

#[test]
fn sockets_that_share_an_address_are_never_mixed_up() {
    in_netns(|| {
        let sockets = group(20);
        let victim = cookie_of(&sockets[0]);
        // The kernel looks a listener up by its address and may find another of the group. Then it is an
        // error, not that other one's end.
        let destroyed = match sockdiag::destroy_tcp(None, &|s| s.cookie == victim) {
            Ok(destroyed) => destroyed,
            Err(SockDiagError::Remaining(1)) => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp().len(), sockets.len() - destroyed);
        assert_eq!(tcp().iter().any(|s| s.cookie == victim), destroyed == 0);

        // All of them go, one after the other as the kernel finds them.
        let rest = sockdiag::destroy_tcp(None, &|_| true).expect("root may");
        assert_eq!(rest, sockets.len() - destroyed);
        assert_eq!(tcp(), []);
    });
}

#[test]
fn a_file_that_is_no_namespace_is_refused() {
    let file = File::open("/dev/null").expect("it is always there");
    let refused = sockdiag::sockets(Some(file.as_fd()), Protocol::Tcp);
    assert!(matches!(refused, Err(SockDiagError::Namespace(_))), "{refused:?}");
}

#[test]
fn addresses_are_those_of_the_own_namespace() {
    in_netns(|| assert_eq!(addrs::local_addresses().expect("getifaddrs"), [V4, V6]));
}

/// The id of the cgroup this process is in: the inode of its directory.
fn own_cgroup() -> u64 {
    let mount = agentnet::kernel::mounts::cgroup2_mount().expect("cgroup v2 is mounted");
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("it is always there");
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroup v2 is in use");
    std::fs::metadata(mount.join(path)).expect("its directory is there").st_ino()
}
