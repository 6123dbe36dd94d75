//! Alternated pairs: the same load with and without agentnet, within a fraction of a second.
//!
//! Two processes live for all pairs of a measure, one under `agentnet run` and one not, and take turns: how
//! long `run` takes to start is not what is compared, and a slow phase of the machine is longer than a turn.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    load::{CONNECT_PORT, Load, STREAM_PORT},
    stats::{Estimate, estimate, median},
};
use crate::lab::{child::agentnet_binary, hosts::Hosts, net::Family};

/// What is measured in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// One TCP stream, bits a second.
    Throughput,
    /// `connect` and `close`, a second.
    Connections,
}

impl Measure {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Throughput, Self::Connections];

    /// For tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Throughput => "throughput, one TCP stream",
            Self::Connections => "connect + close",
        }
    }

    /// A value with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Throughput => format!("{:.2} Gbit/s", value / 1e9),
            Self::Connections => format!("{value:.0} /s"),
        }
    }
}

/// All pairs of one measure.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub measure: Measure,
    /// Whether both sides were without agentnet.
    pub control: bool,
    /// Values without agentnet.
    pub without: Vec<f64>,
    /// Values with agentnet, in the same order; in a control without it as well.
    pub with: Vec<f64>,
    /// With over without, within each pair.
    pub ratio: Estimate,
}

impl Comparison {
    /// Median value without and with.
    pub fn medians(&self) -> (f64, f64) {
        (median(&self.without), median(&self.with))
    }
}

/// Runs `count` pairs of turns of `seconds` each; without a policy, a control. Every other pair begins with the
/// other side.
///
/// # Errors
/// If a turn fails.
pub fn compare(
    hosts: &Hosts,
    measure: Measure,
    policy: Option<&Path>,
    count: usize,
    seconds: f64,
) -> Result<Comparison> {
    let mut alone = Player::start(hosts, measure, None, seconds)?;
    let mut governed = Player::start(hosts, measure, policy, seconds)?;
    // Whoever comes first finds everything cold.
    alone.turn()?;
    governed.turn()?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for pair in 0..count {
        if pair.is_multiple_of(2) {
            without.push(alone.turn()?);
            with.push(governed.turn()?);
        } else {
            with.push(governed.turn()?);
            without.push(alone.turn()?);
        }
        eprint!("\r    {}: pair {} of {count}", measure.label(), pair + 1);
    }
    eprintln!();
    alone.finish()?;
    governed.finish()?;
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    Ok(Comparison { measure, control: policy.is_none(), without, with, ratio: estimate(&ratios) })
}

/// A process that makes the load when it is its turn.
struct Player {
    child: Child,
    turns: ChildStdin,
    rates: BufReader<ChildStdout>,
}

impl Player {
    fn start(hosts: &Hosts, measure: Measure, policy: Option<&Path>, seconds: f64) -> Result<Self> {
        let this = std::env::current_exe()?;
        let mut command = match policy {
            None => Command::new(this),
            Some(policy) => {
                let mut command = Command::new(agentnet_binary()?);
                command.arg("run").arg("--policy").arg(policy).args(["--agent", &hosts.name, "--"]).arg(this);
                command
            }
        };
        let to = |port| (Family::V4.allowed(), port).into();
        let load = match measure {
            Measure::Throughput => Load::Stream { to: to(STREAM_PORT), seconds },
            Measure::Connections => Load::Connect { to: to(CONNECT_PORT), seconds },
        };
        command.args(["load", "--turns"]).args(load.words());
        hosts.agent.attach(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut child = command.spawn()?;
        let turns = child.stdin.take().context("no pipe")?;
        let rates = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, turns, rates })
    }

    fn turn(&mut self) -> Result<f64> {
        writeln!(self.turns).context("the process that makes the load is gone")?;
        let mut line = String::new();
        self.rates.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("the process that makes the load said {line:?}"))
    }

    fn finish(self) -> Result<()> {
        let Self { mut child, turns, rates } = self;
        // The end of its input is its end; its output stays open until then.
        drop(turns);
        let status = child.wait()?;
        drop(rates);
        ensure!(status.success(), "the process that made the load ended with {status}");
        Ok(())
    }
}
