//! `cargo xtask bench --watch`: what watching costs, and how soon is told and done what has to be.

use anyhow::Result;

use super::{Args, Page, write};
use crate::{
    build::{self, AGENTNET, Programs},
    command::{as_root, live, output, without_cargo_run},
    progress::Steps,
};

/// What watching costs.
pub(super) const PAGE: Page =
    Page { path: "docs/benchmarks.md", begin: "<!-- watching: begin -->", end: "<!-- watching: end -->" };

pub(super) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::new("bench", 3);
    let object = build::object(&mut steps)?;
    let bin = build::host(&mut steps, &object, Programs::Lab)?;
    let step =
        steps.start("measuring, as root: a daemon and its agents, some minutes; leave the machine alone");
    let mut bench = as_root(bin.join("bench_watch"))?;
    without_cargo_run(&mut bench).args(&args.args).env("AGENTNET_BIN", bin.join(AGENTNET));
    if !args.write {
        live(&mut bench)?;
        step.done("measured");
        return Ok(());
    }
    let result = output(&mut bench)?;
    print!("{result}");
    step.done("measured");
    write(&PAGE, &result)
}
