//! Simple published rules on names, to compare with: they flag a pair of client and domain, or do not.

use std::collections::{HashMap, HashSet};

/// A query.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) seconds: f64,
    /// Client and registrable domain.
    pub(super) pair: (String, String),
    /// What is before the domain.
    pub(super) sub: String,
}

/// A rule: whether it flags the queries of one pair, and after how many characters below the domain.
pub(super) type Rule = fn(&[Query]) -> Option<usize>;

/// Their names as README of the data has them.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("> 8 unique names / 60 min", |queries| unique(queries, 8, 3600.0)),
    ("> 100 unique names / day", |queries| unique(queries, 100, 86_400.0)),
    ("> 200 unique names / 15 min", |queries| unique(queries, 200, 900.0)),
    ("new characters > 300 / 2 min", |queries| characters(queries, 300, 120.0)),
    ("Shannon entropy of a label > 4.0", entropy),
];

/// The pairs of queries, each in order.
pub(super) fn pairs(queries: Vec<Query>) -> HashMap<(String, String), Vec<Query>> {
    let mut pairs: HashMap<_, Vec<Query>> = HashMap::new();
    for query in queries {
        pairs.entry(query.pair.clone()).or_default().push(query);
    }
    pairs
}

fn unique(queries: &[Query], limit: usize, window: f64) -> Option<usize> {
    let mut leaked = 0;
    for (at, query) in queries.iter().enumerate() {
        leaked += query.sub.len();
        let recent = queries.iter().take(at + 1).filter(|one| query.seconds - one.seconds < window);
        if recent.map(|one| one.sub.as_str()).collect::<HashSet<_>>().len() > limit {
            return Some(leaked);
        }
    }
    None
}

fn characters(queries: &[Query], limit: usize, window: f64) -> Option<usize> {
    let (mut leaked, mut start, mut seen, mut sum) = (0, f64::MIN, HashSet::new(), 0);
    for query in queries {
        leaked += query.sub.len();
        if query.seconds - start >= window {
            (start, sum) = (query.seconds, 0);
            seen.clear();
        }
        if seen.insert(query.sub.as_str()) {
            sum += query.sub.len();
        }
        if sum > limit {
            return Some(leaked);
        }
    }
    None
}

fn entropy(queries: &[Query]) -> Option<usize> {
    let mut leaked = 0;
    for query in queries {
        leaked += query.sub.len();
        if query.sub.split('.').any(|label| label.len() >= 8 && shannon(label) > 4.0) {
            return Some(leaked);
        }
    }
    None
}

/// Bits a character.
pub(super) fn shannon(text: &str) -> f64 {
    let mut counts = HashMap::new();
    for byte in text.bytes() {
        *counts.entry(byte).or_insert(0.0) += 1.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a label has 63 characters")]
    let length = text.len() as f64;
    counts.values().map(|count: &f64| -(count / length) * (count / length).log2()).sum()
}
