//! `cargo xtask test`: every test, with the summary of what ran, failed and was skipped.

mod summary;

use std::{
    ffi::OsString,
    io::IsTerminal,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, AGENTNET, Programs, cargo_with},
    command::{self, display, read_lines},
    progress::Steps,
    setup, workspace,
};
use summary::Parser;
pub(crate) use summary::Summary;

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this
    pub(crate) filter: Option<OsString>,
    /// Arguments of the test runner, such as `--nocapture`
    #[arg(last = true)]
    pub(crate) runner: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let summary = run_all(args)?;
    println!("{summary}");
    if summary.failed.is_empty() { Ok(()) } else { bail!("{} tests failed", summary.failed.len()) }
}

/// Runs everything and returns the sum, failures included; an error means that tests could not be run or
/// that too few were.
pub(crate) fn run_all(args: &Args) -> Result<Summary> {
    setup::ensure_test_tools()?;
    let mut steps = Steps::new("test", 4);
    let object = build::object(&mut steps)?;

    let bin = build::host(&mut steps, &object, Programs::Tests)?;
    let (e2e_programs, other_programs) = workspace::test_programs()?;

    let step = steps.start("unit and documentation tests");
    let mut unit = cargo_with(&object, "test");
    unit.args(["--workspace", "--lib", "--bins"]).args(selected(&other_programs));
    let mut summary = run_tests(&mut unit, args)?;
    summary += run_tests(cargo_with(&object, "test").args(["--workspace", "--doc"]), args)?;
    step.done(&summary);

    let step = steps.start("end-to-end tests, as root");
    let mut end_to_end = Summary::default();
    if !e2e_programs.is_empty() {
        let mut cargo = cargo_with(&object, "test");
        cargo.arg("--workspace").args(selected(&e2e_programs)).env("AGENTNET_BIN", bin.join(AGENTNET));
        run_as_root(&mut cargo)?;
        end_to_end += run_tests(&mut cargo, args)?;
    }
    step.done(&end_to_end);
    let filtered = args.filter.is_some() || !args.runner.is_empty();
    if !filtered && end_to_end.ran() == 0 {
        bail!("no end-to-end test ran: that is a failure, not a pass");
    }

    summary += end_to_end;
    if filtered && summary.ran() == 0 {
        bail!("no test ran: nothing matches the filter");
    }
    for (name, reason) in &summary.skipped {
        println!("skipped: {name}: {reason}");
    }
    for name in &summary.failed {
        println!("failed: {name}");
    }
    Ok(summary)
}

/// The arguments that select test programs by name. Not by package: cargo would compile the dependencies again
/// for every other set of packages.
fn selected(names: &[String]) -> impl Iterator<Item = &str> {
    names.iter().flat_map(|name| ["--test", name.as_str()])
}

/// Has cargo start the test programs as root; it compiles as whoever we are.
fn run_as_root(cargo: &mut Command) -> Result<()> {
    if !command::is_root() {
        let sudo = command::sudo()?;
        let triple = workspace::host_triple()?.to_uppercase().replace(['-', '.'], "_");
        cargo.env(format!("CARGO_TARGET_{triple}_RUNNER"), format!("{} -E", sudo.display()));
    }
    Ok(())
}

/// Runs one `cargo test`, showing its output while it is read.
fn run_tests(cargo: &mut Command, args: &Args) -> Result<Summary> {
    cargo.arg("--no-fail-fast");
    cargo.args(&args.filter).arg("--").args(&args.runner);
    // The runner keeps to itself what passing tests print, and with it why a test was skipped.
    let shown =
        args.runner.iter().any(|arg| arg == "--nocapture" || arg == "--no-capture" || arg == "--show-output");
    if !shown {
        cargo.arg("--show-output");
    }
    if std::io::stderr().is_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }

    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(cargo)))?;
    let mut parser = Parser::new(shown);
    let finished = follow(&mut child, &mut parser)?;
    if !finished {
        command::kill_tree(child.id())?;
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", display(cargo)))?;
    let mut summary = parser.finish();
    if !finished {
        let silence = format!("`{}` printed nothing for {} minutes", display(cargo), SILENCE.as_secs() / 60);
        summary.failed.push(silence);
    } else if !status.success() && summary.failed.is_empty() {
        // It did not compile, or its runner was killed: there is no result that could be counted.
        summary.failed.push(format!("`{}` ended with {status}", display(cargo)));
    }
    Ok(summary)
}

/// How long a test run may print nothing. Each test has a deadline of its own; this one is for those that lost
/// theirs.
const SILENCE: Duration = Duration::from_secs(600);

/// Shows and reads what the child prints, until it closes its streams. False if it fell silent.
fn follow(child: &mut Child, parser: &mut Parser) -> Result<bool> {
    enum Line {
        Output(String),
        Error(String),
    }
    let (lines, received) = mpsc::channel();
    let error_lines = lines.clone();
    read_lines(child.stdout.take().context("no pipe from cargo")?, move |line| {
        lines.send(Line::Output(line)).is_ok()
    });
    read_lines(child.stderr.take().context("no pipe from cargo")?, move |line| {
        error_lines.send(Line::Error(line)).is_ok()
    });
    loop {
        match received.recv_timeout(SILENCE) {
            Ok(Line::Output(line)) => {
                if parser.line(&line) {
                    println!("{line}");
                }
            }
            Ok(Line::Error(line)) => {
                parser.error_line(&line);
                eprintln!("{line}");
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(false),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(true),
        }
    }
}
