//! What names cost: nanoseconds for a query and for its answer, queries a second with and without agentnet, and what a
//! hundred thousand names change.

use std::{
    fmt::Write as _,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use agentnet_common::{abi::NameNode, name::NameKey, verdict::DNS_PORT};
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::sys::{Stats, enable_stats};

use super::{
    empty::{Empty, Place},
    programs::{quotient, usage_in},
    row::Row,
    stats::{estimate, median},
};
use crate::lab::{
    agent::Agent,
    child::join_cgroup,
    hosts::Hosts,
    net::{ALLOWED_PORT, Family},
    policy::Policy,
    resolver::{A, CNAME, Record, answer, query, question_end, wire_name},
    watched::Watched,
};

/// Aliases in each answer.
const ALIASES: usize = 16;
/// Rules with a name in the large policy: nearly as many as fit into the 1 MiB of a policy file.
const RULES: usize = 16_000;
/// Names that are loaded at once.
const NAMES: usize = 100_000;
/// Goals: nanoseconds for a query and an answer, seconds for loading, and the lower end of the ratio.
const GOALS: (f64, f64, f64, f64) = (1500.0, 8000.0, 2.0, 0.95);

fn resolver(hosts: &Hosts) -> Result<SocketAddr> {
    let at = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
    let socket = hosts.server.run(|| Ok(UdpSocket::bind(at)?))?;
    // The same records behind every question.
    let sample = query(0, "x", A);
    let mut records = Vec::new();
    let mut owner = Vec::new();
    for number in 0..ALIASES {
        let next = wire_name(&format!("edge-{number}.cdn.example.net"));
        records.push(Record { owner, kind: CNAME, ttl: 60, data: next.clone() });
        owner = next;
    }
    records.push(Record { owner, ..Record::address(Family::V4.named(1), 60) });
    let whole = answer(&sample, &records, 0).context("an answer")?;
    let (head, tail) = (whole[..12].to_vec(), whole[sample.len()..].to_vec());
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let Some(end) = question_end(&buffer[..length]) else { continue };
            let reply = [&buffer[..2], &head[2..], &buffer[12..end], &tail].concat();
            let _ = socket.send_to(&reply, from);
        }
    });
    Ok(at)
}

