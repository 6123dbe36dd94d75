//! Names: tunnels, names of every day, generated names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    path::Path,
};

use agentnet::{
    detect::{
        action::Actions,
        bank::Config,
        domains::{Base, BaseKind},
        name::{Name, display},
    },
    replay::{
        Replay,
        pcap::{Capture, CaptureError},
        scan::List,
    },
};
use anyhow::{Context as _, Result};

use super::{
    Page, data, percent,
    rules::{self, Query, RULES},
    scanner,
};

/// Characters that may leak before the alert.
const LEAKED: usize = 1500;

/// What was said of the lines of a file, line by line.
struct Judged {
    queries: Vec<Query>,
    /// Verdict and detectors that raised it, for each line.
    verdicts: Vec<(&'static str, Vec<&'static str>)>,
    bad: usize,
}

/// Client, time and name of a line.
fn query(line: &str, number: usize) -> Query {
    let columns: Vec<_> = line.split_whitespace().collect();
    #[expect(clippy::cast_precision_loss, reason = "line numbers")]
    let (seconds, client, name) = match columns.as_slice() {
        [seconds, client, _, name, ..] => (seconds.parse().unwrap_or(0.0), *client, *name),
        _ => (number as f64, "list", columns.first().copied().unwrap_or_default()),
    };
    let (name, _) = Name::read(name);
    let base = Base::of(&name);
    let (domain, sub) = match base.kind {
        BaseKind::Single => (display(name.lower()), String::new()),
        _ => (display(base.name), display(base.sub_of(name.lower()))),
    };
    Query { seconds, pair: (client.to_owned(), domain), sub }
}

fn judge(lines: &[String]) -> Judged {
    let mut scanner = scanner(List::Names);
    let mut judged = Judged { queries: Vec::new(), verdicts: Vec::new(), bad: 0 };
    for (number, line) in lines.iter().enumerate() {
        match scanner.line(line) {
            Ok(Some(verdict)) => {
                let raised = verdict.findings.iter().filter(|one| one.action != "ok").map(|one| one.detector);
                judged.verdicts.push((verdict.verdict, raised.collect()));
                judged.queries.push(query(line, number));
            }
            Ok(None) => {}
            Err(_) => judged.bad += 1,
        }
    }
    judged
}

