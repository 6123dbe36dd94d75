//! Servers that answer everything with itself and count what they got.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use super::netns::Namespace;
use crate::{eventually::DEADLINE, sys};

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

/// What the server and those who ask it share.
struct Shared {
    tallies: Mutex<HashMap<(SocketAddr, Transport), Tally>>,
    /// Who waits until all that has come so far is counted.
    waiting: Mutex<Vec<mpsc::Sender<()>>>,
    stop: AtomicBool,
    /// Wakes the server: somebody waits, or it is to stop.
    wake: OwnedFd,
}

impl Shared {
    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn count(&self, addr: SocketAddr, transport: Transport, update: impl FnOnce(&mut Tally)) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        update(tallies.entry((addr, transport)).or_default());
    }
}

/// Echo servers on a number of endpoints, in one thread.
pub struct Servers {
    shared: Arc<Shared>,
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
        let shared = Arc::new(Shared {
            tallies: Mutex::default(),
            waiting: Mutex::default(),
            stop: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let theirs = Arc::clone(&shared);
        let thread = namespace.spawn("servers", move || serve(&sockets, &theirs))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What an endpoint got so far, with what has come to its sockets and the server has not read yet: a packet
    /// that the sniffer saw may lie there for a while.
    pub fn tally(&self, addr: SocketAddr, transport: Transport) -> Tally {
        let (done, counted) = mpsc::channel();
        self.shared.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(done);
        self.shared.wake();
        // One that has failed counts nothing more, and does not say so.
        let _ = counted.recv_timeout(DEADLINE);
        let tallies = self.shared.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.get(&(addr, transport)).cloned().unwrap_or_default()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake();
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

fn serve(endpoints: &[Endpoint], shared: &Shared) -> Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        wait(endpoints, &connections, &shared.wake)?;
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        // All sockets are read to their ends below, so that whoever waited before has what had come by then.
        let waiting = std::mem::take(&mut *shared.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for endpoint in endpoints {
            while let Ok((stream, _)) = endpoint.tcp.accept() {
                shared.count(endpoint.addr, Transport::Tcp, |tally| tally.connections += 1);
                stream.set_nonblocking(true)?;
                sys::set_int(&stream, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
                connections.push(Connection { addr: endpoint.addr, stream });
            }
            while let Ok((length, peer)) = endpoint.udp.recv_from(&mut buffer) {
                shared.count(endpoint.addr, Transport::Udp, |tally| {
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
                        shared.count(connection.addr, Transport::Tcp, |tally| tally.bytes += length);
                        // An echo that the client does not read is lost, and that is all it is.
                        let _ = connection.stream.write_all(&buffer[..length]);
                    }
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        });
        for done in waiting {
            let _ = done.send(());
        }
    }
    Ok(())
}

/// Waits until something is ready or the server is woken.
fn wait(endpoints: &[Endpoint], connections: &[Connection], wake: &OwnedFd) -> Result<()> {
    fn watch(fd: BorrowedFd<'_>) -> PollFd<'_> {
        PollFd::from_borrowed_fd(fd, PollFlags::IN)
    }
    let mut events = vec![watch(wake.as_fd())];
    events.extend(
        endpoints.iter().flat_map(|endpoint| [watch(endpoint.tcp.as_fd()), watch(endpoint.udp.as_fd())]),
    );
    events.extend(connections.iter().map(|connection| watch(connection.stream.as_fd())));
    poll(&mut events, None)?;
    match rustix::io::read(wake, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
