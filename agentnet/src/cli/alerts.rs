//! `agentnet alerts`: what agents tried and what agentnet did, from the log and live.

use std::process::ExitCode;

use clap::{ValueEnum, builder::PossibleValue};

use super::lines::{self, Wanted};
use crate::{agent::AgentName, alert::model::Severity, store::Stream};

/// Arguments of `agentnet alerts`.
#[derive(Clone, Debug, clap::Args)]
pub struct AlertsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Only what happened since: how long ago (30s, 1h, 2d) or when (2026-11-22T10:00). With --follow nothing
    /// of before by default
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Only of this severity or above
    #[arg(long, value_name = "SEVERITY")]
    min_severity: Option<Severity>,
    /// Print the lines of the log as they are: one JSON object each
    #[arg(long)]
    json: bool,
}

/// Shows alerts.
///
/// # Errors
/// If they cannot be read or shown.
pub fn run(args: AlertsArgs) -> anyhow::Result<ExitCode> {
    let AlertsArgs { follow, since, agent, min_severity, json } = args;
    lines::run(&Wanted { stream: Stream::Alerts, follow, since, agent, min_severity, json })
}

impl ValueEnum for Severity {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.label()))
    }
}
