//! How long it takes from a packet that says too much to the block in the kernel, while samples come in all the time.

use std::{
    env, io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use agentnet_common::verdict::DNS_PORT;
use anyhow::{Context as _, Result, ensure};

use crate::lab::{
    agent::Agent,
    hosts::Hosts,
    net::Family,
    resolver::{A, Resolver, query},
};

/// Domains that are leaked to, one after the other: an agent can have 128 acts.
const ROUNDS: u32 = 100;
/// Samples a second beside that.
const RATE: u32 = 10_000;
/// A name of every day, which the other samples are of.
const OTHER: &str = "api.example.com";
/// How long a block may take before it counts as missing: the leak's sample had no room in the ring.
const PATIENCE: Duration = Duration::from_secs(2);
/// What the agent prints where it does.
const MISSING: &str = "missing";
/// Between two looks whether a name is blocked; what is measured is too long by as much.
const LOOK: Duration = Duration::from_micros(50);

fn domain(round: u32) -> String {
    format!("reaction-{round:03}.net")
}

/// The agent: leaks once to each domain and waits until it is refused; prints microseconds from the one to the other.
///
/// # Errors
/// If a socket cannot be made, or something else is refused.
pub fn leak(to: SocketAddr) -> Result<()> {
    static DONE: AtomicBool = AtomicBool::new(false);
    let socket = || UdpSocket::bind((Family::of(to.ip()).unspecified(), 0));
    let (others, own) = (socket()?, socket()?);
    let beside = thread::spawn(move || -> io::Result<u64> {
        let (message, start, mut sent) = (query(1, OTHER, A), Instant::now(), 0_u64);
        while !DONE.load(Ordering::Relaxed) {
            let due = start.elapsed().as_micros() * u128::from(RATE) / 1_000_000;
            while u128::from(sent) < due {
                others.send_to(&message, to)?;
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(sent)
    });
    for round in 0..ROUNDS {
        let domain = domain(round);
        let text: String =
            format!("the text of leak {round}").bytes().map(|byte| format!("{byte:02x}")).collect();
        let (leak, look) = (query(2, &format!("{text}.{domain}"), A), query(3, &format!("w.{domain}"), A));
        let start = Instant::now();
        own.send_to(&leak, to).context("the leak is refused before it was made")?;
        let blocked = loop {
            match own.send_to(&look, to) {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => break true,
                Err(error) => return Err(error.into()),
                Ok(_) if start.elapsed() > PATIENCE => break false,
                Ok(_) => thread::sleep(LOOK),
            }
        };
        if blocked {
            println!("{}", start.elapsed().as_micros());
        } else {
            println!("{MISSING}");
        }
    }
    DONE.store(true, Ordering::Relaxed);
    let sent = beside.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    eprintln!("{sent} queries beside it");
    Ok(())
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
struct Reaction {
    /// The median, what 99 of a hundred stay below, and the longest.
    times: [Duration; 3],
    /// Leaks that were not blocked.
    missing: usize,
}

fn measure(hosts: &Hosts) -> Result<Reaction> {
    let at = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
    let _resolver = Resolver::start(&hosts.server, &[at], Box::new(|_, _| Vec::new()))?;
    let mut policy = format!(
        "version = 1\nname = \"reaction\"\n[dns]\nresolvers = [\"{}\"]\nsearch = []\n[[egress.allow]]\ndomain = \"{OTHER}\"\n",
        at.ip()
    );
    for round in 0..ROUNDS {
        policy.push_str(&format!("[[egress.allow]]\ndomain = \"*.{}\"\n", domain(round)));
    }
    let agent = Agent::with_text(hosts, &policy)?;
    let own = env::current_exe()?.into_os_string();
    let finished = agent.run(&[own, "leak".into(), at.to_string().into()])?;
    ensure!(finished.status.success(), "{finished:?}");
    let lines: Vec<&str> = finished.stdout.lines().collect();
    ensure!(lines.len() == ROUNDS as usize, "{} of {ROUNDS} rounds", lines.len());
    let told =
        lines.iter().filter(|line| **line != MISSING).map(|line| line.parse().map(Duration::from_micros));
    let mut times = told.collect::<Result<Vec<_>, _>>()?;
    times.sort_unstable();
    let longest = *times.last().context("nothing was blocked")?;
    let place = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(longest);
    Ok(Reaction { times: [place(50), place(99), longest], missing: lines.len() - times.len() })
}

/// The measure as Markdown.
///
/// # Errors
/// If the lab cannot be made, or nothing is blocked.
pub fn table(hosts: &Hosts) -> Result<String> {
    let Reaction { times: [median, most, longest], missing } = measure(hosts)?;
    Ok(format!(
        "From a packet that leaks to its name blocked in the kernel, at {RATE} samples a second, {ROUNDS} times\n\n\
         | median | p99 | longest | not blocked | goal |\n| ---: | ---: | ---: | ---: | --- |\n\
         | {median:.1?} | {most:.1?} | {longest:.1?} | {missing} | p99 5 ms |\n"
    ))
}
