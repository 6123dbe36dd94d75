//! Explanations name what decided.

use std::fmt::Write as _;

use agentnet_common::{
    addr::{Addr, Endpoint, protocol},
    verdict::{Scope, Verdict},
};

use crate::policy::{Policy, explain::Explanation, name::PatternError};

const POLICY: &str = r#"version = 1
name = "test"

[[egress.allow]]
cidr = "0.0.0.0/0"
ports = [443]

[[egress.allow]]
cidr = "10.20.0.0/16"
ports = [5432]

[[egress.deny]]
cidr = "10.20.9.0/24"

[[egress.allow]]
cidr = "127.0.0.1/32"
ports = [6379]

[[egress.allow]]
cidr = "192.0.2.0/24"
protocols = ["icmp"]
"#;

/// Without networks: a denied name would not be denied there, which is an error.
const NAMES: &str = r#"version = 1
name = "test"

[[egress.allow]]
domain = "*.example.com"

[[egress.allow]]
domain = "example.net"

[[egress.deny]]
domain = "evil.example.com"

[dns]
resolvers = ["192.0.2.53"]
search = ["corp.example"]
"#;

fn policy() -> Policy {
    Policy::from_text("test.toml", POLICY, &["198.51.100.1".parse().unwrap()]).unwrap()
}

fn told(explanation: &Explanation<'_>) -> String {
    let mut text = format!("{explanation}\n");
    if let Some(note) = &explanation.note {
        writeln!(text, "note: {note}").unwrap();
    }
    text.push_str(explanation.suggestion.as_deref().unwrap_or("no suggestion\n"));
    text
}

#[test]
fn addresses() {
    let policy = policy();
    let mut text = String::new();
    for (ip, port, protocol) in [
        ("203.0.113.9", 443, protocol::TCP),
        ("203.0.113.9", 80, protocol::TCP),
        ("203.0.113.9", 443, protocol::UDP),
        ("10.20.1.2", 5432, protocol::TCP),
        ("10.20.1.2", 443, protocol::TCP),
        ("10.21.1.2", 443, protocol::TCP),
        ("10.21.1.2", 22, protocol::TCP),
        ("10.20.9.1", 5432, protocol::TCP),
        ("169.254.169.254", 443, protocol::TCP),
        ("169.254.169.254", 80, protocol::TCP),
        ("192.0.2.7", 0, protocol::ICMP),
        ("203.0.113.9", 0, protocol::ICMP),
        ("2001:db8::1", 443, protocol::TCP),
        ("2001:db8::1", 0, protocol::ICMPV6),
        ("203.0.113.9", 0, 132),
        ("127.0.0.1", 6379, protocol::TCP),
        ("127.0.0.1", 5432, protocol::TCP),
        ("198.51.100.1", 443, protocol::TCP),
    ] {
        let ip = ip.parse().unwrap();
        let endpoint = Endpoint::new(Addr::from(ip), port, protocol);
        writeln!(text, "{}", told(&policy.explain(&endpoint, policy.scope(ip)))).unwrap();
    }
    insta::assert_snapshot!("explain_addresses", text);
}

#[test]
fn names() {
    let policy = Policy::from_text("test.toml", NAMES, &[]).unwrap();
    let mut text = String::new();
    for (name, port) in [
        ("WWW.Example.COM.", 443),
        ("www.example.com", 80),
        ("example.com", 443),
        ("www.example.net", 443),
        ("evil.example.com", 443),
        ("below.evil.example.com", 443),
        ("example.org", 8443),
        ("badexample.com", 443),
        ("example.net.corp.example", 443),
        ("pypi.org", 443),
    ] {
        writeln!(text, "{}", told(&policy.explain_name(name, protocol::TCP, port).unwrap())).unwrap();
    }
    insta::assert_snapshot!("explain_names", text);
    assert_eq!(policy.explain_name("*.x", protocol::TCP, 1).unwrap_err(), PatternError::Wildcard);
}

#[test]
fn unix_sockets() {
    let text =
        "version = 1\nname = \"test\"\n[local]\nunix_allow = [\"/run/a.sock\", \"/run/pg/\", \"@name\"]\n";
    let policy = Policy::from_text("test.toml", text, &[]).unwrap();
    let mut told_of = String::new();
    for name in [
        "/run/a.sock",
        "/run/pg/.s.PGSQL.5432",
        "@name",
        "/run/pg/../a.sock",
        "/run/pg",
        "/var/run/docker.sock",
        "/run/systemd/resolve/io.systemd.Resolve",
        "/tmp/own.sock",
        "own.sock",
        "@other",
    ] {
        let explanation = policy.explain_unix(name).unwrap();
        writeln!(told_of, "{}", told(&explanation)).unwrap();
        if let Some(suggestion) = explanation.suggestion {
            let head = "version = 1\nname = \"test\"\n";
            let better = Policy::from_text("test.toml", &format!("{head}{suggestion}"), &[]).unwrap();
            assert!(matches!(better.explain_unix(name).unwrap().verdict, Verdict::Allow(_)), "{name}");
        }
    }
    insta::assert_snapshot!("explain_unix", told_of);
    assert!(policy.explain_unix("").is_none() && policy.explain_unix(&"x".repeat(109)).is_none());
    let any =
        Policy::from_text("test.toml", "version = 1\nname = \"test\"\nlocal.unix = \"any\"\n", &[]).unwrap();
    assert_eq!(any.explain_unix("a").unwrap().to_string(), "unix a is allowed: `[local] unix` is \"any\"");
}

