//! How long it takes until a command under `agentnet run` runs.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::stats::{Estimate, estimate};
use crate::lab::{child::agentnet_binary, hosts::Hosts};

/// Goal of the median, milliseconds.
pub const GOAL: f64 = 60.0;

/// Milliseconds of `CLOCK_MONOTONIC`, the same in all processes.
pub fn now() -> f64 {
    let time = clock_gettime(ClockId::Monotonic);
    std::time::Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
        .as_secs_f64()
        * 1e3
}

/// Starts `count` commands under a policy, one after the other, which say when they began: milliseconds from the start of
/// agentnet.
///
/// # Errors
/// If one does not run.
pub fn measure(hosts: &Hosts, policy: &Path, count: usize) -> Result<Estimate> {
    let times = (0..count).map(|_| once(hosts, policy)).collect::<Result<Vec<_>>>()?;
    Ok(estimate(&times))
}

fn once(hosts: &Hosts, policy: &Path) -> Result<f64> {
    let mut command = Command::new(agentnet_binary()?);
    command.arg("run").arg("--policy").arg(policy).args(["--agent", &hosts.name, "--"]);
    command.arg(std::env::current_exe()?).arg("clock");
    hosts.agent.attach(command.stderr(Stdio::null()));
    let begin = now();
    let output = command.output()?;
    ensure!(output.status.success(), "the command ended with {}", output.status);
    let said = String::from_utf8(output.stdout)?;
    let began: f64 = said.trim().parse().with_context(|| format!("the command said {said:?}"))?;
    Ok(began - begin)
}
