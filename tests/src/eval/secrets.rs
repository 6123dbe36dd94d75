//! Secrets in each form, what looks like them, and files that have none.

use std::{collections::BTreeMap, path::Path};

use agentnet::replay::scan::List;
use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Page, data, percent, scanner};

#[derive(Deserialize)]
struct Example {
    rule: String,
    categories: Vec<String>,
    text: String,
    label: String,
}

type Form = fn(&str) -> String;

const FORMS: &[(&str, Form)] = &[
    ("raw", |text| serde_json::to_string(text).unwrap_or_default()),
    ("hex", |text| text.bytes().map(|byte| format!("{byte:02x}")).collect()),
    ("base32", |text| encode(text, 5, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")),
    ("base64", |text| encode(text, 6, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")),
    ("url", |text| text.bytes().map(|byte| format!("%{byte:02X}")).collect()),
];

/// Base 2^`bits` without padding.
fn encode(text: &str, bits: u32, alphabet: &[u8]) -> String {
    let (mut held, mut count, mut encoded) = (0_u32, 0, String::new());
    for byte in text.bytes() {
        held = held << 8 | u32::from(byte);
        count += 8;
        while count >= bits {
            count -= bits;
            encoded.push(char::from(alphabet[(held >> count) as usize & (alphabet.len() - 1)]));
            held &= (1 << count) - 1;
        }
    }
    if count > 0 {
        encoded.push(char::from(alphabet[(held << (bits - count)) as usize & (alphabet.len() - 1)]));
    }
    encoded
}

pub(super) fn evaluate(root: &Path, page: &mut Page) -> Result<()> {
    let folder = root.join("secrets");
    let files = data::files(&folder, ".jsonl")?;
    if files.is_empty() {
        page.skip(&folder);
        return Ok(());
    }
    let mut examples = Vec::new();
    for path in files {
        for line in data::lines(&path)? {
            examples.push(
                serde_json::from_str::<Example>(&line)
                    .with_context(|| format!("{}: {line}", path.display()))?,
            );
        }
    }
    let classes = [
        ("secrets of interfaces", "secret", true),
        ("other secrets (passwords, hashes, identifiers)", "secret", false),
        ("what looks like one", "not-secret", true),
        ("what looks like one, other", "not-secret", false),
    ];
    let mut columns = vec!["class", "examples"];
    columns.extend(FORMS.iter().map(|(name, _)| *name));
    page.table("Secrets: found, by the form they leave in", &columns);
    // Whose examples they are is said, not what they are: the data is not ours to publish.
    let mut wrong: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for (title, label, interface) in classes {
        let of = |example: &&Example| {
            let has = |name: &str| example.categories.iter().any(|category| category == name);
            example.label == label && (has("api") && has("secret")) == interface
        };
        let class: Vec<_> = examples.iter().filter(of).collect();
        let mut cells = vec![title.to_owned(), class.len().to_string()];
        for (form, encode) in FORMS {
            let found = class.iter().filter(|example| {
                let found = is_found(&encode(&example.text));
                if *form == "raw" && found != (label == "secret") {
                    *wrong.entry((found, example.rule.as_str())).or_default() += 1;
                }
                found
            });
            let found = found.count();
            cells.push(format!("{found} ({})", percent(found, class.len())));
        }
        page.row(&cells);
    }
    for ((alarm, rule), count) in wrong {
        let all = examples.iter().filter(|one| one.rule == rule && (one.label == "secret") != alarm).count();
        let what = if alarm { "look-alikes that raise an alarm" } else { "secrets that are missed" };
        page.misses.push(format!("{what}: {rule}, {count} of {all} examples"));
    }
    lock_files(page)
}

fn is_found(line: &str) -> bool {
    scanner(List::Payloads)
        .line(line)
        .is_ok_and(|verdict| verdict.is_some_and(|verdict| verdict.verdict != "ok"))
}

/// The lock files of this project: any secret in them is a false alarm.
fn lock_files(page: &mut Page) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut alarms: BTreeMap<String, usize> = BTreeMap::new();
    for name in ["Cargo.lock", "agentnet-ebpf/Cargo.lock"] {
        let mut scanner = scanner(List::Payloads);
        let lines = data::lines(&root.join(name))?;
        let found = lines.iter().filter(|line| {
            scanner.line(line).is_ok_and(|verdict| verdict.is_some_and(|verdict| verdict.verdict != "ok"))
        });
        alarms.insert(format!("{name}, {} lines", lines.len()), found.count());
    }
    page.table("Lock files", &["file", "false alarms"]);
    for (name, count) in alarms {
        page.row(&[name, count.to_string()]);
    }
    Ok(())
}
