//! `cargo xtask eval`: what the detectors reach on labelled data beside the repository.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    bench::{Page, with_section},
    command::{live, output},
    workspace::{self, E2E_PACKAGE, root},
};

/// The page with the published tables.
const PAGE: Page =
    Page { path: "docs/detection.md", begin: "<!-- evaluated: begin -->", end: "<!-- evaluated: end -->" };

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Put the result into docs/detection.md
    #[arg(long)]
    write: bool,
    /// The folder with the labelled data
    #[arg(default_value = "../shared/data")]
    data: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Optimised, as what is shipped; no kernel program is needed.
    let mut cargo = workspace::cargo("run");
    cargo
        .args(["--locked", "--release", "--quiet", "--package", E2E_PACKAGE, "--bin", "eval", "--"])
        .arg(&args.data);
    if !args.write {
        return live(&mut cargo);
    }
    let result = output(&mut cargo)?;
    print!("{result}");
    if result.starts_with("Skipped") {
        // A page without figures is worse than one with those of before.
        return Ok(());
    }
    let path = root().join(PAGE.path);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", PAGE.path))?;
    fs::write(&path, with_section(&PAGE, &page, &result)?)
        .with_context(|| format!("cannot write {}", PAGE.path))?;
    eprintln!("    wrote {}", PAGE.path);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_its_markers() {
        let page = fs::read_to_string(root().join(PAGE.path)).unwrap();
        with_section(&PAGE, &page, "x").unwrap();
    }
}
