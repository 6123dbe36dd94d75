//! `cargo xtask verify`: loads every kernel program and holds what the verifier says against a budget.

mod budget;

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    build::{self, AGENTNET, Programs},
    command::{as_root, output, without_cargo_run},
    progress::Steps,
    workspace::root,
};
use budget::Budget;

/// Where the budget is kept, below the root.
const BUDGET: &str = "xtask/verifier-budget.toml";

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Rewrite the budget from today's figures, with some room above them
    #[arg(long)]
    bless: bool,
}

/// What the kernel says about a program: a line of `agentnet verify --json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Program {
    name: String,
    section: String,
    /// Instructions the verifier processed.
    verified_instructions: u64,
    /// Instructions of the loaded program.
    instructions: u64,
    /// Deepest stack, in bytes.
    stack_bytes: u64,
    /// Mean run time, nanoseconds; none where it was not measured.
    ns_per_run: Option<f64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::new("verify", 3);
    let object = build::object(&mut steps)?;
    let bin = build::host(&mut steps, &object, Programs::Tests)?;
    let step = steps.start("every program through this kernel's verifier, as root");
    let mut verify = as_root(bin.join(AGENTNET))?;
    let programs = parse(&output(without_cargo_run(&mut verify).args(["verify", "--json"]))?)?;
    step.done(format_args!("{} programs loaded", programs.len()));

    let path = root().join(BUDGET);
    if args.bless {
        fs::write(&path, Budget::with_room(&programs).render()?)
            .with_context(|| format!("cannot write {BUDGET}"))?;
        eprintln!("    wrote {BUDGET}");
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {BUDGET}"))?;
    let budget = Budget::parse(&text).with_context(|| BUDGET.to_owned())?;
    print!("{}", table(&programs, &budget));
    let problems = budget.problems(&programs);
    if problems.is_empty() {
        println!("verify: {} programs within budget", programs.len());
        return Ok(());
    }
    for problem in &problems {
        eprintln!("    {problem}");
    }
    bail!(
        "over the verifier's budget; if that is meant: cargo xtask verify --bless, and say why in the commit"
    )
}

fn parse(json_lines: &str) -> Result<Vec<Program>> {
    let programs: Vec<Program> = json_lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a program's report: {line}")))
        .collect::<Result<_>>()?;
    if programs.is_empty() {
        bail!("`agentnet verify --json` reported no program");
    }
    Ok(programs)
}

/// The report as people read it: figure, and budget behind a slash.
fn table(programs: &[Program], budget: &Budget) -> String {
    let limits: &BTreeMap<_, _> = &budget.programs;
    let width = programs.iter().map(|program| program.name.len()).max().unwrap_or(0).max("program".len());
    let mut text = format!(
        "{:<width$}  {:>17}  {:>12}  {:>12}  {:>7}  section\n",
        "program", "verified/budget", "instructions", "stack/budget", "ns/run"
    );
    for program in programs {
        let limit = limits.get(&program.name);
        let verified = limit.map_or_else(|| "-".to_owned(), |limit| limit.verified_instructions.to_string());
        let stack = limit.map_or_else(|| "-".to_owned(), |limit| limit.stack_bytes.to_string());
        let ns = program.ns_per_run.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<width$}  {:>17}  {:>12}  {:>12}  {ns:>7}  {}",
            program.name,
            format!("{}/{verified}", program.verified_instructions),
            program.instructions,
            format!("{}/{stack}", program.stack_bytes),
            program.section,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_line_by_line() {
        let line = r#"{"name":"connect4","section":"cgroup/connect4","verified_instructions":703,"instructions":546,"stack_bytes":96,"ns_per_run":null}"#;
        let programs = parse(&format!("{line}\n\n{line}\n")).unwrap();
        assert_eq!(programs.len(), 2);
        assert!(table(&programs, &Budget::default()).contains("703/-"));
        assert!(parse("").is_err());
        assert!(parse("{}").is_err());
    }
}
