//! `agentnet policy diff`.

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::{Directory, Streams, explain::RuleLine};
use crate::{
    exit,
    policy::{
        diff::{Change, Effect, diff},
        host::Host,
    },
};

/// Arguments of `agentnet policy diff`.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// File, or name of a policy: what it is now.
    before: String,
    /// What it is to be.
    after: String,
    #[command(flatten)]
    directory: Directory,
    /// Print one JSON object a difference and line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiffArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let mut policies = Vec::new();
    for policy in [&args.before, &args.after] {
        match args.directory.load(policy, &Host::default()) {
            Ok(policy) => policies.push(policy),
            Err(problems) => streams.problems(&problems, args.json)?,
        }
    }
    let [before, after] = policies.as_slice() else { return Ok(ExitCode::from(exit::WRONG_USAGE)) };
    let changes = diff(before, after);
    for change in &changes {
        if args.json {
            writeln!(streams.out, "{}", serde_json::to_string(&line(change))?)?;
        } else {
            writeln!(streams.out, "{change}")?;
        }
    }
    if !args.json {
        let count = |effect| changes.iter().filter(|change| change.effect == effect).count();
        let (opens, closes) = (count(Effect::Opens), count(Effect::Closes));
        match (opens, closes) {
            (0, 0) => writeln!(streams.out, "both allow the same")?,
            _ => writeln!(streams.out, "{} opens {opens} and closes {closes}", after.file())?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A difference as JSON.
#[derive(Serialize)]
struct ChangeLine<'a> {
    change: &'static str,
    target: &'a str,
    what: &'a str,
    rule: Option<RuleLine<'a>>,
}

fn line(change: &Change) -> ChangeLine<'_> {
    ChangeLine {
        change: change.effect.label(),
        target: &change.target,
        what: &change.what,
        rule: change.rule.as_ref().map(RuleLine::from),
    }
}
