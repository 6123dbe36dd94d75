//! Differences between policies.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use agentnet_common::verdict::Verdict;
use proptest::prelude::*;

use super::{
    draft::{Case, Network, Target, Way, any_case},
    many::for_all,
};
use crate::policy::{
    Policy,
    diff::{Effect, diff},
};

const BEFORE: &str = r#"version = 1
name = "before"

[egress]
presets = ["pypi", "crates-io"]

[[egress.allow]]
cidr = "10.20.0.0/16"
ports = [5432, 6379]

[[egress.allow]]
domain = "*.example.com"

[[egress.deny]]
domain = "secret.example.com"

[dns]
resolvers = ["192.0.2.53"]
"#;

const AFTER: &str = r#"version = 1
name = "after"
mode = "audit"

[egress]
presets = ["pypi", "npm"]

[[egress.allow]]
cidr = "10.0.0.0/8"
ports = ["5000-5999"]
protocols = ["tcp", "udp"]

[[egress.deny]]
cidr = "10.20.9.0/24"

[[egress.allow]]
domain = "*.example.com"
ports = [443, 8443]

[[egress.allow]]
domain = "example.com"

[[egress.allow]]
domain = "example.org"
protocols = ["icmp"]

[[egress.deny]]
domain = "secret.example.com"

[local]
loopback = "deny"

[dns]
resolvers = ["192.0.2.54"]
"#;

fn told(before: &str, after: &str) -> String {
    let read = |file, text| Policy::from_text(file, text, &[]).unwrap();
    let changes = diff(&read("before.toml", before), &read("after.toml", after));
    changes.iter().fold(String::new(), |mut text, change| {
        writeln!(text, "{change}").unwrap();
        text
    })
}

#[test]
fn what_a_change_opens_and_closes() {
    insta::assert_snapshot!("diff", told(BEFORE, AFTER));
}

#[test]
fn what_has_to_be_spoken_is_a_difference() {
    let policy = |tls: &str, keys: &str| {
        format!(
            "version = 1\nname = \"p\"\n[tls]\n{tls}\n[[egress.allow]]\ndomain = \"a.example\"\nports = [80, 443, 5000]\n{keys}\n"
        )
    };
    let usual = policy("", "");
    let other = policy("", "app = \"any\"");
    insta::assert_snapshot!("spoken", told(&usual, &other) + &told(&other, &usual));
    let lenient = policy("sni = \"off\"\nech = \"allow\"", "quic = \"allow\"");
    insta::assert_snapshot!("lenient", told(&usual, &lenient) + &told(&lenient, &usual));
    assert_eq!(told(&policy("quic = \"allow\"", ""), &policy("", "quic = \"allow\"")), "");
}

#[test]
fn the_same_written_differently_is_no_difference() {
    assert_eq!(told(BEFORE, BEFORE), "");
    let other = "version = 1\nname = \"before\"\n[dns]\nresolvers = [\"192.0.2.53\"]\n[egress]\npresets = [\"crates-io\", \
                 \"pypi\"]\n[[egress.deny]]\ndomain = \"secret.example.com\"\n[[egress.allow]]\ndomain = \"*.Example.com.\"\n\
                 ports = [\"443-443\"]\n[[egress.allow]]\ncidr = \"10.20.0.0/16\"\nports = [6379]\n[[egress.allow]]\n\
                 cidr = \"10.20.0.0/16\"\nports = [5432]\n[[egress.allow]]\ncidr = \"10.20.3.0/24\"\nports = [5432]\n";
    assert_eq!(told(BEFORE, other), "");
}

/// What a question shows is in the differences.
fn no_difference_is_left_out<T: Target>() {
    const CHANGED: u32 = 5_000;
    let (same, other) = (AtomicU32::new(0), AtomicU32::new(0));
    for_all(
        CHANGED,
        || any_case::<T>(10),
        |Case { draft, questions, another, place, .. }| {
            let Some(before) = draft.policy(Way::Document)? else { return Ok(()) };
            let Some(after) = draft.with(place, another).policy(Way::Document)? else { return Ok(()) };
            prop_assert!(diff(&before, &before).is_empty());
            let (there, back) = (diff(&before, &after), diff(&after, &before));
            for question in &questions {
                let is_allowed = |policy| matches!(T::decide(policy, question), Verdict::Allow(_));
                let (was, is) = (is_allowed(&before), is_allowed(&after));
                let effect = if is { Effect::Opens } else { Effect::Closes };
                let has = |changes: &[_], effect| {
                    changes.iter().any(|change: &crate::policy::diff::Change| change.effect == effect)
                };
                if was == is {
                    same.fetch_add(1, Relaxed);
                } else {
                    other.fetch_add(1, Relaxed);
                    prop_assert!(has(&there, effect), "{question:?}\n{there:?}");
                    let contrary = if is { Effect::Closes } else { Effect::Opens };
                    prop_assert!(has(&back, contrary), "{question:?}\n{back:?}");
                }
            }
            Ok(())
        },
    );
    let (same, other) = (same.into_inner(), other.into_inner());
    println!("{same} answers stay, {other} change");
    assert!(other > CHANGED / 20, "only {other} of {same} answers change");
}

#[test]
fn no_difference_of_addresses_is_left_out() {
    no_difference_is_left_out::<Network>();
}

#[test]
fn no_difference_of_names_is_left_out() {
    no_difference_is_left_out::<String>();
}
