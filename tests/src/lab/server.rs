//! Servers that answer everything with itself and count what they got.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::netns::Namespace;
use crate::sys;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// What one endpoint of a server got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections accepted.
    pub connections: usize,
    /// Datagrams received.
    pub datagrams: usize,
    /// Bytes of payload received.
    pub bytes: usize,
}

type Tallies = Arc<Mutex<HashMap<(SocketAddr, Transport), Tally>>>;

/// Echo servers on a number of endpoints, in one thread.
pub struct Servers {
    tallies: Tallies,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Servers {
    /// Starts TCP and UDP servers on all `endpoints` of a namespace. They listen when this returns.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn start(namespace: &Namespace, endpoints: &[SocketAddr]) -> Result<Self> {
        let sockets = namespace
            .run(|| endpoints.iter().map(|&addr| Endpoint::open(addr)).collect::<Result<Vec<_>>>())?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let tallies = Tallies::default();
        let (stop_in, tallies_in) = (Arc::clone(&stop), Arc::clone(&tallies));
        let thread = namespace.spawn("servers", move || serve(&sockets, &stop_in, &tallies_in))?;
        Ok(Self { tallies, stop, thread: Some(thread) })
    }

    /// What an endpoint got so far.
    pub fn tally(&self, addr: SocketAddr, transport: Transport) -> Tally {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.get(&(addr, transport)).cloned().unwrap_or_default()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Endpoint {
    addr: SocketAddr,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Endpoint {
    fn open(addr: SocketAddr) -> Result<Self> {
        let tcp = TcpListener::bind(addr).with_context(|| format!("listen on {addr}/tcp"))?;
        let udp = UdpSocket::bind(addr).with_context(|| format!("listen on {addr}/udp"))?;
        tcp.set_nonblocking(true)?;
        udp.set_nonblocking(true)?;
        sys::set_int(&tcp, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16)?;
        // Datagrams without a checksum come from raw sockets; the servers count them, too.
        sys::set_int(&udp, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
        Ok(Self { addr, tcp, udp })
    }
}

struct Connection {
    addr: SocketAddr,
    stream: TcpStream,
}

fn serve(endpoints: &[Endpoint], stop: &OwnedFd, tallies: &Tallies) -> Result<()> {
    let count = |addr, transport, update: &dyn Fn(&mut Tally)| {
        let mut tallies = tallies.lock().unwrap_or_else(PoisonError::into_inner);
        update(tallies.entry((addr, transport)).or_default());
    };
    let mut connections: Vec<Connection> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while !wait(endpoints, &connections, stop)? {
        for endpoint in endpoints {
            while let Ok((stream, _)) = endpoint.tcp.accept() {
                count(endpoint.addr, Transport::Tcp, &|tally| tally.connections += 1);
                stream.set_nonblocking(true)?;
                sys::set_int(&stream, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
                connections.push(Connection { addr: endpoint.addr, stream });
            }
            while let Ok((length, peer)) = endpoint.udp.recv_from(&mut buffer) {
                count(endpoint.addr, Transport::Udp, &|tally| {
                    tally.datagrams += 1;
                    tally.bytes += length;
                });
                let _ = endpoint.udp.send_to(&buffer[..length], peer);
            }
        }
        connections.retain_mut(|connection| {
            loop {
                match connection.stream.read(&mut buffer) {
                    Ok(0) => return false,
                    Ok(length) => {
                        count(connection.addr, Transport::Tcp, &|tally| tally.bytes += length);
                        // An echo that the client does not read is lost, and that is all it is.
                        let _ = connection.stream.write_all(&buffer[..length]);
                    }
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        });
    }
    Ok(())
}

/// Waits until something is ready; whether that is the order to stop.
fn wait(endpoints: &[Endpoint], connections: &[Connection], stop: &OwnedFd) -> Result<bool> {
    fn watch(fd: BorrowedFd<'_>) -> PollFd<'_> {
        PollFd::from_borrowed_fd(fd, PollFlags::IN)
    }
    let mut events = vec![watch(stop.as_fd())];
    events.extend(
        endpoints.iter().flat_map(|endpoint| [watch(endpoint.tcp.as_fd()), watch(endpoint.udp.as_fd())]),
    );
    events.extend(connections.iter().map(|connection| watch(connection.stream.as_fd())));
    poll(&mut events, None)?;
    Ok(events.first().is_some_and(|event| !event.revents().is_empty()))
}
