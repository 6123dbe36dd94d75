//! `cargo xtask ci`: what a change must pass. Every stage runs, so that one run shows every failure.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{
    lint,
    progress::seconds,
    test::{self, Summary},
    verify,
};

pub(crate) fn run() -> Result<()> {
    let mut summary = Summary::default();
    let mut report = Vec::new();
    let mut failed = Vec::new();
    let mut stage = |name: &'static str, run: &mut dyn FnMut() -> Result<()>| {
        let began = Instant::now();
        let outcome = run();
        if let Err(error) = &outcome {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
        let word = if outcome.is_ok() { "passed" } else { "FAILED" };
        report.push(format!("{name:<8}{word:<8}{}", seconds(began.elapsed())));
    };
    stage("lint", &mut lint::run);
    stage("test", &mut || {
        summary = test::run_all(&test::Args::default())?;
        if summary.failed.is_empty() { Ok(()) } else { bail!("{} tests failed", summary.failed.len()) }
    });
    stage("verify", &mut || verify::run(&verify::Args::default()));

    for line in report {
        println!("{line}");
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    // The last line is the tests' own sum, whatever else happened.
    println!("{summary}");
    if failed.is_empty() { Ok(()) } else { bail!("{} of the stages failed", failed.len()) }
}
