//! `cargo xtask bench`: what enforcement costs, measured with and without it.

use std::{ffi::OsString, fs};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, AGENTNET, Programs},
    command::{as_root, live, output, without_cargo_run},
    progress::Steps,
    workspace::root,
};

/// The page with the published table, below the root.
const PAGE: &str = "docs/benchmarks.md";
const BEGIN: &str = "<!-- measured: begin -->";
const END: &str = "<!-- measured: end -->";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Put the result into docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// Arguments of the benchmark, after `--`
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut steps = Steps::new("bench", 3);
    let object = build::object(&mut steps)?;
    let bin = build::host(&mut steps, &object, Programs::Lab)?;

    let step = steps.start("measuring, as root: alternated pairs, several minutes; leave the machine alone");
    let mut bench = as_root(bin.join("bench"))?;
    without_cargo_run(&mut bench).args(&args.args).env("AGENTNET_BIN", bin.join(AGENTNET));
    if !args.write {
        live(&mut bench)?;
        step.done("measured");
        return Ok(());
    }
    let result = output(&mut bench)?;
    print!("{result}");
    step.done("measured");
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {PAGE}"))?;
    fs::write(&path, with_section(&page, &result)?).with_context(|| format!("cannot write {PAGE}"))?;
    eprintln!("    wrote {PAGE}");
    Ok(())
}

/// The page with the text between the two markers replaced.
fn with_section(page: &str, section: &str) -> Result<String> {
    let (Some((before, rest)), Some((_, after))) = (page.split_once(BEGIN), page.split_once(END)) else {
        bail!("{PAGE} lacks one of the markers {BEGIN} and {END}");
    };
    if !rest.contains(END) {
        bail!("{PAGE} has the markers in the wrong order");
    }
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", section.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_between_the_markers_is_replaced() {
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        assert_eq!(
            with_section(&page, "| new |\n").unwrap(),
            format!("# Title\n{BEGIN}\n\n| new |\n\n{END}\nrest\n")
        );
        assert!(with_section("no markers", "x").is_err());
        assert!(with_section(&format!("{END}{BEGIN}"), "x").is_err());
    }

    #[test]
    fn the_page_has_its_markers() {
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        with_section(&page, "x").unwrap();
    }
}
