//! `agentnet reset`: give up what is enforced and nobody looks after any more.

use std::process::ExitCode;

use serde::Serialize as _;

use crate::engine::reset::{self, Done, Freed};

/// Arguments of `agentnet reset`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
It needs no engine: what is pinned in the kernel is removed, links first, after connections that their policy refuses \
were destroyed. Agents whose engines live are left alone: `agentnet detach` lets go of them. What was done by hand is \
forgotten. A daemon that is started later governs again what its policies select.

Exit code: 0 if nothing that nobody looks after is enforced any more, else 1.")]
pub struct ResetArgs {
    /// Give up also what living engines look after
    #[arg(long)]
    force: bool,
    /// Print one JSON object for each agent
    #[arg(long)]
    json: bool,
}

/// Gives up what is enforced.
///
/// # Errors
/// If that is not to be, and nothing was changed.
pub fn run(args: &ResetArgs) -> anyhow::Result<ExitCode> {
    let Done { freed, left, notes } = reset::reset(args.force)?;
    let mut lines = Vec::new();
    for freed in &freed {
        if args.json {
            lines.push(freed.serialize(serde_json::value::Serializer)?.to_string());
        } else {
            lines.extend(words(freed));
        }
    }
    if !args.json {
        if freed.is_empty() {
            lines.push("Nothing is enforced that nobody looks after.".to_owned());
        }
        lines.extend(left.iter().map(|agent| format!("agent {agent} was left alone: its engine lives")));
    }
    for line in lines {
        super::say(&line)?;
    }
    for note in &notes {
        super::complain(note);
    }
    Ok(if freed.iter().all(|freed| freed.free) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn words(freed: &Freed) -> impl Iterator<Item = String> {
    let Freed { agent, free, closed, notes } = freed;
    let what = if *free { "is not governed any more" } else { "IS GOVERNED STILL" };
    let closed = match closed {
        0 => String::new(),
        1 => "; 1 connection with refused data was destroyed first".to_owned(),
        more => format!("; {more} connections with refused data were destroyed first"),
    };
    let notes = notes.iter().map(|note| format!("    {note}"));
    std::iter::once(format!("agent {agent} {what}{closed}")).chain(notes)
}
