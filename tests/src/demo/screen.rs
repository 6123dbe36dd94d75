//! What is shown.

use std::{fmt::Write as _, path::Path};

use owo_colors::OwoColorize as _;

use super::{Outcome, story::Step};
use crate::probe::Report;

/// Width of the column that says what is tried.
const WHAT: usize = 52;
/// Width of the column with the target.
const TARGET: usize = 27;

/// A heading.
pub fn heading(text: &str) {
    anstream::println!("\n{}", text.bold());
}

/// One report, as it comes.
pub fn live(step: &Step, report: &Report) {
    let mark = if report.ok { "ok     ".green().to_string() } else { "refused".red().to_string() };
    anstream::println!("  agent  {mark} {:WHAT$} {}", step.what, said(report).dimmed());
}

/// What the system call said, in few words.
fn said(report: &Report) -> String {
    if report.ok { "ok".to_owned() } else { format!("{}: {}", report.step, name(report)) }
}

fn name(report: &Report) -> String {
    match report.errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT".to_owned(),
        libc::EAFNOSUPPORT => "EAFNOSUPPORT".to_owned(),
        libc::ECONNREFUSED => "ECONNREFUSED".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        _ => report.error.clone(),
    }
}

/// Whether a governed outcome is what the policy wants.
pub fn is_as_expected(step: &Step, outcome: &Outcome) -> bool {
    if step.allowed { outcome.report.ok } else { !outcome.report.ok && outcome.arrived == 0 }
}

/// The closing table.
pub fn table(steps: &[Step], before: &[Outcome], after: &[Outcome]) {
    let mut head = format!("  {:WHAT$} {:TARGET$} ", "what the agent tried", "where");
    let _ = write!(head, "{:>14}  {:26} {:>13}", "bytes without", "told under agentnet", "bytes with");
    anstream::println!("{}", head.bold());
    for ((step, before), after) in steps.iter().zip(before).zip(after) {
        let told = format!("{:26}", said(&after.report));
        let told = if after.report.ok { told.green().to_string() } else { told.red().to_string() };
        let verdict = if is_as_expected(step, after) {
            String::new()
        } else {
            "  NOT AS EXPECTED".red().bold().to_string()
        };
        anstream::println!(
            "  {:WHAT$} {:TARGET$} {:>14}  {told} {:>13}{verdict}",
            step.what,
            step.to,
            bytes(step, before),
            bytes(step, after)
        );
    }
}

fn bytes(step: &Step, outcome: &Outcome) -> String {
    if step.to.ip().is_loopback() && step.allowed {
        "on this host".to_owned()
    } else {
        outcome.arrived.to_string()
    }
}

/// Where to read on.
pub fn footer(alerts: &Path, policy: &Path) {
    anstream::println!("\n  alerts as JSON lines: {}", alerts.display());
    anstream::println!("  the policy:           {}", policy.display());
}
