//! Trains the language models of `agentnet/data`: `train HOSTS URLS WORDS OUT`, see `agentnet/data/README.md`.
//!
//! HOSTS has a host name a line, URLS a URL a line, WORDS an English word a line. Writes `hosts.lm`, `urls.lm` and `words.txt` into the
//! directory OUT.

use std::{
    collections::{BTreeMap, HashMap},
    env, fs,
    path::Path,
};

use agentnet::detect::{
    domains::Base,
    lm::{EDGE, SYMBOLS, symbol},
};
use anyhow::{Context, Result};

/// Costs are stored in this part of a bit.
const UNIT: f64 = 16.0;

/// What something of this probability costs.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
fn cost(probability: f64) -> u8 {
    (-probability.log2() * UNIT).round().clamp(0.0, 255.0) as u8
}

#[derive(Default)]
struct Counts {
    three: HashMap<(usize, usize, usize), f64>,
    case: [[f64; 2]; 4],
}

impl Counts {
    fn add(&mut self, token: &[u8], weight: f64) {
        let (mut one, mut two, mut before) = (EDGE, EDGE, 0);
        for &byte in token {
            let three = symbol(byte);
            *self.three.entry((one, two, three)).or_default() += weight;
            (one, two) = (two, three);
            let upper = usize::from(byte.is_ascii_uppercase());
            if byte.is_ascii_alphabetic() {
                self.case[before][upper] += weight;
                before = 1 + upper;
            } else if before != 0 {
                before = 3;
            }
        }
        *self.three.entry((one, two, EDGE)).or_default() += weight;
    }

    /// Witten-Bell smoothing: trigram, bigram, unigram, uniform.
    fn table(&self) -> Vec<u8> {
        let (mut bi, mut uni) = (HashMap::<(usize, usize), f64>::new(), HashMap::<usize, f64>::new());
        for (&(_, two, three), &count) in &self.three {
            *bi.entry((two, three)).or_default() += count;
            *uni.entry(three).or_default() += count;
        }
        let total: f64 = uni.values().sum();
        let p1 = |three: usize| {
            let kinds = uni.len() as f64;
            let count = uni.get(&three).copied().unwrap_or(0.0);
            (count + kinds / SYMBOLS as f64) / (total + kinds)
        };
        let context2 = |two: usize| {
            let counts: Vec<f64> = (0..SYMBOLS).filter_map(|three| bi.get(&(two, three)).copied()).collect();
            (counts.iter().sum::<f64>(), counts.len() as f64)
        };
        let contexts2: Vec<_> = (0..SYMBOLS).map(context2).collect();
        let p2 = |two: usize, three: usize| {
            let (sum, kinds) = contexts2[two];
            let count = bi.get(&(two, three)).copied().unwrap_or(0.0);
            (count + kinds * p1(three)) / (sum + kinds).max(1e-9)
        };
        let mut table = Vec::with_capacity(SYMBOLS * SYMBOLS * SYMBOLS);
        for one in 0..SYMBOLS {
            for (two, context) in contexts2.iter().enumerate() {
                let counts: Vec<f64> = (0..SYMBOLS)
                    .map(|three| self.three.get(&(one, two, three)).copied().unwrap_or(0.0))
                    .collect();
                let (sum, kinds) =
                    (counts.iter().sum::<f64>(), counts.iter().filter(|&&count| count > 0.0).count() as f64);
                for (three, count) in counts.iter().enumerate() {
                    let backed = if context.0 > 0.0 { p2(two, three) } else { p1(three) };
                    let p = if kinds > 0.0 { (count + kinds * backed) / (sum + kinds) } else { backed };
                    table.push(cost(p));
                }
            }
        }
        table
    }

    fn case_costs(&self) -> Vec<u8> {
        let mut costs = Vec::new();
        for [lower, upper] in self.case {
            let sum = lower + upper + 2.0;
            for count in [lower, upper] {
                costs.push(cost((count + 1.0) / sum));
            }
        }
        costs
    }
}

/// `www` alone is a third of all labels: it must not be a third of all that is learnt.
fn damped(counts: HashMap<Vec<u8>, f64>) -> Counts {
    let mut trained = Counts::default();
    for (token, count) in counts {
        trained.add(&token, count.min(20_000.0));
    }
    trained
}

/// Times a run of letters is seen before it is a word.
const WORD: f64 = 3.0;

/// What a word costs that no host has, in bits: choosing one of a hundred thousand.
const ENGLISH: f64 = 17.0;

/// Runs of letters that are seen again and again, with what one of them costs among all.
fn words(labels: &HashMap<Vec<u8>, f64>, english: &str) -> String {
    let mut runs = HashMap::<&str, f64>::new();
    for (label, count) in labels {
        let Ok(label) = std::str::from_utf8(label) else { continue };
        for run in label.split(|one: char| !one.is_ascii_alphabetic()).filter(|run| !run.is_empty()) {
            *runs.entry(run).or_default() += count.min(20_000.0);
        }
    }
    let total: f64 = runs.values().sum();
    let mut costs: BTreeMap<&str, f64> = english.lines().map(|word| (word, ENGLISH * UNIT)).collect();
    for (run, count) in
        runs.into_iter().filter(|(run, count)| (2..=24).contains(&run.len()) && *count >= WORD)
    {
        let cost = -(count / total).log2() * UNIT;
        costs.entry(run).and_modify(|known| *known = known.min(cost)).or_insert(cost);
    }
    let mut lines: Vec<String> =
        costs.iter().map(|(word, cost)| format!("{word} {}", cost.round())).collect();
    lines.sort();
    lines.join("\n") + "\n"
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().collect();
    let [_, hosts, urls, english, out] = args.as_slice() else {
        anyhow::bail!("usage: train HOSTS URLS WORDS OUT")
    };
    let read = |path: &String| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));

    let mut labels = HashMap::<Vec<u8>, f64>::new();
    for host in read(hosts)?.lines() {
        let host = host.trim().to_ascii_lowercase();
        let base = Base::of_text(host.as_bytes());
        let sub = base.sub_of(host.as_bytes());
        for label in sub.split(|&byte| byte == b'.').filter(|label| !label.is_empty()) {
            *labels.entry(label.to_vec()).or_default() += 1.0;
        }
    }
    let mut tokens = HashMap::<Vec<u8>, f64>::new();
    for url in read(urls)?.lines() {
        let Some((_, rest)) = url.split_once("://") else { continue };
        let Some((_, path)) = rest.split_once('/') else { continue };
        for token in path.split(['/', '?', '&', '=', '#', '.', ',', ';', '+', ':', '@', '!', '~', '%']) {
            if (1..=64).contains(&token.len()) {
                *tokens.entry(token.as_bytes().to_vec()).or_default() += 1.0;
            }
        }
    }
    println!("{} labels, {} tokens", labels.len(), tokens.len());
    fs::write(Path::new(out).join("words.txt"), words(&labels, &read(english)?))?;
    let (hosts, urls) = (damped(labels), damped(tokens));
    for (name, counts) in [("hosts.lm", &hosts), ("urls.lm", &urls)] {
        let mut stored = counts.table();
        // Host names are folded: what case costs is known from URLs alone.
        stored.extend(urls.case_costs());
        fs::write(Path::new(out).join(name), stored)?;
    }
    Ok(())
}
