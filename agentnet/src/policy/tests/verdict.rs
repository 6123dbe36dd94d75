//! The verdict on a compiled policy is that of a plain scan of all its rules.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use agentnet_common::{
    abi::{RULESET_RESOLVER, RULESET_SEARCH},
    addr::Addr,
    name::NameKey,
    verdict::{NameTables as _, Reason, RuleId, Tables as _, Verdict},
};
use proptest::prelude::*;

use super::{
    draft::{Case, Network, Target, Way, any_case},
    many::for_all,
    scan::{SPECIAL, denies_queries, scan_search},
};
use crate::policy::{Policy, special};

/// Different policies that are compared, and how many questions are asked of each.
const POLICIES: u32 = 100_000;
const QUESTIONS: usize = 5;
/// More than [`POLICIES`]: a few are alike, a few do not fit.
const CASES: u32 = POLICIES / 100 * 101;
/// One policy in so many is written as a file and read again.
const AS_TEXT: u64 = 20;

/// Policies that are changed, and how many questions are asked before and after.
const CHANGED: u32 = 5_000;
const ASKED_TWICE: usize = 15;

/// Policies whose marks are compared.
const SEARCHED: u32 = 20_000;
const ALLOWED: Verdict = Verdict::Allow(RuleId(0));
const DENIED: Verdict = Verdict::Deny(Reason::NameNotAllowed);

/// How often each answer was given.
#[derive(Default)]
struct Mix {
    allowed: AtomicU32,
    denied: AtomicU32,
}

impl Mix {
    fn count(&self, verdict: Verdict) {
        let counter = if is_allowed(verdict) { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Relaxed);
    }

    /// Neither all yes nor all no, or a comparison would prove little.
    fn check(&self) {
        let (allowed, denied) = (self.allowed.load(Relaxed), self.denied.load(Relaxed));
        println!("{allowed} allowed, {denied} denied");
        assert!(allowed >= (allowed + denied) / 6, "only {allowed} are allowed, {denied} denied");
        assert!(denied >= (allowed + denied) / 6, "only {denied} are denied, {allowed} allowed");
    }
}

const fn is_allowed(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Allow(_))
}

/// What connections had to speak in some answer.
fn decided_as_by_a_scan<T: Target>() -> BTreeSet<u8> {
    let spoken = Mutex::new(BTreeSet::new());
    let (mix, seen) = (Mix::default(), Mutex::new(HashSet::new()));
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    for_all(
        CASES,
        || any_case::<T>(QUESTIONS),
        |Case { draft, questions, .. }| {
            let hash = hasher.hash_one(&draft);
            let way = if hash.is_multiple_of(AS_TEXT) { Way::Text } else { Way::Document };
            let Some(policy) = draft.policy(way)? else { return Ok(()) };
            for question in &questions {
                let (decided, expected) = (T::decide(&policy, question), T::scan(&draft, question));
                prop_assert_eq!(decided, expected, "{:?}\n{}", question, draft.text());
                let (speaks, expected) = (T::speaks(&policy, question), T::scan_speaks(&draft, question));
                prop_assert_eq!(speaks, expected, "{:?}\n{}", question, draft.text());
                mix.count(decided);
                spoken.lock().unwrap().insert(speaks);
            }
            seen.lock().unwrap().insert(hash);
            Ok(())
        },
    );
    let policies = seen.into_inner().unwrap().len();
    println!("{policies} different policies");
    assert!(policies >= POLICIES as usize, "only {policies} different policies");
    mix.check();
    spoken.into_inner().unwrap()
}

#[test]
fn addresses_are_decided_as_by_a_scan_of_all_rules() {
    assert_eq!(decided_as_by_a_scan::<Network>(), BTreeSet::from([0]));
}

#[test]
fn names_are_decided_as_by_a_scan_of_all_rules() {
    let anything_http_and_tls = BTreeSet::from([0, 2, 1, 1 + 4, 1 + 8, 1 + 4 + 8]);
    assert_eq!(decided_as_by_a_scan::<String>(), anything_http_and_tls);
}

