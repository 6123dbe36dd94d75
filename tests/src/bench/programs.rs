//! Run times of kernel programs, by the kernel's own statistics.

use std::{collections::BTreeMap, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use super::{
    empty::{Empty, Place},
    load::Load,
};
use crate::lab::{
    agent::Agent,
    bpf,
    child::finish,
    hosts::Hosts,
    net::{ALLOWED_PORT, Family},
    policy::Policy,
    residue::links_above,
    running::Running,
};

/// Run count and run time, nanoseconds.
pub(super) type Usage = BTreeMap<u32, (String, u64, u64)>;

/// What a run of a program costs under a load.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// The load.
    pub load: &'static str,
    /// The program's name.
    pub program: String,
    /// Runs it was measured over.
    pub runs: u64,
    /// Nanoseconds a run as the kernel counts.
    pub gross: f64,
    /// The same less those of an empty program in the same run.
    pub net: f64,
}

/// Measures every program of an agent under three loads.
///
/// # Errors
/// If a load fails or no program ran.
pub fn measure(hosts: &Hosts, connect_port: u16, seconds: f64) -> Result<Vec<Cost>> {
    // Statistics stay on as long as this lives.
    let _stats = enable_stats(Stats::RunTime)?;
    let policy = Policy::standard().allow_hosts(&[connect_port], &["tcp"]);
    let agent = Agent::new(hosts, &policy)?;
    let running = agent.hold()?;
    // Before anything of ours is attached: the agent is governed, and in a cgroup of its own.
    usage(&running)?;
    let _empty = Place::ALL
        .into_iter()
        .map(|place| Empty::attach(place, &running.cgroup))
        .collect::<Result<Vec<_>>>()?;
    let host = Family::V4.allowed();
    let (echo, connect) = ((host, ALLOWED_PORT).into(), (host, connect_port).into());
    let mut costs = Vec::new();
    for (label, load) in [
        ("packets of an established connection", Load::Segments { to: echo, seconds }),
        ("connect + close", Load::Connect { to: connect, seconds }),
        ("datagrams, unconnected", Load::Datagrams { to: echo, seconds }),
    ] {
        costs.extend(under(hosts, &running, label, load)?);
    }
    running.finish()?;
    Ok(costs)
}

fn under(hosts: &Hosts, running: &Running<'_>, label: &'static str, load: Load) -> Result<Vec<Cost>> {
    let before = usage(running)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("load").args(load.words());
    hosts.agent.attach(&mut command);
    running.join(&mut command)?;
    let finished = finish(command, None)?;
    ensure!(finished.status.success(), "{label}: {finished:?}");
    let after = usage(running)?;
    let mut gross = Vec::new();
    for (id, (name, runs, time)) in after {
        let (_, runs_before, time_before) = before.get(&id).with_context(|| format!("{name} appeared"))?;
        // A program that hardly runs under this load says nothing about it.
        if runs - runs_before >= 100 {
            gross.push((name, runs - runs_before, quotient(time - time_before, runs - runs_before)));
        }
    }
    let empty = |place: Place| gross.iter().find(|(name, ..)| name == place.name()).map(|(_, _, cost)| *cost);
    // Both types are entered alike; where no connection is made, the packets' empty program stands for both.
    let packet = empty(Place::Skb).context("the empty program did not run")?;
    let connect = empty(Place::Connect).unwrap_or(packet);
    let is_empty = |name: &str| Place::ALL.iter().any(|place| place.name() == name);
    let costs = gross.iter().filter(|(name, ..)| !is_empty(name)).map(|(name, runs, cost)| {
        let idle = if name.contains("gress") { packet } else { connect };
        Cost { load: label, program: name.clone(), runs: *runs, gross: *cost, net: cost - idle }
    });
    Ok(costs.collect())
}

/// Nanoseconds and runs stay far below 2^52, so that they survive as floating point.
pub(super) fn quotient(time: u64, runs: u64) -> f64 {
    std::time::Duration::from_nanos(time).as_secs_f64() * 1e9
        / f64::from(u32::try_from(runs).unwrap_or(u32::MAX))
}

/// Of all programs of an agent so far.
pub(super) fn usage(running: &Running<'_>) -> Result<Usage> {
    usage_in(&running.cgroup)
}

/// The same of those that govern a cgroup.
pub(super) fn usage_in(cgroup: &Path) -> Result<Usage> {
    let ours = bpf::programs(&links_above(cgroup)?);
    let mut usage = Usage::new();
    for program in loaded_programs() {
        let program = program?;
        if ours.contains(&program.id()) {
            let name = program.name_as_str().unwrap_or("?").to_owned();
            let time = u64::try_from(program.run_time().as_nanos())?;
            usage.insert(program.id(), (name, program.run_count(), time));
        }
    }
    ensure!(!usage.is_empty(), "no program governs the agent");
    Ok(usage)
}
