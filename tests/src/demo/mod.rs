//! The demo: one agent, first on its own and then under agentnet, on real traffic.

pub mod screen;
pub mod story;

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use self::story::{SERVICE, Step};
use crate::{
    lab::{
        Lab,
        child::agentnet_binary,
        server::{Servers, Transport},
        wire::Packet,
    },
    probe::{Report, Request},
};

/// What came of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What the agent was told.
    pub report: Report,
    /// Bytes that arrived at the far end because of it, IP headers included.
    pub arrived: usize,
}

/// One pass over the story.
pub struct Pass {
    /// By step.
    pub outcomes: Vec<Outcome>,
    /// How the agent's command ended.
    pub status: ExitStatus,
    /// Where alerts were written to.
    pub alerts: PathBuf,
}

/// Plays the story in a fresh lab, governed by `policy` or by nothing. `watch` sees every report as it comes.
///
/// # Errors
/// If the lab cannot be built, or the agent does not finish.
pub fn play(policy: Option<&Path>, dir: &Path, mut watch: impl FnMut(&Step, &Report)) -> Result<Pass> {
    let steps = story::steps();
    let lab = Lab::new()?;
    let service = Servers::start(&lab.agent, &[SERVICE])?;
    let suite = dir.join("story.json");
    let requests: Vec<_> = steps.iter().map(Step::request).collect();
    std::fs::write(&suite, serde_json::to_vec_pretty(&requests)?)?;
    let alerts = dir.join("alerts.jsonl");
    let mut command = match policy {
        None => Command::new(std::env::current_exe()?),
        Some(policy) => {
            let mut command = Command::new(agentnet_binary()?);
            command.arg("run").arg("--policy").arg(policy).args(["--agent", &lab.name]);
            command.args(["--alerts", "-", "--alerts"]).arg(&alerts);
            command.arg("--").arg(std::env::current_exe()?);
            command
        }
    };
    command.arg("agent").arg(&suite).stdin(Stdio::null()).stdout(Stdio::piped());
    lab.agent.attach(&mut command);
    let mut child = command.spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut reports = Vec::new();
    for (step, line) in steps.iter().zip(lines) {
        let report: Report = serde_json::from_str(&line?)?;
        watch(step, &report);
        reports.push(report);
    }
    let status = child.wait()?;
    ensure!(reports.len() == steps.len(), "the agent ended early: {status}");
    lab.fence()?;
    let outcomes = steps
        .iter()
        .zip(&requests)
        .zip(reports)
        .map(|((step, request), report)| Outcome { report, arrived: arrived(&lab, &service, step, request) })
        .collect();
    Ok(Pass { outcomes, status, alerts })
}

/// Bytes of all packets that a step is answerable for: those that carry its marker, and those to its target.
fn arrived(lab: &Lab, service: &Servers, step: &Step, request: &Request) -> usize {
    if step.to == SERVICE {
        return service.tally(step.to, Transport::Tcp).bytes;
    }
    let wire = lab.sniffer.packets(|packet| {
        packet.holds(request.args.secret()) || (step.owns_target && is_to(packet, step.to))
    });
    wire.iter().map(|packet| packet.bytes.len()).sum()
}

fn is_to(packet: &Packet, to: SocketAddr) -> bool {
    packet.header.is_some_and(|header| header.destination == to.ip() && header.port == to.port())
}
