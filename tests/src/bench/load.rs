//! Load: what the agent of the benchmark does, and who takes it.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use serde_json::Value;

use crate::{
    eventually::{DEADLINE, eventually},
    lab::{hosts::Hosts, net::Family},
    sys,
};

/// Where iperf3 listens.
pub const STREAM_PORT: u16 = 7100;
/// Where connections are taken and dropped.
pub const CONNECT_PORT: u16 = 7101;

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
            Self::Connect { to, seconds } => rate(seconds, || {
                let fd = sys::socket(sys::family(to), libc::SOCK_STREAM, 0)?;
                // Closed by a reset: ports in TIME_WAIT would run out.
                sys::set(&fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1, 0, 0, 0, 0, 0, 0, 0])?;
                Ok(sys::connect(&fd, to)?)
            }),
            Self::Segments { to, seconds } => {
                let fd = sys::socket(sys::family(to), libc::SOCK_STREAM, 0)?;
                sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
                sys::connect(&fd, to)?;
                let mut echo = [0; 64];
                rate(seconds, || {
                    sys::send(&fd, &[b'x'; 64], 0)?;
                    sys::receive(&fd, &mut echo)?;
                    Ok(())
                })
            }
            Self::Datagrams { to, seconds } => {
                let fd = sys::socket(sys::family(to), libc::SOCK_DGRAM, 0)?;
                rate(seconds, || sys::send_to(&fd, &[b'x'; 64], 0, to).map(drop).map_err(Into::into))
            }
        }
    }

    /// The words for the command line.
    pub fn words(self) -> Vec<String> {
        let (name, to, seconds) = match self {
            Self::Connect { to, seconds } => ("connect", to, seconds),
            Self::Segments { to, seconds } => ("segments", to, seconds),
            Self::Datagrams { to, seconds } => ("datagrams", to, seconds),
        };
        vec!["load".to_owned(), name.to_owned(), to.to_string(), seconds.to_string()]
    }
}

fn rate(seconds: f64, mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    // The clock is read once a hundred times: it is not what is measured.
    const BATCH: u32 = 100;
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed().as_secs_f64() < seconds {
        for _ in 0..BATCH {
            once()?;
        }
        count += f64::from(BATCH);
    }
    Ok(count / start.elapsed().as_secs_f64())
}

/// Takes connections and drops them until the process ends.
///
/// # Errors
/// If the port cannot be had.
pub fn take_connections(hosts: &Hosts) -> Result<()> {
    let addr = SocketAddr::from((Family::V4.allowed(), CONNECT_PORT));
    let listener = hosts.server.run(|| {
        let listener = TcpListener::bind(addr)?;
        // The backlog of the standard library is too short for this.
        // SAFETY: listen(2) takes integers only.
        sys::check(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener.as_fd()), 4096) })?;
        Ok(listener)
    })?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(())
}

/// An iperf3 server, ended with its owner.
pub struct Stream(Child);

impl Stream {
    /// Starts it.
    ///
    /// # Errors
    /// If iperf3 is not installed, or does not listen.
    pub fn serve(hosts: &Hosts) -> Result<Self> {
        let mut command = Command::new("iperf3");
        command
            .args(["--server", "--port", &STREAM_PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        hosts.server.attach(&mut command);
        let child = command.spawn().context("iperf3 is needed: `cargo xtask bench` installs it")?;
        let needle = format!(":{STREAM_PORT:04X} ");
        eventually(DEADLINE, "iperf3 listens", || {
            let tables = hosts.server.run(|| {
                let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
                Ok(read("tcp")? + &read("tcp6")?)
            });
            match tables {
                Ok(text) if text.contains(&needle) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        Ok(Self(child))
    }

    /// The client's command line.
    pub fn client(seconds: f64) -> Vec<String> {
        let host = Family::V4.allowed().to_string();
        let words = [
            "--client",
            &host,
            "--port",
            &STREAM_PORT.to_string(),
            "--time",
            &seconds.ceil().to_string(),
            "--json",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// Bits a second that the client's report says have arrived.
    ///
    /// # Errors
    /// If it says something else.
    pub fn rate(report: &str) -> Result<f64> {
        let report: Value = serde_json::from_str(report)?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.with_context(|| format!("iperf3 said {}", report["error"]))?;
        ensure!(rate > 0.0, "iperf3 moved nothing");
        Ok(rate)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
