//! Addresses of requests of every day.

use std::path::Path;

use agentnet::replay::scan::List;
use anyhow::Result;

use super::{Page, data, percent, scanner};

pub(super) fn benign(root: &Path, page: &mut Page) -> Result<()> {
    let folder = root.join("url-benign");
    let mut files = data::files(&folder, ".tsv.gz")?;
    files.extend(data::files(&folder, ".txt.gz")?);
    if files.is_empty() {
        page.skip(&folder);
        return Ok(());
    }
    page.table(
        "Requests of every day",
        &["data", "requests", "alerted", "blocked", "Shannon > 4.5 on tokens of 20"],
    );
    for path in files {
        let mut scanner = scanner(List::Urls);
        let (mut all, mut alerted, mut blocked, mut entropy) = (0, 0, 0, 0);
        for line in data::lines(&path)? {
            let Ok(Some(verdict)) = scanner.line(&line) else { continue };
            all += 1;
            alerted += usize::from(verdict.verdict != "ok");
            blocked += usize::from(verdict.verdict == "block");
            if verdict.verdict != "ok" {
                page.misses.push(format!("false alarm in {}: request {all}", data::name(&path)));
            }
            entropy += usize::from(naive(&line));
        }
        page.row(&[
            data::name(&path),
            all.to_string(),
            format!("{alerted} ({})", percent(alerted, all)),
            blocked.to_string(),
            percent(entropy, all),
        ]);
    }
    Ok(())
}

/// The rule that most tools have.
fn naive(line: &str) -> bool {
    let address = line.split_once("://").map_or(line, |(_, rest)| rest);
    address
        .split(['/', '?', '&', '='])
        .skip(1)
        .any(|token| token.len() >= 20 && super::rules::shannon(token) > 4.5)
}
