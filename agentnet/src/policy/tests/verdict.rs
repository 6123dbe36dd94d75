//! The verdict on a compiled policy is that of a plain scan of all its rules.
//!
//! Policies are made as TOML, so that all of the front end is between the rules and the verdict.

use std::{
    cell::Cell,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agentnet_common::{
    addr::{Addr, Endpoint},
    name::NameKey,
    verdict::{Scope, Verdict, decide, decide_name},
};
use proptest::{
    prelude::*,
    sample::{Index, select, subsequence},
    test_runner::{RngAlgorithm, TestCaseError, TestRunner},
};

use super::scan::{PROTOCOLS, Rule, SPECIAL, scan, scan_name};
use crate::policy::{
    Policy,
    diagnostic::{Code, Severity},
    special,
};

/// Policies, and what is asked of each: 100,000 questions about addresses, and as many about names.
const POLICIES: u32 = 5_000;
const QUESTIONS: usize = 20;

/// Around these, addresses and networks are made.
const CENTRES: &[&str] = &[
    "0.0.0.0",
    "10.20.0.1",
    "10.20.3.7",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "192.168.1.1",
    "192.0.2.1",
    "203.0.113.5",
    "203.0.113.129",
    "255.255.255.255",
    "::",
    "::1",
    "64:ff9b::a00:1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2001::1",
    "fd00:ec2::254",
    "fd00:1::1",
    "fe80::1",
    "ff02::1",
];

/// Addresses that the host may have.
const LOCAL: &[&str] = &["127.0.0.1", "::1", "10.20.0.1", "203.0.113.5", "2001:db8::1", "fe80::1"];

fn any_port() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 1_u16..=8, 2 => Just(443), 1 => u16::MAX - 2..=u16::MAX]
}

/// IANA numbers, the one most rules are about more often.
fn any_protocol() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(6_u8), 1 => select(vec![17, 1, 58, 132])]
}

fn any_ports() -> impl Strategy<Value = Vec<(u16, u16)>> {
    prop::collection::vec((any_port(), any_port()), 1..3)
        .prop_map(|ranges| ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect())
}

/// A rule for `target`; `ports_required` where an allow rule has to write them.
fn any_rule<T: std::fmt::Debug>(
    target: impl Strategy<Value = T>,
    ports_required: bool,
) -> impl Strategy<Value = Rule<T>> {
    let protocols = prop_oneof![subsequence(&PROTOCOLS, 1..=3).prop_map(Some), Just(None),];
    (prop::bool::weighted(0.85), target, protocols, any_ports(), prop::bool::weighted(0.7)).prop_map(
        move |(allow, target, protocols, ports, written)| {
            let only_icmp = protocols.as_deref() == Some(&["icmp"]);
            let written = !only_icmp && (written || (allow && ports_required));
            Rule { allow, target, protocols, ports: written.then_some(ports) }
        },
    )
}

/// An address at most seven away from a centre.
fn any_ip() -> impl Strategy<Value = IpAddr> {
    (select(CENTRES), 0_u8..8).prop_map(|(centre, low)| match centre.parse().unwrap() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ u32::from(low / 2)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ u128::from(low / 2)).into(),
    })
}

fn any_net() -> impl Strategy<Value = (IpAddr, u32)> {
    (any_ip(), any::<Index>()).prop_map(|(ip, prefix)| match ip {
        IpAddr::V4(ip) => {
            let prefixes = [0, 1, 8, 9, 16, 24, 25, 30, 31, 32];
            let prefix = *prefix.get(&prefixes);
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            (Ipv4Addr::from_bits(ip.to_bits() & mask).into(), prefix)
        }
        IpAddr::V6(ip) => {
            let prefixes = [0, 3, 7, 8, 10, 16, 32, 48, 64, 96, 126, 127, 128];
            let prefix = *prefix.get(&prefixes);
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            (Ipv6Addr::from_bits(ip.to_bits() & mask).into(), prefix)
        }
    })
}

/// A label; two of them are alike in a way that keys must not be confused by: the length of the first is
/// the first character of the second.
fn any_label() -> impl Strategy<Value = String> {
    let long = "a".repeat(usize::from(b'0'));
    select(vec!["a".to_owned(), "b".to_owned(), "ba".to_owned(), format!("0{long}"), long])
}

fn any_name() -> impl Strategy<Value = String> {
    prop::collection::vec(any_label(), 1..4).prop_map(|labels| labels.join("."))
}

fn any_pattern() -> impl Strategy<Value = String> {
    prop_oneof![4 => any_name(), 4 => any_name().prop_map(|name| format!("*.{name}")), 1 => Just("*".to_owned())]
}

/// How often each answer was given.
#[derive(Default)]
struct Mix {
    allowed: Cell<u32>,
    denied: Cell<u32>,
    not_compiled: Cell<u32>,
}

impl Mix {
    fn count(&self, verdict: Verdict) {
        let counter = if matches!(verdict, Verdict::Allow(_)) { &self.allowed } else { &self.denied };
        counter.set(counter.get() + 1);
    }

