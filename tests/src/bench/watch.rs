//! What watching costs, and how soon is told and done what has to be: a daemon with its followers and agents.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use rustix::time::{ClockId, clock_gettime};

use super::row::Row;
use crate::lab::{
    daemon::{Daemon, Served},
    found::Found,
    net::Family,
    policy::Policy,
};

/// Refusals a second that go on while it is measured how soon one is told.
const REFUSALS: u32 = 10_000;
/// Refusals of one agent that are told apart; of more, the time to be told is that of a summary.
const APART: u16 = 80;
/// Agents that one after the other are refused something.
const ASKING: usize = 3;
/// How often something is blocked.
const BLOCKS: usize = 20;
/// Where datagrams are taken.
const SINK_PORT: u16 = 7300;
/// Agents and rules of a big host.
const AGENTS: usize = 200;
const RULES: u32 = 2000;

/// What the benchmark's agents do, each until its input ends.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Role {
    /// Sends datagrams that are refused, so many a second.
    Refused {
        /// Where to.
        to: SocketAddr,
        /// How many.
        rate: u32,
    },
    /// For every line of its input, a port: tells the time and connects there.
    Asked {
        /// Where to.
        to: SocketAddr,
    },
    /// Sends a datagram every 100 µs.
    Datagrams {
        /// Where to.
        to: SocketAddr,
    },
    /// For every line of its input, a rate: writes so many pieces of HTTP a second for two seconds, and tells how many
    /// it were.
    Pieces {
        /// Where to.
        to: SocketAddr,
        /// Bytes of each.
        bytes: usize,
    },
}

impl Role {
    /// Does it.
    ///
    /// # Errors
    /// Of the calls that are not to be refused.
    pub fn run(self) -> Result<()> {
        println!("ready");
        match self {
            Self::Refused { to, rate } => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                until_input_ends(rate, || {
                    // It is refused, which is what it is for.
                    let _ = socket.send_to(b"x", to);
                    Ok(())
                })
            }
            Self::Datagrams { to } => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                until_input_ends(10_000, || {
                    // At some time it is refused.
                    let _ = socket.send_to(b"x", to);
                    Ok(())
                })
            }
            Self::Asked { to } => {
                for line in std::io::stdin().lock().lines() {
                    let to = SocketAddr::new(to.ip(), line?.parse()?);
                    println!("{}", now());
                    ensure!(TcpStream::connect(to).is_err(), "{to} was not refused");
                }
                Ok(())
            }
            Self::Pieces { to, bytes } => {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                stream
                    .write_all(b"POST / HTTP/1.1\r\nHost: bench\r\nContent-Length: 1000000000000\r\n\r\n")?;
                let piece = vec![b'x'; bytes];
                for line in std::io::stdin().lock().lines() {
                    let (rate, start, mut count) = (line?.parse::<u32>()?, Instant::now(), 0_u32);
                    while start.elapsed() < Duration::from_secs(2) {
                        pace(start, count, rate);
                        stream.write_all(&piece)?;
                        count += 1;
                    }
                    println!("{count}");
                }
                Ok(())
            }
        }
    }
}

fn until_input_ends(rate: u32, mut once: impl FnMut() -> Result<()>) -> Result<()> {
    let (over, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let _over = over;
        // Whatever ends it.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    });
    let (start, mut count) = (Instant::now(), 0_u32);
    while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
        pace(start, count, rate);
        once()?;
        count += 1;
    }
    println!("{}", f64::from(count) / start.elapsed().as_secs_f64());
    Ok(())
}

