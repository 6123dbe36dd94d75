//! `cargo xtask run`: the demo, or the reader's own agent under a policy.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{
    build::{self, AGENTNET, Programs},
    command::{as_root, display, live, without_cargo_run},
    progress::Steps,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arguments of `agentnet run`, such as `--policy coding -- claude`; none: the demo
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.args.is_empty() { demo() } else { own_agent(&args.args) }
}

fn demo() -> Result<()> {
    let mut steps = Steps::new("run", 3);
    let object = build::object(&mut steps)?;
    // Not optimised: that takes half the time, and `cargo xtask test` needs the same programs next. The
    // kernel programs, which are what decides, are optimised always.
    let bin = build::host(&mut steps, &object, Programs::Tests)?;
    let step = steps.start("the demo: an agent in a cgroup and a network namespace of its own (as root)");
    let mut demo = as_root(bin.join("demo"))?;
    live(without_cargo_run(&mut demo).env("AGENTNET_BIN", bin.join(AGENTNET)))?;
    step.done("the demo ended");
    Ok(())
}

/// Replaces this process: signals, terminal and exit code are those of `agentnet run`. Not through sudo:
/// agentnet asks for root itself, for the small part that needs it.
fn own_agent(args: &[OsString]) -> Result<()> {
    let mut steps = Steps::new("run", 2);
    let object = build::object(&mut steps)?;
    let bin = build::host(&mut steps, &object, Programs::Agentnet)?;
    let mut command = Command::new(bin.join(AGENTNET));
    without_cargo_run(&mut command).arg("run").args(args);
    eprintln!("{}", display(&command));
    Err(command.exec()).with_context(|| format!("cannot start `{}`", display(&command)))
}
