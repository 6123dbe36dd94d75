//! Alternated pairs: the same load with and without agentnet, close together in time.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    load::{CONNECT_PORT, Load, Stream},
    stats::{Estimate, estimate, median},
};
use crate::lab::{
    child::{agentnet_binary, finish},
    hosts::Hosts,
    net::Family,
};

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

/// Where a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side<'policy> {
    Alone,
    Governed(&'policy Path),
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

/// Runs `count` pairs of `seconds` each; without a policy, a control. Every other pair begins with the other
/// side.
///
/// # Errors
/// If a run fails.
pub fn compare(
    hosts: &Hosts,
    measure: Measure,
    policy: Option<&Path>,
    count: usize,
    seconds: f64,
) -> Result<Comparison> {
    let second_side = policy.map_or(Side::Alone, Side::Governed);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for pair in 0..count {
        let mut alone = || run(hosts, measure, Side::Alone, seconds).map(|value| without.push(value));
        let mut governed = || run(hosts, measure, second_side, seconds).map(|value| with.push(value));
        if pair.is_multiple_of(2) {
            alone()?;
            governed()?;
        } else {
            governed()?;
            alone()?;
        }
        eprint!("\r    {}: pair {} of {count}", measure.label(), pair + 1);
    }
    eprintln!();
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without).collect();
    Ok(Comparison { measure, control: policy.is_none(), without, with, ratio: estimate(&ratios) })
}

fn run(hosts: &Hosts, measure: Measure, side: Side<'_>, seconds: f64) -> Result<f64> {
    let mut command = match side {
        Side::Alone => Command::new("env"),
        Side::Governed(policy) => {
            let mut command = Command::new(agentnet_binary()?);
            command.arg("run").arg("--policy").arg(policy).args(["--agent", &hosts.name, "--"]);
            command
        }
    };
    match measure {
        Measure::Throughput => command.arg("iperf3").args(Stream::client(seconds)),
        Measure::Connections => {
            let to = (Family::V4.allowed(), CONNECT_PORT).into();
            command.arg(std::env::current_exe()?).args(Load::Connect { to, seconds }.words())
        }
    };
    hosts.agent.attach(command.stdin(Stdio::null()));
    let finished = finish(command, None)?;
    ensure!(finished.status.success(), "{measure:?}, {side:?}: {finished:?}");
    match measure {
        Measure::Throughput => Stream::rate(&finished.stdout),
        Measure::Connections => finished.stdout.trim().parse().with_context(|| format!("{finished:?}")),
    }
}