/// Waits until it is time for number `count`; 0 is no limit.
fn pace(start: Instant, count: u32, rate: u32) {
    let Some(due) = Duration::from_secs(1).checked_div(rate).map(|every| every * count) else { return };
    if let Some(wait) = due.checked_sub(start.elapsed())
        && wait > Duration::from_micros(50)
    {
        thread::sleep(wait);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the same in all processes.
fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// A process of the benchmark in an agent.
struct Playing {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Playing {
    fn start(found: &Found<'_>, words: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("play").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        found.join(&mut command)?;
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no pipe")?);
        let mut playing = Self { child, input, output: BufReader::new(output) };
        let line = playing.line()?;
        ensure!(line == "ready", "{words:?}: {line:?}");
        Ok(playing)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, line: impl std::fmt::Display) -> Result<String> {
        writeln!(self.input.as_mut().context("it has ended")?, "{line}")?;
        self.line()
    }

    fn end(mut self) -> Result<String> {
        drop(self.input.take());
        let line = self.line()?;
        ensure!(self.child.wait()?.success());
        Ok(line)
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Measures everything.
///
/// # Errors
/// If something does not work at all.
pub fn measure() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    {
        let served = Served::new()?;
        rows.extend(samples(&served, 200, 256)?);
        rows.extend(samples(&served, 2000, 2048)?);
    }
    {
        let served = Served::new()?;
        rows.push(memory_of_one(&served)?);
        rows.extend(told(&served)?);
        rows.push(blocked(&served)?);
    }
    rows.extend(many()?);
    Ok(rows)
}

fn attach(daemon: &Daemon, found: &Found<'_>, policy: &str) -> Result<()> {
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", policy]).map(drop)
}

fn milliseconds(values: &mut [f64]) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((values.len().saturating_sub(1)) as f64 * part).round() as usize;
        values.get(index).copied().unwrap_or(f64::NAN) / 1e6
    };
    (at(0.5), at(0.99), at(1.0))
}

/// Pieces of a stream that are sampled whole and not lost, doubling the rate until some are.
fn samples(served: &Served, bytes: usize, record: usize) -> Result<Vec<Row>> {
    let Served { lab, daemon } = served;
    daemon.write_policy(
        "http",
        &Policy::standard().allow(&Family::V4.allowed().to_string(), &[80], &["tcp"]).text(),
    )?;
    let found = Found::new(lab)?;
    attach(daemon, &found, "http")?;
    let to = SocketAddr::from((Family::V4.allowed(), 80)).to_string();
    let mut writer = Playing::start(&found, &["pieces", &to, &bytes.to_string()])?;
    let (mut best, mut rate, mut limit) = (0.0, 2000_u32, "no loss at any rate that the writer reaches");
    let lost = || -> Result<u64> {
        let status = daemon.status_of(&found.name)?;
        status["engine"]["lost"].as_u64().context("no losses")
    };
    loop {
        let before = lost()?;
        let count: f64 = writer.ask(rate)?.parse()?;
        // The daemon has what is in the ring still to read, and counts once a second.
        thread::sleep(Duration::from_millis(1500));
        if lost()? > before {
            limit = "at the next rate some were lost";
            break;
        }
        let reached = count / 2.0;
        if reached < best * 1.1 {
            break;
        }
        best = reached;
        rate = rate.saturating_mul(2);
    }
    drop(writer);
    let over = daemon.log_of(&found.name)?.iter().any(|line| line["evidence"]["cause"] == "unsampled");
    let budget = if over { "; beyond the budget of 8 MiB/s they are counted and not sampled" } else { "" };
    daemon.tell(&["detach", &found.name])?;
    Ok(vec![Row::new(
        format!("pieces of HTTP of {bytes} B a second, in records of {record} B, none lost"),
        format!("{best:.0} ({limit}{budget})"),
        "",
        None,
    )])
}

/// The time from a call that is refused until its line is there, while another agent is refused all the time.
fn told(served: &Served) -> Result<Vec<Row>> {
    let Served { lab, daemon } = served;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let (lines, shown) = mpsc::channel();
    let mut follower = daemon
        .command(&["alerts", "--json", "--follow"])?
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = follower.stdout.take().context("no pipe")?;
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send((now(), line)).is_err() {
                return;
            }
        }
    });
    let noisy = Found::new(lab)?;
    attach(daemon, &noisy, "lab")?;
    let denied = Family::V4.denied();
    let never = SocketAddr::from((denied, 9)).to_string();
    let noise = Playing::start(&noisy, &["refused", &never, &REFUSALS.to_string()])?;
    let mut times = Vec::new();
    for _ in 0..ASKING {
        let found = Found::new(lab)?;
        attach(daemon, &found, "lab")?;
        let to = SocketAddr::from((denied, 1)).to_string();
        let mut asked = Playing::start(&found, &["asked", &to])?;
        for port in 10_000..10_000 + APART {
            let called: i64 = asked.ask(port)?.parse()?;
            #[expect(clippy::cast_precision_loss, reason = "a time")]
            times.push((line_about(&shown, &found.name, port)? - called) as f64);
        }
        drop(asked);
        daemon.tell(&["detach", &found.name])?;
    }
    let rate: f64 = noise.end()?.parse()?;
    let _ = follower.kill();
    let _ = follower.wait();
    daemon.tell(&["detach", &noisy.name])?;
    let (median, late, last) = milliseconds(&mut times);
    Ok(vec![Row::new(
        format!(
            "refused call to its line in `alerts -f`, while another agent is refused {rate:.0} times a second ({} calls)",
            times.len()
        ),
        format!("p50 {median:.1} ms, p99 {late:.1} ms, longest {last:.1} ms"),
        "p99 200 ms",
        Some(late < 200.0),
    )])
}

