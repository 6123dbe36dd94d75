//! Load: what the agent of the benchmark does, and who takes it.

use std::{
    io::{self, BufRead as _, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{
    lab::{hosts::Hosts, net::Family},
    sys,
};

/// Where bytes are taken and dropped.
pub const STREAM_PORT: u16 = 7100;
/// Where connections are taken and dropped.
pub const CONNECT_PORT: u16 = 7101;

/// Bytes that the stream's ends move with one call.
const CHUNK: usize = 128 << 10;

/// What the agent does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Load {
    /// Connects and closes for a while; prints connections a second.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// Seconds.
        seconds: f64,
    },
    /// Sends as much as one connection takes; prints bits a second.
    Stream {
        /// Where to.
        to: SocketAddr,
        /// Seconds.
        seconds: f64,
    },
    /// Sends small segments on one connection; prints sends a second.
    Segments {
        /// Where to.
        to: SocketAddr,
        /// Seconds.
        seconds: f64,
    },
    /// Sends datagrams without connecting; prints datagrams a second.
    Datagrams {
        /// Where to.
        to: SocketAddr,
        /// Seconds.
        seconds: f64,
    },
}

impl Load {
    /// Does it; how many a second.
    ///
    /// # Errors
    /// If a call fails: then there is no rate to tell.
    pub fn run(self) -> Result<f64> {
        match self {
            Self::Connect { to, seconds } => rate(seconds, 100, || {
                let fd = socket(to)?;
                // Closed by a reset: ports in TIME_WAIT would run out.
                sockopt::set_socket_linger(&fd, Some(std::time::Duration::ZERO))?;
                Ok(connect(&fd, &to)?)
            }),
            Self::Stream { to, seconds } => {
                let mut stream = TcpStream::connect(to)?;
                let chunk = vec![b'x'; CHUNK];
                let chunks = rate(seconds, 10, || Ok(stream.write_all(&chunk)?))?;
                Ok(chunks * 8.0 * f64::from(u32::try_from(CHUNK)?))
            }
            Self::Segments { to, seconds } => {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                let mut echo = [0; 64];
                rate(seconds, 100, || {
                    stream.write_all(&[b'x'; 64])?;
                    Ok(stream.read_exact(&mut echo)?)
                })
            }
            Self::Datagrams { to, seconds } => {
                let fd = sys::socket(sys::family(to), libc::SOCK_DGRAM, 0)?;
                rate(seconds, 100, || sys::send_to(&fd, &[b'x'; 64], 0, to).map(drop).map_err(Into::into))
            }
        }
    }

    /// Does it once for every line of standard input, each of which is answered by a line with the rate.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub fn take_turns(self) -> Result<()> {
        pin(Cpu::Client)?;
        for line in io::stdin().lock().lines() {
            line?;
            println!("{}", self.run()?);
        }
        Ok(())
    }

    /// The words for the command line.
    pub fn words(self) -> Vec<String> {
        let (name, to, seconds) = match self {
            Self::Connect { to, seconds } => ("connect", to, seconds),
            Self::Stream { to, seconds } => ("stream", to, seconds),
            Self::Segments { to, seconds } => ("segments", to, seconds),
            Self::Datagrams { to, seconds } => ("datagrams", to, seconds),
        };
        vec![name.to_owned(), to.to_string(), seconds.to_string()]
    }
}

/// A TCP socket and nothing more: each call on it is one more that would be measured.
fn socket(to: SocketAddr) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// How often `once` can be done in a second. The clock is read once in `batch` times: it is not what is
/// measured.
fn rate(seconds: f64, batch: u32, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed().as_secs_f64() < seconds {
        for _ in 0..batch {
            once()?;
        }
        count += f64::from(batch);
    }
    Ok(count / start.elapsed().as_secs_f64())
}

/// Who runs where: the scheduler's choice would be the larger part of the differences between runs.
#[derive(Clone, Copy)]
enum Cpu {
    /// The first CPU. It has most of the work, as a packet over veth is received where it is sent.
    Client,
    /// The last one.
    Server,
}

/// Keeps the calling thread on one CPU.
fn pin(cpu: Cpu) -> Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut usable = (0..CpuSet::MAX_CPU).filter(|&index| allowed.is_set(index));
    let index = match cpu {
        Cpu::Client => usable.next(),
        Cpu::Server => usable.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(index.context("no CPU is allowed")?);
    Ok(sched_setaffinity(None, &one)?)
}

/// Takes connections and streams and drops them until the process ends.
///
/// # Errors
/// If a port cannot be had.
pub fn serve(hosts: &Hosts) -> Result<()> {
    let connections = listen(hosts, CONNECT_PORT)?;
    let streams = listen(hosts, STREAM_PORT)?;
    thread::spawn(move || pin(Cpu::Server).map(|()| connections.incoming().for_each(drop)));
    thread::spawn(move || pin(Cpu::Server).map(|()| streams.incoming().flatten().for_each(drain)));
    Ok(())
}

fn drain(mut stream: TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while stream.read(&mut chunk).is_ok_and(|bytes| bytes > 0) {}
}

fn listen(hosts: &Hosts, port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from((Family::V4.allowed(), port));
    hosts.server.run(|| {
        let listener = TcpListener::bind(addr)?;
        // The backlog of the standard library is too short for this.
        // SAFETY: listen(2) takes integers only.
        sys::check(unsafe { libc::listen(listener.as_fd().as_raw_fd(), 4096) })?;
        Ok(listener)
    })
}
