//! Every diagnostic as people see it.

use std::collections::HashSet;

use crate::policy::{
    Policy,
    diagnostic::{Code, Diagnostics},
};

/// What is said about a file with this content, errors and warnings alike.
fn problems(text: &str) -> Diagnostics {
    match Policy::from_text("test.toml", text, &[]) {
        Ok(policy) => policy.warnings,
        Err(problems) => problems,
    }
}

/// A policy with these lines below its head.
fn with_head(lines: &str) -> String {
    format!("version = 1\nname = \"test\"\n\n{lines}")
}

/// Lines that are wrong below a right head, each with the name of its snapshot.
const BELOW_HEAD: &[(&str, &str)] = &[
    ("unknown_key", "mood = \"enforce\"\n[egress]\n[[egress.alow]]\ncidr = \"10.0.0.0/8\"\n[extra]\n"),
    ("unknown_key_of_rule", "[[egress.allow]]\ncidr = \"10.0.0.0/8\"\nport = [443]\n"),
    (
        "not_enforced",
        r#"extends = "base"

[egress]
presets = ["github"]

[[egress.allow]]
domain = "example.com"
app = "any"
sni = "off"
ech = "allow"
quic = "allow"

[[egress.allow]]
proxy = "http://proxy.corp:3128"

[dns]
resolvers = ["system"]

[tls]
sni = "required"

[budget]
egress = "200 MiB/1h"
"#,
    ),
    (
        "detect",
        "[detect.dns_tunel]\naction = \"block\"\n[detect.dga]\naction = \"stop\"\n[detect.dns_tunnel]\n",
    ),
    (
        "wrong_type",
        r#"mode = 1
local = "own"

[egress.allow]
cidr = "10.0.0.0/8"

[[egress.deny]]
cidr = ["10.0.0.0/8"]
protocols = "tcp"
ports = 22

[[egress.deny]]
domain = 7
protocols = [6, "tcp"]
ports = [1.5, true, "x"]
"#,
    ),
    ("wrong_type_of_table", "egress = []\nlocal = { loopback = true, listen = 1979-05-27 }\n"),
    (
        "unknown_value",
        r#"mode = "audited"

[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [443]
protocols = ["tpc", "sctp"]

[local]
loopback = "self"
listen = "none"
"#,
    ),
    (
        "agents",
        r#"[[agents]]

[[agents]]
unit = "claude"

[[agents]]
unit = "claude@*.service"
cgroup = "/agents.slice"

[[agents]]
cgroup = "agents.slice/*"

[[agents]]
cgroup = "/"

[[agents]]
container = "label:"

[[agents]]
unti = "claude.service"

[[agents]]
unit = 7
"#,
    ),
    ("missing_ports", "[[egress.allow]]\ncidr = \"192.0.2.0/24\"\n"),
    (
        "target",
        r#"[[egress.allow]]
ports = [443]

[[egress.allow]]
cidr = "192.0.2.0/24"
domain = "example.com"
ports = [443]
"#,
    ),
    (
        "cidr",
        r#"[[egress.deny]]
cidr = "192.0.2.1"

[[egress.deny]]
cidr = "2001:db8::1"

[[egress.deny]]
cidr = "10.0.0.0/33"

[[egress.deny]]
cidr = "office"

[[egress.deny]]
cidr = "::ffff:10.0.0.0/104"
"#,
    ),
    ("host_bits", "[[egress.deny]]\ncidr = \"10.20.0.1/16\"\n\n[[egress.deny]]\ncidr = \"2001:db8::1/32\"\n"),
    (
        "domain",
        r#"[[egress.deny]]
domain = ""

[[egress.deny]]
domain = "192.0.2.1"

[[egress.deny]]
domain = "192.0.2.0/24"

[[egress.deny]]
domain = "https://example.com/path"

[[egress.deny]]
domain = "example.com:8443"

[[egress.deny]]
domain = "www.*.example.com"

[[egress.deny]]
domain = "exa mple.com"

[[egress.deny]]
domain = "xn--a.example"

[[egress.deny]]
domain = "a..b"
"#,
    ),
    (
        "port",
        r#"[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [
    0,
    443,
    -1,
    65536,
    99999999999999999999,
    "http",
    "8099-8000",
    "1-",
    "+80",
    "1-2-3",
]
"#,
    ),
    ("ports_with_icmp", "[[egress.allow]]\ncidr = \"192.0.2.0/24\"\nports = [7]\nprotocols = [\"icmp\"]\n"),
    ("empty_list", "[[egress.allow]]\ncidr = \"192.0.2.0/24\"\nports = []\nprotocols = []\n"),
    (
        "too_many_ranges",
        r#"[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [1, 3, 5, 7, 9, 11, 13, 15]

[[egress.allow]]
cidr = "192.0.2.128/25"
ports = [101, 103, 105, 107, 109, 111, 113, 115]

[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [443]

[[egress.allow]]
domain = "example.com"
ports = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33]
"#,
    ),
    (
        "unreachable",
        r#"[[egress.deny]]
cidr = "192.0.2.0/24"
ports = ["1-1023"]

[[egress.allow]]
cidr = "192.0.2.7/32"
ports = [443]

[[egress.allow]]
domain = "www.example.com"

[[egress.deny]]
domain = "*.example.com"
"#,
    ),
    (
        "duplicate",
        r#"[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [80, 81]

[[egress.allow]]
cidr = "192.0.2.0/24"
ports = ["80-81"]
protocols = ["tcp"]
"#,
    ),
    ("wide_wildcard", "[[egress.allow]]\ndomain = \"*\"\n\n[[egress.allow]]\ndomain = \"*.COM.\"\n"),
    (
        "deny_not_enforced",
        r#"[[egress.allow]]
cidr = "10.20.0.0/16"
ports = [443]

[[egress.allow]]
cidr = "0.0.0.0/0"
ports = [443]

[[egress.deny]]
domain = "gist.github.com"
ports = [443]

[[egress.deny]]
domain = "github.com"
ports = [22]
"#,
    ),
    (
        "deny_by_name_only",
        "[[egress.allow]]\ncidr = \"10.20.0.0/16\"\nports = [443]\n\n\
         [[egress.deny]]\ndomain = \"*.intern.example\"\n",
    ),
    ("control_characters", "\"mood\\u001b[31m\" = 1\nmode = \"\\u202eecrofne\"\n"),
];