fn line_about(shown: &Receiver<(i64, String)>, agent: &str, port: u16) -> Result<i64> {
    let (agent, port) = (format!("\"agent\":\"{agent}\""), format!("\"port\":{port},"));
    loop {
        let (time, line) = shown.recv_timeout(Duration::from_secs(30)).context("it is not shown")?;
        if line.contains(&agent) && line.contains(&port) {
            return Ok(time);
        }
    }
}

/// Takes datagrams, and knows when the last one came.
#[derive(Clone, Default)]
struct Sink {
    count: Arc<AtomicU64>,
    last: Arc<AtomicI64>,
}

impl Sink {
    fn start(served: &Served, at: SocketAddr) -> Result<Self> {
        let socket = served.lab.server.run(|| Ok(UdpSocket::bind(at)?))?;
        let sink = Self::default();
        let theirs = sink.clone();
        thread::spawn(move || {
            let mut byte = [0];
            while socket.recv(&mut byte).is_ok() {
                theirs.last.store(now(), Ordering::Relaxed);
                theirs.count.fetch_add(1, Ordering::Release);
            }
        });
        Ok(sink)
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }
}

/// The time from the start of `agentnet block` until the last packet is at the far end.
fn blocked(served: &Served) -> Result<Row> {
    let Served { lab, daemon } = served;
    let found = Found::new(lab)?;
    let to = SocketAddr::from((Family::V4.allowed(), SINK_PORT));
    let target = to.ip().to_string();
    daemon.write_policy("sink", &Policy::closed().allow(&target, &[SINK_PORT], &["udp"]).text())?;
    attach(daemon, &found, "sink")?;
    let sink = Sink::start(served, to)?;
    let sender = Playing::start(&found, &["datagrams", &to.to_string()])?;
    let mut times = Vec::new();
    for _ in 0..BLOCKS {
        let before = sink.count();
        let begun = Instant::now();
        while sink.count() < before + 100 {
            ensure!(begun.elapsed() < Duration::from_secs(10), "nothing arrives");
            thread::sleep(Duration::from_millis(1));
        }
        let start = now();
        daemon.tell(&["block", &target, "--agent", &found.name])?;
        // What is under way arrives, and nothing comes after it.
        thread::sleep(Duration::from_millis(100));
        let count = sink.count();
        thread::sleep(Duration::from_millis(100));
        ensure!(sink.count() == count, "packets arrive after the block");
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        times.push((sink.last.load(Ordering::Relaxed) - start) as f64);
        daemon.tell(&["unblock", &target, "--agent", &found.name])?;
    }
    sender.end()?;
    daemon.tell(&["detach", &found.name])?;
    let (median, _, last) = milliseconds(&mut times);
    Ok(Row::new(
        format!(
            "start of `agentnet block` to the last packet at the far end, of 10,000 a second ({BLOCKS} times)"
        ),
        format!("median {median:.1} ms, longest {last:.1} ms"),
        "100 ms",
        Some(last < 100.0),
    ))
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn memory_of_one(served: &Served) -> Result<Row> {
    let Served { lab, daemon } = served;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(lab)?;
    attach(daemon, &found, "lab")?;
    thread::sleep(Duration::from_secs(3));
    let bytes = daemon.resident_bytes()?;
    daemon.tell(&["detach", &found.name])?;
    Ok(Row::new(
        "resident memory, one agent that does nothing",
        mebibytes(bytes),
        "25 MB",
        Some(bytes < 25_000_000),
    ))
}

fn many() -> Result<Vec<Row>> {
    let Served { lab, mut daemon } = Served::new()?;
    let rules = (0..RULES).fold(Policy::standard(), |policy, number| {
        let [_, _, high, low] = number.to_be_bytes();
        policy.allow(&format!("100.64.{high}.{low}/32"), &[443], &["tcp"])
    });
    daemon.write_policy("long", &rules.text())?;
    let found = (0..AGENTS).map(|_| Found::new(&lab)).collect::<Result<Vec<_>>>()?;
    for found in &found {
        attach(&daemon, found, "long")?;
    }
    daemon.kill()?;
    let start = Instant::now();
    daemon.start()?;
    let took = start.elapsed();
    let enforced = daemon.status()?.iter().filter(|row| row["state"] == "enforced").count();
    ensure!(enforced == AGENTS, "{enforced} of {AGENTS} are enforced");
    let bytes = daemon.resident_bytes()?;
    drop(found);
    daemon.ensure_no_agents()?;
    let host = format!("{AGENTS} agents under one policy of {RULES} rules");
    Ok(vec![
        Row::new(
            format!("start of the daemon, {host}"),
            format!("{:.2} s", took.as_secs_f64()),
            "5 s",
            Some(took.as_secs() < 5),
        ),
        Row::new(format!("resident memory, {host}"), mebibytes(bytes), "100 MB", Some(bytes < 100_000_000)),
    ])
}