/// Asks for names that nobody has asked for before, one after the other, for `seconds` at every line of input; prints
/// queries a second.
///
/// # Errors
/// If a query is refused or not answered.
pub fn take_turns(to: SocketAddr, seconds: f64) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut number = 0_u64;
    let mut buffer = [0; 2048];
    for line in io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        let before = number;
        while start.elapsed().as_secs_f64() < seconds {
            number += 1;
            let id = u16::try_from(number & 0xffff)?;
            let message = query(id, &format!("host-number-{number}.wild.example"), A);
            socket.send(&message).with_context(|| format!("query {number} is not sent"))?;
            socket.recv(&mut buffer).with_context(|| format!("query {number} is not answered"))?;
        }
        let asked = f64::from(u32::try_from(number - before)?);
        println!("{}", asked / start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// A process that asks when it is its turn.
struct Client {
    child: Child,
    turns: ChildStdin,
    rates: BufReader<ChildStdout>,
}

impl Client {
    fn start(hosts: &Hosts, at: SocketAddr, seconds: f64, cgroup: Option<&Path>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["load", &at.to_string(), &seconds.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        hosts.agent.attach(&mut command);
        if let Some(cgroup) = cgroup {
            join_cgroup(&mut command, cgroup)?;
        }
        let mut child = command.spawn()?;
        let turns = child.stdin.take().context("no input")?;
        let rates = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { child, turns, rates })
    }

    fn turn(&mut self) -> Result<f64> {
        self.turns.write_all(b"\n")?;
        let mut line = String::new();
        self.rates.read_line(&mut line)?;
        line.trim().parse().map_err(|_| anyhow!("the client said {line:?}"))
    }

    fn finish(self) -> Result<()> {
        let Self { mut child, turns, rates } = self;
        drop(turns);
        let status = child.wait()?;
        drop(rates);
        ensure!(status.success(), "the client ended with {status}");
        Ok(())
    }
}

fn policy(rules: usize) -> String {
    let mut policy =
        Policy::closed().allow_name("*.wild.example", &[ALLOWED_PORT]).resolver(Family::V4.allowed()).text();
    for rule in 0..rules {
        let _ = write!(policy, "\n[[egress.allow]]\ndomain = \"{}\"\n", name(rule));
    }
    // Thousands of names below one are what it blocks.
    policy + "\n[detect.dns_tunnel]\naction = \"alert\"\n"
}

/// Names that differ at either end.
fn name(number: usize) -> String {
    format!("host-{number}.zone-{}.example", number % 997)
}

/// Nanoseconds for a query and for an answer in a cgroup, an empty program's taken off.
fn costs(hosts: &Hosts, at: SocketAddr, cgroup: &Path, seconds: f64) -> Result<(f64, f64)> {
    let _empty = Empty::attach(Place::Skb, cgroup)?;
    let mut client = Client::start(hosts, at, seconds, Some(cgroup))?;
    client.turn()?;
    let before = usage_in(cgroup)?;
    client.turn()?;
    let after = usage_in(cgroup)?;
    client.finish()?;
    let of = |wanted: &str| -> Result<f64> {
        let (id, (_, runs, time)) =
            after.iter().find(|(_, (name, ..))| name == wanted).with_context(|| format!("no {wanted}"))?;
        let (runs_before, time_before) = before.get(id).map_or((0, 0), |(_, runs, time)| (*runs, *time));
        Ok(quotient(time - time_before, runs - runs_before))
    };
    let empty = of(Place::Skb.name())?;
    Ok((of("an_skb_egress")? - empty, of("an_skb_ingress")? - empty))
}

/// Seconds to load so many names into a policy's place, and the costs before and after.
fn load(hosts: &Hosts, at: SocketAddr, seconds: f64) -> Result<(f64, [(f64, f64); 2])> {
    let text = policy(0);
    let mut compiled = agentnet::policy::Policy::from_text("bench.toml", &text, &[])
        .map_err(|problems| anyhow!(problems.render(false)))?
        .compiled;
    let Some((_, node)) = compiled.names.first().copied() else { return Err(anyhow!("no name")) };
    let mut watched = Watched::new(
        hosts,
        &Policy::closed().allow_name("*.wild.example", &[ALLOWED_PORT]).resolver(at.ip()),
    )?;
    let small = costs(hosts, at, &watched.cgroup, seconds)?;
    for number in 0..NAMES {
        let key = NameKey::from_dotted(&name(number)).map_err(|error| anyhow!("{error:?}"))?;
        compiled.names.push((key, NameNode { len: u32::try_from(key.len)?, ..node }));
    }
    let start = Instant::now();
    watched.kernel.install(watched.cfg.slot, &compiled)?;
    let took = start.elapsed().as_secs_f64();
    let large = costs(hosts, at, &watched.cgroup, seconds)?;
    Ok((took, [small, large]))
}

/// Measures all of it.
///
/// # Errors
/// If a query is refused, or a process fails.
pub fn measure(pairs: usize, seconds: f64) -> Result<Vec<Row>> {
    let hosts = Hosts::new()?;
    let at = resolver(&hosts)?;
    let (filter, learner, load_goal, ratio_goal) = GOALS;
    let mut rows = Vec::new();
    let took = {
        // Statistics stay on as long as this lives.
        let _stats = enable_stats(Stats::RunTime)?;
        let mut costly = |(query, answer): (f64, f64), what: &str| {
            rows.push(Row::new(
                format!("packet hook, a query, {what}"),
                format!("{query:.0} ns"),
                format!("under {filter:.0} ns"),
                Some(query < filter),
            ));
            rows.push(Row::new(
                format!("packet hook, its answer with {ALIASES} aliases, {what}"),
                format!("{answer:.0} ns"),
                format!("under {learner:.0} ns"),
                Some(answer < learner),
            ));
        };
        for rules in [0, RULES] {
            let agent = Agent::with_text(&hosts, &policy(rules))?;
            let running = agent.hold()?;
            costly(costs(&hosts, at, &running.cgroup, seconds)?, &format!("policy of {} names", rules + 1));
            running.finish()?;
        }
        // Nobody reads the rings of these.
        let (took, [small, large]) = load(&hosts, at, seconds)?;
        costly(small, "nothing reported, 1 name");
        costly(large, &format!("nothing reported, {NAMES} names"));
        took
    };
    rows.push(Row::new(
        format!("loading {NAMES} names"),
        format!("{took:.2} s"),
        format!("under {load_goal} s"),
        Some(took < load_goal),
    ));

    let agent = Agent::with_text(&hosts, &policy(0))?;
    let running = agent.hold()?;
    for governed in [true, false] {
        let mut alone = Client::start(&hosts, at, seconds, None)?;
        let mut other = Client::start(&hosts, at, seconds, governed.then_some(running.cgroup.as_path()))?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        alone.turn()?;
        other.turn()?;
        for pair in 0..pairs {
            // Which begins alternates.
            if pair.is_multiple_of(2) {
                without.push(alone.turn()?);
                with.push(other.turn()?);
            } else {
                with.push(other.turn()?);
                without.push(alone.turn()?);
            }
        }
        alone.finish()?;
        other.finish()?;
        let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
        let ratio = estimate(&ratios);
        let (what, goal) = if governed {
            ("queries a second, with agentnet to without", format!("lower end at least {ratio_goal}"))
        } else {
            ("control: without to without", String::new())
        };
        let rates = format!("{:.0} to {:.0}", median(&with), median(&without));
        let shown = format!("{rates}: {:.3} ({:.3} to {:.3})", ratio.median, ratio.low, ratio.high);
        rows.push(Row::new(what, shown, goal, governed.then_some(ratio.low >= ratio_goal)));
    }
    running.finish()?;
    Ok(rows)
}
