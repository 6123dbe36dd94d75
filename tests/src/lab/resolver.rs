//! A resolver that answers as a test wants, over UDP and TCP, and keeps what it was asked.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use anyhow::Result;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{netns::Namespace, server::Transport};
use crate::{
    eventually::{DEADLINE, eventually},
    sys,
};

/// Bytes of a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// Types of records.
pub const A: u16 = 1;
/// See [`A`].
pub const AAAA: u16 = 28;
/// See [`A`].
pub const CNAME: u16 = 5;

/// What the resolver does with a message: any number of messages that go back.
pub type Answer = dyn FnMut(&[u8], Transport) -> Vec<Vec<u8>> + Send;

/// A resolver.
pub struct Resolver {
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Resolver {
    /// Starts one on all of `at`. It listens when this returns.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn start(namespace: &Namespace, at: &[SocketAddr], answer: Box<Answer>) -> Result<Self> {
        Self::start_in_pieces(namespace, at, usize::MAX, answer)
    }

    /// The same; what it answers over TCP comes in segments of so many bytes.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn start_in_pieces(
        namespace: &Namespace,
        at: &[SocketAddr],
        size: usize,
        mut answer: Box<Answer>,
    ) -> Result<Self> {
        let sockets = namespace.run(|| {
            at.iter()
                .map(|at| {
                    // What another test forks holds for a moment the sockets of one that has ended.
                    let free = format!("{at} is free for a resolver");
                    let bind = || UdpSocket::bind(at).map_err(|error| error.to_string());
                    let udp = eventually(DEADLINE, &free, bind)?;
                    udp.set_nonblocking(true)?;
                    // What a test sends in a burst is there when it asks.
                    sys::set_int(&udp, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 26)?;
                    let bind = || TcpListener::bind(at).map_err(|error| error.to_string());
                    let tcp = eventually(DEADLINE, &free, bind)?;
                    tcp.set_nonblocking(true)?;
                    Ok((udp, tcp))
                })
                .collect::<Result<Vec<_>>>()
        })?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let asked = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let (stop_in, asked_in) = (Arc::clone(&stop), Arc::clone(&asked));
        let thread =
            namespace.spawn("resolver", move || serve(&sockets, &stop_in, &asked_in, size, &mut answer))?;
        Ok(Self { asked, stop, thread: Some(thread) })
    }

    /// Starts one that knows `zone`, names with their addresses, and nothing else.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn of_zone(namespace: &Namespace, at: &[SocketAddr], zone: &[(&str, Vec<IpAddr>)]) -> Result<Self> {
        let zone: HashMap<Vec<u8>, Vec<IpAddr>> =
            zone.iter().map(|(name, addresses)| (wire_name(name), addresses.clone())).collect();
        Self::start(namespace, at, Box::new(move |query, _| zone_answer(&zone, query).into_iter().collect()))
    }

    /// All messages that arrived, in their order.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of them hold these bytes, whatever the case of letters.
    pub fn asked_for(&self, needle: &[u8]) -> usize {
        let holds =
            |message: &Vec<u8>| message.windows(needle.len()).any(|part| part.eq_ignore_ascii_case(needle));
        self.asked().iter().filter(|message| holds(message)).count()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A name in wire form, the root included.
pub fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).unwrap_or(63));
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

/// A message as a connection carries it (RFC 1035, 4.2.2).
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), message].concat()
}

/// A plain query.
pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message.extend(wire_name(name));
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// A record of an answer: owner in wire form, or empty for the name that was asked for; type, TTL, data.
pub struct Record {
    /// See above.
    pub owner: Vec<u8>,
    /// See above.
    pub kind: u16,
    /// Seconds.
    pub ttl: u32,
    /// See above.
    pub data: Vec<u8>,
}

impl Record {
    /// An address of the name that was asked for.
    pub fn address(ip: IpAddr, ttl: u32) -> Self {
        let (kind, data) = match ip {
            IpAddr::V4(ip) => (A, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ip.octets().to_vec()),
        };
        Self { owner: Vec::new(), kind, ttl, data }
    }
}

