//! `cargo xtask bench`: what enforcement costs, measured with and without it.

mod watch;

use std::{ffi::OsString, fs};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, AGENTNET, Programs},
    command::{as_root, live, output, without_cargo_run},
    progress::Steps,
    workspace::{self, E2E_PACKAGE, root},
};

/// A page with a part that is measured.
pub(crate) struct Page {
    /// Below the root.
    pub(crate) path: &'static str,
    pub(crate) begin: &'static str,
    pub(crate) end: &'static str,
}

/// What enforcement costs.
const PAGE: Page =
    Page { path: "docs/benchmarks.md", begin: "<!-- measured: begin -->", end: "<!-- measured: end -->" };
/// What detection costs.
const DETECT: Page =
    Page { path: "docs/benchmarks.md", begin: "<!-- detection: begin -->", end: "<!-- detection: end -->" };

/// What names cost.
const DNS: Page =
    Page { path: "docs/benchmarks.md", begin: "<!-- names: begin -->", end: "<!-- names: end -->" };

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Put the result into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Measure what detection costs instead: no root, no kernel programs, one core
    #[arg(long)]
    detect: bool,
    /// Measure what names cost instead: queries, answers, large policies
    #[arg(long, conflicts_with = "detect")]
    dns: bool,
    /// Measure a daemon instead: samples, how soon alerts are told and blocks hold, memory
    #[arg(long, conflicts_with_all = ["detect", "dns"])]
    watch: bool,
    /// Arguments of the benchmark, after `--`
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.detect {
        return detect(args);
    }
    if args.watch {
        return watch::run(args);
    }
    let mut steps = Steps::new("bench", 3);
    let object = build::object(&mut steps)?;
    let bin = build::host(&mut steps, &object, Programs::Lab)?;

    let step = steps.start("measuring, as root: alternated pairs, several minutes; leave the machine alone");
    let (program, page) = if args.dns { ("bench_dns", &DNS) } else { ("bench", &PAGE) };
    let mut bench = as_root(bin.join(program))?;
    without_cargo_run(&mut bench).args(&args.args).env("AGENTNET_BIN", bin.join(AGENTNET));
    if !args.write {
        live(&mut bench)?;
        step.done("measured");
        return Ok(());
    }
    let result = output(&mut bench)?;
    print!("{result}");
    step.done("measured");
    write(page, &result)
}

fn detect(args: &Args) -> Result<()> {
    let mut cargo = workspace::cargo("run");
    cargo.args(["--locked", "--release", "--quiet", "--package", E2E_PACKAGE, "--bin", "bench_detect", "--"]);
    cargo.args(&args.args);
    if !args.write {
        return live(&mut cargo);
    }
    let result = output(&mut cargo)?;
    print!("{result}");
    write(&DETECT, &result)
}

fn write(to: &Page, result: &str) -> Result<()> {
    let path = root().join(to.path);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", to.path))?;
    fs::write(&path, with_section(to, &page, result)?)
        .with_context(|| format!("cannot write {}", to.path))?;
    eprintln!("    wrote {}", to.path);
    Ok(())
}

/// The page with the text between its two markers replaced.
pub(crate) fn with_section(to: &Page, page: &str, section: &str) -> Result<String> {
    let Page { path, begin, end } = to;
    let (Some((before, rest)), Some((_, after))) = (page.split_once(begin), page.split_once(end)) else {
        bail!("{path} lacks one of the markers {begin} and {end}");
    };
    if !rest.contains(end) {
        bail!("{path} has the markers in the wrong order");
    }
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_between_the_markers_is_replaced() {
        let (begin, end) = (PAGE.begin, PAGE.end);
        let page = format!("# Title\n{begin}\nold\n{end}\nrest\n");
        assert_eq!(
            with_section(&PAGE, &page, "| new |\n").unwrap(),
            format!("# Title\n{begin}\n\n| new |\n\n{end}\nrest\n")
        );
        assert!(with_section(&PAGE, "no markers", "x").is_err());
        assert!(with_section(&PAGE, &format!("{end}{begin}"), "x").is_err());
    }

    #[test]
    fn the_page_has_its_markers() {
        for to in [&PAGE, &DETECT, &DNS, &watch::PAGE] {
            let page = fs::read_to_string(root().join(to.path)).unwrap();
            with_section(to, &page, "x").unwrap();
        }
    }
}
