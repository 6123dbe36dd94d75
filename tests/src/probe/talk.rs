//! Processes that go on for as long as a test wants: connections that are talked over on demand, and traffic
//! that never stops.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::lab::net::Family;

/// How long a connection may take to be made.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one line of [`talk`] came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What `write` said; 0 if it took all.
    pub errno: i32,
    /// Whether the connection was found broken before.
    pub broken: bool,
}

/// A connection, or a socket with a peer.
enum Line {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    fn say(&mut self, text: &[u8]) -> io::Result<Said> {
        let (broken, written) = match self {
            Self::Tcp(stream) => (stream.take_error()?.is_some(), stream.write_all(text)),
            Self::Udp(socket) => (socket.take_error()?.is_some(), socket.send(text).map(drop)),
        };
        let errno = written.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1));
        Ok(Said { errno, broken })
    }
}

/// Connects to each of `tcp` and of `udp`, says so, then writes every line `INDEX TEXT` of its input to the
/// connection with that number and prints a [`Said`] for it.
///
/// # Errors
/// If a connection cannot be made, or output not be written.
pub fn talk(tcp: &[SocketAddr], udp: &[SocketAddr]) -> io::Result<()> {
    let streams = tcp.iter().map(|to| TcpStream::connect_timeout(to, PATIENCE).map(Line::Tcp));
    let sockets = udp.iter().map(|to| {
        let socket = UdpSocket::bind((Family::of(to.ip()).unspecified(), 0))?;
        socket.connect(to)?;
        Ok(Line::Udp(socket))
    });
    let mut lines: Vec<Line> = streams.chain(sockets).collect::<io::Result<_>>()?;
    let mut output = io::stdout();
    writeln!(output, "{{\"ready\":{}}}", std::process::id())?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (index, text) = line.split_once(' ').unwrap_or((&line, ""));
        let Some(own) = index.parse().ok().and_then(|index: usize| lines.get_mut(index)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        serde_json::to_writer(&mut output, &own.say(text.as_bytes())?)?;
        writeln!(output)?;
        output.flush()?;
    }
    Ok(())
}

/// What came of [`traffic`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Attempts to reach what is allowed.
    pub allowed: u64,
    /// Those that were refused or failed, each in words, the first few of them.
    pub failures: Vec<String>,
    /// Attempts to reach what is denied.
    pub denied: u64,
    /// Those that the system calls let through.
    pub let_through: u64,
}

/// Connects and sends to an allowed endpoint and to a denied one, over TCP and UDP, until its input ends; then
/// prints a [`Traffic`].
///
/// # Errors
/// If output cannot be written.
pub fn traffic(allowed: SocketAddr, denied: SocketAddr, marker: &str) -> io::Result<()> {
    let over = AtomicBool::new(false);
    let counted = thread::scope(|scope| {
        let work = scope.spawn(|| {
            let mut traffic = Traffic::default();
            while !over.load(Ordering::Relaxed) {
                for attempt in [over_tcp, over_udp] {
                    traffic.allowed += 1;
                    if let Err(error) = attempt(allowed, b"allowed")
                        && traffic.failures.len() < 10
                    {
                        traffic.failures.push(error.to_string());
                    }
                    traffic.denied += 1;
                    traffic.let_through += u64::from(attempt(denied, marker.as_bytes()).is_ok());
                }
            }
            traffic
        });
        writeln!(io::stdout(), "{{\"ready\":{}}}", std::process::id())?;
        io::stdin().read_to_end(&mut Vec::new())?;
        over.store(true, Ordering::Relaxed);
        work.join().map_err(|_| io::Error::other("the traffic panicked"))
    })?;
    serde_json::to_writer(io::stdout(), &counted)?;
    writeln!(io::stdout())
}

fn over_tcp(to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    TcpStream::connect_timeout(&to, PATIENCE)?.write_all(bytes)
}

fn over_udp(to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    UdpSocket::bind((Family::of(to.ip()).unspecified(), 0))?.send_to(bytes, to).map(drop)
}

/// The byte at `offset` of what [`pour`] sends over TCP: no two stretches look alike.
#[must_use]
pub fn poured(offset: usize) -> u8 {
    // The low byte of a linear congruential step (Knuth, MMIX): any function of the offset would do.
    (offset.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 24)
        .to_le_bytes()[0]
}

/// Sends `bytes` bytes over one TCP connection in chunks, and reads what is echoed until the end. A server that is
/// hurried may echo less.
///
/// # Errors
/// Of the socket calls.
pub fn pour(to: SocketAddr, bytes: usize, chunk: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    let mut reader = stream.try_clone()?;
    let echoed = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
    let all: Vec<u8> = (0..bytes).map(poured).collect();
    for part in all.chunks(chunk.max(1)) {
        stream.write_all(part)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    echoed.join().map_err(|_| io::ErrorKind::Other)?.map(drop)
}

/// Sends `count` datagrams `datagram N` from one socket and waits for the echo of each.
///
/// # Errors
/// Of the socket calls.
pub fn drip(to: SocketAddr, count: usize) -> io::Result<()> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    let mut echo = [0; 64];
    for number in 0..count {
        socket.send(format!("datagram {number}").as_bytes())?;
        socket.recv(&mut echo)?;
    }
    Ok(())
}
