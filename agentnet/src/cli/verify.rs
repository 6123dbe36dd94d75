//! `agentnet verify`, for `cargo xtask verify`: every program through the verifier, and what each costs.

use std::{
    env,
    process::{Command, ExitCode},
};

use crate::kernel::verify::{exercise, verify_all};

/// Arguments of `agentnet verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Make the traffic that is measured, in this process
    #[arg(long, hide = true)]
    exercise: bool,
}

/// Verifies and measures.
///
/// # Errors
/// When a program does not load or nothing can be measured.
pub fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    if args.exercise {
        exercise()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut exerciser = Command::new(env::current_exe()?);
    exerciser.args(["verify", "--exercise"]);
    for report in verify_all(exerciser)? {
        if args.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            let ns = report.ns_per_run.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"));
            println!(
                "{:<15} {:>6} verified  {:>5} instructions  {:>3} B stack  {:>5} ns  {}",
                report.name,
                report.verified_instructions,
                report.instructions,
                report.stack_bytes,
                ns,
                report.section
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