/// The answer to `query` with these records and this response code; `None` if it is no query.
pub fn answer(query: &[u8], records: &[Record], code: u8) -> Option<Vec<u8>> {
    let end = question_end(query)?;
    let mut message = query.get(..end)?.to_vec();
    message[2] = 0x81;
    message[3] = 0x80 | code;
    message[6..8].copy_from_slice(&u16::try_from(records.len()).ok()?.to_be_bytes());
    message[8..12].fill(0);
    for record in records {
        if record.owner.is_empty() {
            message.extend([0xc0, 0x0c]);
        } else {
            message.extend(&record.owner);
        }
        message.extend(record.kind.to_be_bytes());
        message.extend([0, 1]);
        message.extend(record.ttl.to_be_bytes());
        message.extend(u16::try_from(record.data.len()).ok()?.to_be_bytes());
        message.extend(&record.data);
    }
    Some(message)
}

/// Where the question of a message ends.
pub fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match usize::from(*message.get(at)?) {
            0 => return (message.len() >= at + 5).then_some(at + 5),
            length => at += 1 + length,
        }
    }
}

fn zone_answer(zone: &HashMap<Vec<u8>, Vec<IpAddr>>, query: &[u8]) -> Option<Vec<u8>> {
    let end = question_end(query)?;
    let name = query.get(HEADER..end - 4)?.to_ascii_lowercase();
    let kind = u16::from_be_bytes([query[end - 4], query[end - 3]]);
    let Some(addresses) = zone.get(&name) else { return answer(query, &[], 3) };
    let records: Vec<Record> =
        addresses.iter().map(|ip| Record::address(*ip, 60)).filter(|record| record.kind == kind).collect();
    answer(query, &records, 0)
}

fn serve(
    sockets: &[(UdpSocket, TcpListener)],
    stop: &OwnedFd,
    asked: &Mutex<Vec<Vec<u8>>>,
    size: usize,
    answer: &mut Box<Answer>,
) -> Result<()> {
    let mut connections: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let keep = |message: &[u8]| asked.lock().unwrap_or_else(PoisonError::into_inner).push(message.to_vec());
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        for (udp, tcp) in sockets {
            fds.push(PollFd::from_borrowed_fd(udp.as_fd(), PollFlags::IN));
            fds.push(PollFd::from_borrowed_fd(tcp.as_fd(), PollFlags::IN));
        }
        fds.extend(
            connections.iter().map(|(stream, _)| PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)),
        );
        poll(&mut fds, None)?;
        let stopped = !fds[0].revents().is_empty();
        drop(fds);
        if stopped {
            return Ok(());
        }
        for (udp, tcp) in sockets {
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                keep(&buffer[..length]);
                for message in answer(&buffer[..length], Transport::Udp) {
                    // Who asked may be gone.
                    let _ = udp.send_to(&message, from);
                }
            }
            while let Ok((stream, _)) = tcp.accept() {
                stream.set_nonblocking(true)?;
                // Urgent data counts as well.
                sys::set_int(&stream, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
                stream.set_nodelay(true)?;
                connections.push((stream, Vec::new()));
            }
        }
        connections.retain_mut(|(stream, pending)| {
            // What came before the end counts, too.
            let goes_on = loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(length) => pending.extend(&buffer[..length]),
                    Err(error) => break error.kind() == ErrorKind::WouldBlock,
                }
            };
            while pending.len() >= 2 {
                let length = usize::from(u16::from_be_bytes([pending[0], pending[1]]));
                if pending.len() < 2 + length {
                    break;
                }
                let frame: Vec<u8> = pending.drain(..2 + length).collect();
                keep(&frame[2..]);
                for message in answer(&frame[2..], Transport::Tcp) {
                    let _ = framed(&message).chunks(size).try_for_each(|piece| stream.write_all(piece));
                }
            }
            goes_on
        });
    }
}
