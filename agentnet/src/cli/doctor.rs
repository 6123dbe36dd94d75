//! `agentnet doctor`: what this host can do, what is missing, how to get it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use owo_colors::OwoColorize as _;

use crate::kernel::features::{self, Check, Purpose, State};

/// Arguments of `agentnet doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object per check
    #[arg(long)]
    pub json: bool,
}

/// Looks at this host and says what it found. The exit code is 0 if nothing that agentnet needs is missing
/// or unknown, else 1.
///
/// # Errors
///
/// If the result cannot be written.
pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let DoctorArgs { json } = args;
    let checks = features::probe();
    let text = if json { lines(&checks)? } else { table(&checks) };
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the result")?,
    }
    Ok(if checks.iter().any(Check::blocks) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn lines(checks: &[Check]) -> anyhow::Result<String> {
    let mut text = String::new();
    for check in checks {
        text.push_str(&serde_json::to_string(check).context("cannot write a check as JSON")?);
        text.push('\n');
    }
    Ok(text)
}

fn table(checks: &[Check]) -> String {
    let groups = [
        (Purpose::Enforcement, "to refuse what a policy does not allow"),
        (Purpose::Run, "to start and confine an agent"),
        (Purpose::Later, "for later versions"),
    ];
    let width = checks.iter().map(|check| check.title.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (purpose, heading) in groups {
        section(&mut text, heading, width, checks.iter().filter(|check| check.needed_for == purpose));
    }
    text.push_str(&conclusion(checks));
    text.push('\n');
    text
}

fn section<'a>(text: &mut String, heading: &str, width: usize, checks: impl Iterator<Item = &'a Check>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", heading.bold());
    for check in checks {
        let mark = mark(check);
        let optional = if check.required { "" } else { " (optional)" };
        let _ = writeln!(text, "  {mark} {:width$}  {}{}", check.title, check.detail, optional.dimmed());
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "    {:width$}  → {fix}", "");
        }
    }
    text.push('\n');
}

fn mark(check: &Check) -> String {
    match check.state {
        State::Ok => "✓".green().to_string(),
        State::Missing if check.required => "✗".red().to_string(),
        State::Missing | State::Degraded => "!".yellow().to_string(),
        State::Unknown => "?".yellow().to_string(),
    }
}

/// One line: whether it works, or what to do first.
fn conclusion(checks: &[Check]) -> String {
    let mut blocking = checks.iter().filter(|check| check.blocks());
    let Some(first) =
        blocking.clone().find(|check| check.state != State::Unknown).or_else(|| blocking.next())
    else {
        return "agentnet can enforce on this host.".to_owned();
    };
    match (&first.fix, first.state) {
        (Some(fix), _) => format!("agentnet cannot enforce on this host yet. First {}: {fix}.", first.title),
        (None, _) if !rustix::process::geteuid().is_root() => {
            "Nothing is missing so far; the rest needs root: run `sudo agentnet doctor`.".to_owned()
        }
        (None, _) => format!("agentnet may not be able to enforce here. {}: {}.", first.title, first.detail),
    }
}