#[test]
fn what_is_suggested_allows_it() {
    let policy = policy();
    let mut tried = 0;
    for (ip, port, protocol) in [
        ("203.0.113.9", 80, protocol::TCP),
        ("203.0.113.9", 443, protocol::UDP),
        ("203.0.113.9", 0, protocol::ICMP),
        ("2001:db8::1", 0, protocol::ICMPV6),
        ("10.21.1.2", 443, protocol::TCP),
        ("169.254.169.254", 80, protocol::TCP),
        ("fd00:ec2::254", 80, protocol::TCP),
        ("127.0.0.1", 5432, protocol::TCP),
        ("198.51.100.1", 443, protocol::TCP),
        ("255.255.255.255", 9, protocol::UDP),
    ] {
        let ip = ip.parse().unwrap();
        let endpoint = Endpoint::new(Addr::from(ip), port, protocol);
        let suggestion = policy.explain(&endpoint, policy.scope(ip)).suggestion.unwrap();
        let text = format!("{POLICY}\n{suggestion}");
        let better = Policy::from_text("better.toml", &text, &policy.host.local).unwrap();
        let explanation = better.explain(&endpoint, better.scope(ip));
        assert!(explanation.rule.is_some(), "{suggestion}\n{explanation}");
        tried += 1;
    }
    assert_eq!(tried, 10);
}

#[test]
fn no_rule_helps_at_an_address_that_is_not_known_to_be_local() {
    let policy = policy();
    let endpoint =
        Endpoint::new(Addr::from("203.0.113.9".parse::<std::net::IpAddr>().unwrap()), 80, protocol::TCP);
    assert_eq!(policy.explain(&endpoint, Scope::ForeignListener).suggestion, None);
    assert!(policy.explain(&endpoint, Scope::Remote).suggestion.is_some());
}

#[test]
fn what_has_to_be_spoken() {
    let text = "version = 1\nname = \"spoken\"\n[[egress.allow]]\ndomain = \"a.example\"\nports = [22, 80, 443]\n\
                [[egress.allow]]\ndomain = \"b.example\"\nquic = \"allow\"\nsni = \"off\"\nech = \"allow\"\n\
                [[egress.allow]]\ndomain = \"c.example\"\nprotocols = [\"icmp\"]\n[dns]\nresolvers = [\"192.0.2.53\"]\n";
    let policy = Policy::from_text("test.toml", text, &[]).unwrap();
    let mut told_of = String::new();
    for (name, port, number) in [
        ("a.example", 22, protocol::TCP),
        ("a.example", 80, protocol::TCP),
        ("a.example", 443, protocol::TCP),
        ("a.example", 443, protocol::UDP),
        ("a.example", 3478, protocol::UDP),
        ("b.example", 443, protocol::TCP),
        ("b.example", 443, protocol::UDP),
        ("c.example", 0, protocol::ICMP),
    ] {
        let explanation = policy.explain_name(name, number, port).unwrap();
        let spoken = explanation.spoken.map_or_else(|| "-".to_owned(), |spoken| spoken.to_string());
        writeln!(told_of, "{}: {spoken}", explanation.what).unwrap();
        // What is suggested is right.
        if let Some(rule) = &explanation.suggestion {
            writeln!(told_of, "{rule}").unwrap();
            let whole = format!("{text}{rule}");
            let policy = Policy::from_text("test.toml", &whole, &[]).unwrap();
            let verdict = policy.explain_name(name, number, port).unwrap().verdict;
            assert!(matches!(verdict, Verdict::Allow(_)), "{rule}");
        }
    }
    insta::assert_snapshot!("spoken", told_of);
}

#[test]
fn what_the_engine_holds_to_names() {
    use agentnet_common::verdict::RuleId;

    use crate::detect::said::HeldTo;
    let text = "version = 1\nname = \"held\"\n[[egress.allow]]\ndomain = \"a.example\"\nports = [22, 80, 443]\nquic = \"allow\"\n\
                ech = \"allow\"\n[[egress.allow]]\ncidr = \"192.0.2.0/24\"\nports = [80, 443]\nprotocols = [\"tcp\", \"udp\"]\n";
    let policy = Policy::from_text("test.toml", text, &[]).unwrap();
    let held = |rule, number, port| policy.held_to(RuleId(rule), number, port);
    let quic = HeldTo::Quic { may_be_unnamed: false, may_be_encrypted: true };
    assert_eq!(held(0, protocol::UDP, 443), Some(quic));
    assert_eq!(held(0, protocol::TCP, 80), Some(HeldTo::Http));
    // The kernel judges TLS, and ssh and addresses have nothing to say.
    assert_eq!([(0, 443), (0, 22), (1, 80)].map(|(rule, port)| held(rule, protocol::TCP, port)), [None; 3]);
    assert_eq!((held(1, protocol::UDP, 443), held(RuleId::REPLY.0, protocol::UDP, 443)), (None, None));
    assert!(policy.allows_name("a.example", protocol::UDP, 443));
    assert!(!policy.allows_name("a.example", protocol::UDP, 80));
    assert!(!policy.allows_name("b.example", protocol::UDP, 443) && !policy.allows_name("", 17, 443));
}
