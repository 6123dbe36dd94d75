//! What the detectors reach on labelled data that is not part of the project: recall, false alarms, what leaked
//! before the alert, beside simple published rules. What data is missing is said.

mod data;
mod dns;
mod protocols;
mod rules;
mod secrets;
mod urls;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentnet::{
    detect::{action::Actions, bank::Config},
    replay::scan::{List, Scanner},
};
use anyhow::Result;

/// A scanner with nothing set.
fn scanner(list: List) -> Scanner {
    Scanner::new(list, Actions::default(), Config::default())
}

/// What is written: Markdown.
#[derive(Debug, Default)]
struct Page {
    text: String,
    /// What was not detected, or wrongly, by name.
    misses: Vec<String>,
    skipped: Vec<String>,
}

impl Page {
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    fn table(&mut self, title: &str, columns: &[&str]) {
        self.line("");
        self.line(format!("**{title}**"));
        self.line("");
        self.line(format!("| {} |", columns.join(" | ")));
        self.line(format!("| {} |", vec!["---"; columns.len()].join(" | ")));
    }

    fn row(&mut self, cells: &[String]) {
        self.line(format!("| {} |", cells.join(" | ")));
    }

    fn skip(&mut self, what: &Path) {
        self.skipped.push(what.display().to_string());
    }
}

/// Runs the evaluation; prints the page.
///
/// # Errors
/// If data that is there cannot be read.
pub fn main() -> Result<ExitCode> {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("../shared/data"), PathBuf::from);
    let mut page = Page::default();
    if !root.is_dir() {
        println!(
            "Skipped: there is no labelled data in {}; name its folder as the argument.",
            root.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    dns::tunnels(&root, &mut page)?;
    dns::benign(&root, &mut page)?;
    dns::generated(&root, &mut page)?;
    urls::benign(&root, &mut page)?;
    secrets::evaluate(&root, &mut page)?;
    protocols::evaluate(&root, &mut page)?;
    page.line("");
    page.line("**Misses and false alarms by name**");
    page.line("");
    let misses = std::mem::take(&mut page.misses);
    if misses.is_empty() {
        page.line("none");
    }
    for miss in &misses {
        page.line(format!("* {miss}"));
    }
    let skipped = std::mem::take(&mut page.skipped);
    if !skipped.is_empty() {
        page.line("");
        page.line(format!("Skipped, because it is not there: {}.", skipped.join(", ")));
    }
    print!("{}", page.text);
    Ok(ExitCode::SUCCESS)
}

/// A share in percent.
fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of lines")]
    let share = part as f64 * 100.0 / whole as f64;
    format!("{share:.1} %")
}