/// Whole files that are wrong.
const FILES: &[(&str, &str)] = &[
    ("syntax", "version = 1\nname = \"unfinished\nmode = = 1\n\n[egress\n"),
    ("duplicate_key", "version = 1\nname = \"a\"\nname = \"b\"\n"),
    ("missing_keys", "[local]\nloopback = \"deny\"\n"),
    ("empty_file", ""),
    ("version_and_name", "version = 2\nname = \"Büro 1\"\n"),
    ("misspelt_keys", "verison = 1\nnaem = \"test\"\n"),
];

fn all() -> Vec<(&'static str, Diagnostics)> {
    let below = BELOW_HEAD.iter().map(|&(name, lines)| (name, problems(&with_head(lines))));
    let files = FILES.iter().map(|&(name, text)| (name, problems(text)));
    below.chain(files).collect()
}

#[test]
fn every_diagnostic_reads_well() {
    for (name, problems) in all() {
        assert!(!problems.is_empty(), "{name}: nothing is said");
        insta::assert_snapshot!(name, problems.render(false));
    }
}

/// One mistake in one part hides none in another: whoever mends a file wants to do it once.
#[test]
fn problems_of_every_stage_are_told_at_once() {
    let text = r#"mood = 1
mode = "audited"
name = "Mixed"

[[egress.allow]]
cidr = "10.20.0.1/16"
ports = [0, "9-1"]
protocols = ["tpc"]

[[egress.allow]]
cidr = "192.0.2.0/24"
ports = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33]

[[egress.allow]]
domain = "a..b"

[[egress.allow]]
domain = "example.com"

[[egress.deny]]
domain = "*"

[local]
loopback = []
"#;
    let told: Vec<_> = problems(text).items().iter().map(|problem| problem.code.label()).collect();
    let mut expected = [
        "unknown_key",
        "unknown_value",
        "missing_key",
        "policy_name",
        "host_bits",
        "port",
        "port",
        "unknown_value",
        "too_many_ranges",
        "domain",
        "names_not_resolved",
        "deny_not_enforced",
        "unreachable",
        "wrong_type",
    ];
    let mut sorted = told.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected, "{told:?}");
}

#[test]
fn every_diagnostic_has_a_snapshot() {
    let seen: HashSet<_> =
        all().iter().flat_map(|(_, problems)| problems.items()).map(|problem| problem.code).collect();
    // Those that need a directory, a very long file or another kind of file have tests of their own.
    let elsewhere = [Code::Unreadable, Code::NotFound, Code::TooManyRules, Code::Value];
    for code in Code::ALL.iter().filter(|code| !elsewhere.contains(code)) {
        assert!(seen.contains(code), "{code:?} is in no snapshot");
    }
}

#[test]
fn labels_are_unique() {
    let labels: HashSet<_> = Code::ALL.iter().map(|code| code.label()).collect();
    assert_eq!(labels.len(), Code::ALL.len());
}

#[test]
fn json_has_one_object_a_line() {
    let text = with_head("mood = 1\n\n[[egress.allow]]\ndomain = \"例え.テスト\" # é\n");
    let lines = problems(&text).json_lines();
    insta::assert_snapshot!("json_lines", lines);
    for line in lines.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[test]
fn columns_count_characters() {
    let text = "version = 1\nname = \"test\"\nlocal = { \"é\" = 1, mood = 2 }\n";
    let lines = problems(text).json_lines();
    assert!(lines.contains("\"line\":3,\"column\":11"), "{lines}");
    assert!(lines.contains("\"line\":3,\"column\":20"), "{lines}");
}

#[test]
fn colour_is_used_only_when_asked_for() {
    let problems = problems("");
    assert!(problems.render(true).contains('\x1b'));
    assert!(!problems.render(false).contains('\x1b'));
}

#[test]
fn more_rules_than_identifiers_are_an_error() {
    use std::fmt::Write as _;
    let mut text = with_head("");
    for rule in 0..=agentnet_common::abi::MAX_RULES {
        let [_, _, high, low] = u32::try_from(rule).unwrap().to_be_bytes();
        write!(text, "[[egress.deny]]\ncidr = \"192.0.{high}.{low}/32\"\n").unwrap();
    }
    let problems = problems(&text);
    let [problem] = problems.items() else { panic!("{problems}") };
    assert_eq!(problem.code, Code::TooManyRules);
    assert!(problem.message.starts_with("65281 rules"), "{}", problem.message);
}