    /// Neither all yes nor all no, or the comparison would prove little.
    fn check(&self) {
        let (allowed, denied) = (self.allowed.get(), self.denied.get());
        let total = allowed + denied;
        println!("{allowed} allowed, {denied} denied, {} policies not compiled", self.not_compiled.get());
        assert!(self.not_compiled.get() < POLICIES / 20);
        assert!(usize::try_from(total).unwrap() >= usize::try_from(POLICIES * 19 / 20).unwrap() * QUESTIONS);
        assert!(allowed * 4 >= total, "only {allowed} of {total} are allowed");
        assert!(denied * 4 >= total, "only {denied} of {total} are denied");
    }
}

fn runner() -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases: POLICIES,
        failure_persistence: None,
        // In a debug build the default one takes a third of the time.
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    })
}

/// The policy of a text. A few have more ranges at one place than fit: `None`.
fn compile(text: &str, local: &[IpAddr], mix: &Mix) -> Result<Option<Policy>, TestCaseError> {
    match Policy::from_text("random.toml", text, local) {
        Ok(policy) => Ok(Some(policy)),
        Err(problems) => {
            let mut errors = problems.items().iter().filter(|problem| problem.severity() == Severity::Error);
            prop_assert!(errors.all(|problem| problem.code == Code::TooManyRanges), "{problems}\n{text}");
            mix.not_compiled.set(mix.not_compiled.get() + 1);
            Ok(None)
        }
    }
}

#[test]
fn addresses_are_decided_as_by_a_scan_of_all_rules() {
    let scope = prop_oneof![
        8 => Just(Scope::Remote),
        1 => Just(Scope::OwnListener),
        1 => Just(Scope::ForeignListener),
    ];
    // Most questions are about an address of a rule's network, so that rules are met.
    let question = (any::<Index>(), any_ip(), prop::bool::weighted(0.8), any_port(), any_protocol(), scope);
    let strategy = (
        prop::collection::vec(any_rule(any_net(), true), 2..10),
        subsequence(LOCAL, 0..=3),
        select(vec!["own", "deny", "any"]),
        prop::collection::vec(question, QUESTIONS),
    );
    let mix = Mix::default();
    let result = runner().run(&strategy, |(rules, local, loopback, questions)| {
        let local: Vec<IpAddr> = local.iter().map(|ip| ip.parse().unwrap()).collect();
        let mut text = format!("version = 1\nname = \"random\"\nlocal = {{ loopback = \"{loopback}\" }}\n");
        for rule in &rules {
            let (ip, prefix) = rule.target;
            rule.write(&mut text, "cidr", &format!("{ip}/{prefix}"));
        }
        let Some(policy) = compile(&text, &local, &mix)? else { return Ok(()) };
        let cfg = policy.compiled.agent_cfg(1, 0, 0);
        for (rule, ip, of_rule, port, protocol, scope) in questions {
            let ip = if of_rule { rule.get(&rules).target.0 } else { ip };
            let expected = scan(&rules, &local, loopback, (ip, port, protocol), scope);
            let endpoint = Endpoint::new(Addr::from(ip), port, protocol);
            let decided = decide(&policy.compiled, &cfg, &endpoint, scope);
            prop_assert_eq!(decided, expected, "{:?} {:?} {:?}\n{}", endpoint, scope, local, text);
            mix.count(decided);
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    mix.check();
}

#[test]
fn names_are_decided_as_by_a_scan_of_all_rules() {
    let question = (any::<Index>(), any_name(), prop::bool::weighted(0.75), any_port(), any_protocol());
    let strategy = (
        prop::collection::vec(any_rule(any_pattern(), false), 2..10),
        prop::collection::vec(question, QUESTIONS),
    );
    let mix = Mix::default();
    let result = runner().run(&strategy, |(rules, questions)| {
        let mut text = "version = 1\nname = \"random\"\n".to_owned();
        for rule in &rules {
            rule.write(&mut text, "domain", &rule.target);
        }
        let Some(policy) = compile(&text, &[], &mix)? else { return Ok(()) };
        for (rule, label, of_rule, port, protocol) in questions {
            // The name of a rule, or one below it.
            let name = match of_rule.then(|| rule.get(&rules).target.as_str()) {
                Some("*") | None => label,
                Some(pattern) if pattern.len() + label.len() > 250 => pattern.replace("*.", "x."),
                Some(pattern) => pattern.replace('*', &label),
            };
            let expected = scan_name(&rules, &name, port, protocol);
            let key = NameKey::from_dotted(&name).unwrap();
            let decided = decide_name(&policy.compiled, 0, &key, protocol, port);
            prop_assert_eq!(decided, expected, "{} {} {}\n{}", name, port, protocol, text);
            mix.count(decided);
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
    mix.check();
}

#[test]
fn the_special_networks_are_those_documented() {
    let compiled: Vec<_> =
        special::SPECIAL.iter().map(|special| (special.net.to_string(), special.local)).collect();
    let documented: Vec<_> = SPECIAL.iter().map(|(net, local)| ((*net).to_owned(), *local)).collect();
    assert_eq!(compiled, documented);
}