impl Judged {
    /// Characters below the domain up to the first line with one of these verdicts, and its detectors.
    fn leaked(&self, verdicts: &[&str]) -> Option<(usize, &[&'static str])> {
        let at = self.verdicts.iter().position(|(verdict, _)| verdicts.contains(verdict))?;
        let leaked = self.queries.iter().take(at + 1).map(|query| query.sub.len()).sum();
        Some((leaked, &self.verdicts[at].1))
    }
}

pub(super) fn tunnels(root: &Path, page: &mut Page) -> Result<()> {
    let folder = root.join("dns-attack");
    if !folder.is_dir() {
        page.skip(&folder);
        return Ok(());
    }
    let mut columns = vec!["tunnel", "alert after", "blocked after", "first detector"];
    columns.extend(RULES.iter().map(|(name, _)| *name));
    page.table("DNS tunnels: characters below the domain that had leaked", &columns);
    let mut files = data::files(&folder.join("traces"), ".tsv.gz")?;
    files.extend(data::files(&folder.join("names"), ".txt.gz")?);
    for path in files {
        let judged = judge(&data::lines(&path)?);
        let shown = |leaked: Option<usize>| leaked.map_or("never".to_owned(), |leaked| leaked.to_string());
        let alert = judged.leaked(&["alert", "block"]);
        let block = judged.leaked(&["block"]);
        let name = data::name(&path);
        if alert.is_none_or(|(leaked, _)| leaked > LEAKED) {
            page.misses.push(format!("tunnel {name}: no alert before {LEAKED} characters"));
        }
        if block.is_none() {
            page.misses.push(format!("tunnel {name}: not blocked"));
        }
        let mut cells = vec![
            name,
            shown(alert.map(|(leaked, _)| leaked)),
            shown(block.map(|(leaked, _)| leaked)),
            alert.and_then(|(_, detectors)| detectors.first().copied()).unwrap_or("–").to_owned(),
        ];
        let pairs = rules::pairs(judged.queries);
        for (_, rule) in RULES {
            cells.push(shown(pairs.values().filter_map(|queries| rule(queries)).min()));
        }
        page.row(&cells);
    }
    captures(&folder.join("pcap"), page)
}

/// The same tunnels as captures.
fn captures(folder: &Path, page: &mut Page) -> Result<()> {
    page.table("The same as captures", &["capture", "packets", "alerts", "blocked", "error"]);
    for path in data::files(folder, ".pcap.gz")? {
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut replay = Replay::new("eval".into(), "none".into(), Actions::default(), Config::default());
        let (mut alerts, mut blocked) = (0, 0);
        let done = Capture::new(file).and_then(|mut capture| {
            capture.each(|frame| {
                for alert in replay.frame(&frame) {
                    alerts += 1;
                    blocked += usize::from(alert.action == agentnet::alert::model::Action::Blocked);
                }
                Ok::<(), CaptureError>(())
            })
        });
        let error = done.err().map_or("–".to_owned(), |error| error.to_string());
        let cells = [
            data::name(&path),
            replay.summary().packets.to_string(),
            alerts.to_string(),
            blocked.to_string(),
            error,
        ];
        page.row(&cells);
        if blocked == 0 {
            page.misses.push(format!("capture {}: not blocked", data::name(&path)));
        }
    }
    Ok(())
}

pub(super) fn benign(root: &Path, page: &mut Page) -> Result<()> {
    let mut columns = vec![
        "data",
        "pairs of client and domain",
        "alerted",
        "per 10,000",
        "blocked",
        "by destination class",
    ];
    columns.extend(RULES.iter().map(|(name, _)| *name));
    page.table("Names of every day: pairs flagged", &columns);
    let mut files = data::files(&root.join("dns-benign"), ".tsv.gz")?;
    files.extend(data::files(&root.join("fqdn-lists"), ".txt.gz")?);
    if files.is_empty() {
        page.skip(&root.join("dns-benign"));
    }
    for path in files {
        let judged = judge(&data::lines(&path)?);
        // A list of names of all the world is no client: each domain in it is one.
        let (mut all, mut alerted, mut blocked, mut class) =
            (BTreeSet::new(), BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        for (query, (verdict, detectors)) in judged.queries.iter().zip(&judged.verdicts) {
            all.insert(&query.pair);
            let others = detectors.iter().any(|&detector| detector != "destination_class");
            if detectors.contains(&"destination_class") {
                class.insert(&query.pair);
            }
            if others {
                alerted.entry(&query.pair).or_insert_with(|| detectors.join(", "));
                if *verdict == "block" {
                    blocked.insert(&query.pair);
                }
            }
        }
        for ((client, domain), detectors) in &alerted {
            page.misses
                .push(format!("false alarm in {}: {client} and {domain} ({detectors})", data::name(&path)));
        }
        #[expect(clippy::cast_precision_loss, reason = "counts of pairs")]
        let rate = alerted.len() as f64 * 10_000.0 / all.len().max(1) as f64;
        let mut cells = vec![
            data::name(&path),
            all.len().to_string(),
            alerted.len().to_string(),
            format!("{rate:.2}"),
            blocked.len().to_string(),
            class.len().to_string(),
        ];
        let pairs = rules::pairs(judged.queries);
        for (_, rule) in RULES {
            cells.push(pairs.values().filter(|queries| rule(queries).is_some()).count().to_string());
        }
        page.row(&cells);
    }
    Ok(())
}

/// Families of generated names, each looked up once a second by one client, none registered.
pub(super) fn generated(root: &Path, page: &mut Page) -> Result<()> {
    let files = data::files(&root.join("dga"), ".txt")?;
    if files.is_empty() {
        page.skip(&root.join("dga"));
        return Ok(());
    }
    let (mut families, mut found, mut small, mut missed) = (0, 0, 0, Vec::new());
    for path in files.iter().filter(|path| data::name(path) != "SOURCE") {
        let names = data::lines(path)?;
        if names.len() < 25 {
            small += 1;
            continue;
        }
        families += 1;
        let log: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(at, name)| format!("{at}.0 host 1 {} 3 0 0 0", name.trim()))
            .collect();
        let raised = judge(&log).verdicts.iter().any(|(_, detectors)| detectors.contains(&"dga"));
        if raised {
            found += 1;
        } else {
            missed.push(data::name(path));
        }
    }
    page.table(
        "Bursts of generated names that do not exist",
        &["families of 25 names and more", "found", "share", "smaller ones"],
    );
    page.row(&[families.to_string(), found.to_string(), percent(found, families), small.to_string()]);
    page.misses.extend(missed.into_iter().map(|name| format!("generated names of {name}: no alert")));
    Ok(())
}
