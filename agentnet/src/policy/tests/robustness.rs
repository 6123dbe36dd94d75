//! Nothing that a file can hold makes the front end panic.

use std::fmt::Write as _;

use agentnet_common::{
    addr::{Addr, Endpoint},
    verdict::{RuleId, Scope, Verdict},
};
use proptest::{prelude::*, sample::select};

use crate::policy::{BUILT_IN, Policy, diagnostic::Severity};

/// Everything that can be asked of a text.
fn exercise(text: &str) {
    let problems = match Policy::from_text("fuzz.toml", text, &[]) {
        Ok(policy) => {
            let endpoint = Endpoint::new(Addr::LOOPBACK_V4, 1, 6);
            let _ = policy.explain(&endpoint, Scope::Remote).to_string();
            assert_eq!(policy.warnings.count(Severity::Error), 0);
            policy.warnings
        }
        Err(problems) => {
            assert!(problems.count(Severity::Error) > 0);
            problems
        }
    };
    assert_eq!(problems.json_lines().lines().count(), problems.items().len());
    for line in problems.json_lines().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert_eq!(problems.render(false).is_empty(), problems.is_empty());
    let _ = problems.render(true);
}

/// Pieces of policies, right and wrong, that make deeper paths likely.
const PIECES: &[&str] = &[
    "version = 1\n",
    "name = \"a\"\n",
    "mode = \"audit\"\n",
    "[egress]\n",
    "[[egress.allow]]\n",
    "[[egress.deny]]\n",
    "[local]\n",
    "cidr = \"10.0.0.0/8\"\n",
    "cidr = \"::/0\"\n",
    "cidr = \"0.0.0.0/0\"\n",
    "domain = \"*.a.b\"\n",
    "domain = \"a.b\"\n",
    "domain = \"*\"\n",
    "ports = [1, \"2-65535\"]\n",
    "ports = [443]\n",
    "ports = [\"9-1\", 0]\n",
    "protocols = [\"icmp\"]\n",
    "protocols = [\"tcp\", \"udp\"]\n",
    "loopback = \"any\"\n",
    "listen = \"deny\"\n",
    "domain = \"\u{202e}é。x\"\n",
    "cidr = '",
    "\"",
    "[",
    "]",
    "=",
    "\n",
    "\r\n",
    "\t",
    "#",
    "\u{0}",
    "\u{1b}[0m",
    "é",
    "'''",
    "budget = {",
    "}",
    ",",
    "1",
    "-9223372036854775809",
    "0x1F",
    "inf",
    "1979-05-27T07:32:00Z",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in any::<String>()) {
        exercise(&text);
    }

    #[test]
    fn any_bytes_that_are_nearly_text(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_mixture_of_pieces(pieces in prop::collection::vec(select(PIECES), 0..40)) {
        exercise(&pieces.concat());
    }

    #[test]
    fn any_small_change_of_a_policy(
        (_, text) in select(BUILT_IN),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), any::<bool>()), 1..4),
    ) {
        let mut chars: Vec<_> = text.chars().collect();
        for (at, char, insert) in changes {
            let at = at.index(chars.len());
            if insert { chars.insert(at, char) } else { chars[at] = char }
        }
        exercise(&chars.into_iter().collect::<String>());
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_overflow() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let depth = 100_000;
        exercise(&format!("x = {}{}", open.repeat(depth), close.repeat(depth)));
    }
    exercise(&format!("{}x = 1", "x.".repeat(100_000)));
}

#[test]
fn many_rules_each_keep_their_own_network() {
    const RULES: u32 = 20_000;
    let mut text = "version = 1\nname = \"many\"\n".to_owned();
    let first = u32::from(std::net::Ipv4Addr::new(198, 51, 0, 0));
    for rule in 0..RULES {
        let ip = std::net::Ipv4Addr::from(first + 2 * rule);
        write!(text, "[[egress.allow]]\ncidr = \"{ip}/32\"\nports = [443]\n").unwrap();
    }
    let policy = Policy::from_text("many.toml", &text, &[]).unwrap();
    for rule in (0..RULES).step_by(97) {
        let at = |offset| {
            let ip = std::net::Ipv4Addr::from(first + 2 * rule + offset);
            let endpoint = Endpoint::new(ip.into(), 443, 6);
            let cfg = policy.compiled.agent_cfg(1, 0, 0);
            agentnet_common::verdict::decide(&policy.compiled, &cfg, &endpoint, Scope::Remote)
        };
        assert_eq!(at(0), Verdict::Allow(RuleId(rule.try_into().unwrap())));
        assert!(matches!(at(1), Verdict::Deny(_)));
    }
}