/// Whether names have the mark that resolvers may make them of others, and those alone.
#[test]
fn search_domains_open_questions_and_nothing_else() {
    let (mix, verdict) = (Mix::default(), |asked| if asked { ALLOWED } else { DENIED });
    for_all(
        SEARCHED,
        || any_case::<String>(QUESTIONS),
        |Case { draft, questions, .. }| {
            let Some(policy) = draft.policy(Way::Document)? else { return Ok(()) };
            let names = questions.iter().map(|(name, ..)| name.clone());
            let longer = |name: String| {
                let expanded: Vec<_> = draft
                    .search
                    .iter()
                    .map(|suffix| format!("{name}.{suffix}"))
                    .chain([name.clone()])
                    .collect();
                expanded
            };
            for name in names.flat_map(longer).filter(|name| name.len() <= 253) {
                let key = NameKey::from_dotted(&name).unwrap();
                let rules = policy.compiled.name(0, &key).map(|node| {
                    let this = node.len as usize == key.len;
                    if this { node.this } else { node.below }
                });
                let marked = rules.is_some_and(|rules| rules.flags & RULESET_SEARCH != 0);
                let expected = scan_search(&draft.rules, &draft.search, &name);
                prop_assert_eq!(marked, expected, "{} with {:?}\n{}", name, draft.search, draft.text());
                mix.count(verdict(marked));
            }
            Ok(())
        },
    );
    mix.check();
}

/// The verdicts about their addresses are compared with all others.
#[test]
fn resolvers_are_marked_and_nobody_else() {
    let mix = Mix::default();
    for_all(
        SEARCHED,
        || any_case::<Network>(2),
        |Case { draft, questions, .. }| {
            let Some(policy) = draft.policy(Way::Document)? else { return Ok(()) };
            let asked = questions.iter().map(|((ip, ..), _)| *ip);
            for ip in asked.chain(draft.servers.iter().copied()) {
                let rules = policy.compiled.net(0, &Addr::from(ip)).unwrap();
                let marked = rules.flags & RULESET_RESOLVER != 0;
                prop_assert_eq!(
                    marked,
                    draft.servers.contains(&ip) && !denies_queries(&draft.rules, ip),
                    "{}",
                    ip
                );
                mix.count(if marked { ALLOWED } else { DENIED });
            }
            Ok(())
        },
    );
    mix.check();
}

/// What is told about a verdict, the rule aside.
fn refusal(verdict: Verdict) -> Option<Reason> {
    match verdict {
        Verdict::Allow(_) => None,
        Verdict::Deny(reason) => Some(reason),
    }
}

/// What changing a policy does to its answers; needs no second opinion on them.
fn changed_as_rules_say<T: Target>() {
    let (mix, opened, closed) = (Mix::default(), AtomicU32::new(0), AtomicU32::new(0));
    for_all(
        CHANGED,
        || any_case::<T>(ASKED_TWICE),
        |Case { draft, questions, another, place, order }| {
            let Some(policy) = draft.policy(Way::Document)? else { return Ok(()) };
            let answers: Vec<_> = questions.iter().map(|question| T::decide(&policy, question)).collect();
            let compare = |other: &Policy, check: &dyn Fn(Verdict, Verdict) -> bool| {
                for (question, before) in questions.iter().zip(&answers) {
                    let after = T::decide(other, question);
                    prop_assert!(check(*before, after), "{before:?}, then {after:?}: {question:?}");
                }
                Ok(())
            };
            answers.iter().for_each(|answer| mix.count(*answer));

            let more = draft.with(place, another);
            let adds_allow = more.rules[place].allow;
            let (changed, only) = if adds_allow { (&opened, true) } else { (&closed, false) };
            if let Some(other) = more.policy(Way::Document)? {
                compare(&other, &|before, after| {
                    let same = is_allowed(before) == is_allowed(after);
                    changed.fetch_add(u32::from(!same), Relaxed);
                    same || is_allowed(after) == only
                })?;
            }
            if let Some(other) = draft.shuffled(order).policy(Way::Document)? {
                compare(&other, &|before, after| refusal(before) == refusal(after))?;
            }
            Ok(())
        },
    );
    let (opened, closed) = (opened.into_inner(), closed.into_inner());
    println!("{opened} answers opened by an allow rule, {closed} closed by a deny rule");
    assert!(opened > CHANGED / 50 && closed > CHANGED / 50, "{opened} opened, {closed} closed");
    mix.check();
}

#[test]
fn a_deny_only_closes_an_allow_only_opens_addresses_and_order_decides_nothing() {
    changed_as_rules_say::<Network>();
}

#[test]
fn a_deny_only_closes_an_allow_only_opens_names_and_order_decides_nothing() {
    changed_as_rules_say::<String>();
}

#[test]
fn the_special_networks_are_those_documented() {
    let compiled: Vec<_> =
        special::SPECIAL.iter().map(|special| (special.net.to_string(), special.local)).collect();
    let documented: Vec<_> = SPECIAL.iter().map(|(net, local)| ((*net).to_owned(), *local)).collect();
    assert_eq!(compiled, documented);
}
