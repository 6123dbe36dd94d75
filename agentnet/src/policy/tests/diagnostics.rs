//! Every diagnostic as people see it.

use std::collections::HashSet;

use crate::policy::{
    Policy, compile,
    diagnostic::{Code, Diagnostics},
    host::Host,
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
        r#"[[egress.allow]]
proxy = "http://proxy.corp:3128"

[tls]
inspect = "async"

[budget]
egress = "200 MiB/1h"
"#,
    ),
    (
        "no_name",
        r#"[[egress.allow]]
cidr = "10.20.0.0/16"
ports = [443]
app = "any"
sni = "off"
ech = "allow"
quic = "allow"
"#,
    ),
    (
        "no_tls",
        r#"[[egress.allow]]
domain = "a.example.com"
app = "any"
sni = "required"

[[egress.allow]]
domain = "b.example.com"
ports = [22, 80]
ech = "allow"
quic = "allow"

[[egress.allow]]
domain = "c.example.com"
protocols = ["icmp"]
app = "tls"
quic = "allow"

[[egress.allow]]
domain = "d.example.com"
ports = [8000]
protocols = ["udp"]
app = "http"
"#,
    ),
    (
        "quic",
        r#"[[egress.allow]]
domain = "a.example.com"
protocols = ["udp"]

[[egress.allow]]
domain = "b.example.com"
protocols = ["tcp", "udp"]
ports = ["1-1000"]
quic = "deny"

[[egress.allow]]
domain = "c.example.com"
protocols = ["udp"]
quic = "allow"

[[egress.allow]]
domain = "d.example.com"
protocols = ["udp"]
app = "any"
"#,
    ),
    (
        "shadowed",
        r#"[[egress.allow]]
domain = "*.example.com"
ports = ["1-1000"]
app = "any"

[[egress.allow]]
domain = "www.example.com"

[[egress.allow]]
domain = "www.example.com"
ports = [22]

[[egress.allow]]
domain = "api.example.net"

[[egress.allow]]
domain = "api.example.net"
ech = "allow"
"#,
    ),
    (
        "proxy_port",
        r#"[[egress.allow]]
cidr = "10.20.0.1/32"
ports = [3128]

[[egress.allow]]
domain = "proxy.corp.example"
ports = [443, 8888]

[[egress.allow]]
cidr = "10.20.0.0/16"
ports = ["8000-8999"]

[[egress.allow]]
domain = "www.corp.example"
ports = [8080]
"#,
    ),
    (
        "spoken_of_denies",
        r#"[[egress.deny]]
domain = "example.com"
app = "tls"
quic = "deny"

[[egress.allow]]
domain = "example.net"
app = "https"

[tls]
app = "any"
sni = "of"
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
    ("presets", "[egress]\npresets = [\"githb\", \"pypi\", \"pypi\", \"everything\", 7]\n"),
    ("presets_are_a_list", "[egress]\npresets = \"github\"\n"),
    ("presets_are_not_empty", "[egress]\npresets = []\n[dns]\nresolvers = []\n"),
    ("unknown_preset", "[egress]\npresets = [\"githb\", \"pypi\", \"pypi\", \"everything\"]\n"),
    (
        "rules_of_a_preset",
        r#"[egress]
presets = ["pypi"]

[[egress.allow]]
domain = "pypi.org"

[[egress.deny]]
domain = "files.pythonhosted.org"

[[egress.allow]]
cidr = "203.0.113.0/24"
ports = [443]
"#,
    ),
    ("extends_nothing_known", "extends = \"codding\"\n"),
    ("extends_nothing_alike", "extends = \"Büro\"\n"),
    (
        "resolvers",
        r#"[dns]
resolvers = [
    "system",
    "192.0.2.53:53",
    "[2001:db8::53]:853",
    "fe80::53%eth0",
    "::ffff:192.0.2.53",
    "dns.example.com",
    "0.0.0.0",
    "224.0.0.251",
    "192.0.2.53",
]
search = ["system", "*.corp.example", "a..b"]
"#,
    ),
    (
        "too_many_resolvers",
        r#"[dns]
resolvers = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8", "192.0.2.9"]
"#,
    ),
    ("no_search", "[dns]\nsearch = []\nresolvers = \"system\"\n"),
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
    (
        "unix_name",
        "[local]\nunix_allow = [\"docker.sock\", \"/\", \"/run/../a\", \"@\", \"/run/a\\u0000b\"]\n",
    ),
    (
        "unix_door",
        "[local]\nunix_allow = [\"/run/docker.sock\", \"/run/nscd/socket\", \"/dev/log\", \"@name\"]\n",
    ),
    ("unix_changeable", "[local]\nunix_allow = [\"/tmp/a.sock\"]\n"),
    ("unix_allow_unused", "[local]\nunix = \"any\"\nunix_allow = [\"@name\"]\n"),
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

/// Files of a directory of policies, the one that is asked for first, of which one is wrong.
const SEVERAL: &[(&str, &[(&str, &str)])] = &[
    ("extends_itself", &[("a", "extends = \"a\"\n")]),
    (
        "extend_each_other",
        &[("a", "extends = \"b\"\n"), ("b", "extends = \"c\"\n"), ("c", "extends = \"b\"\n")],
    ),
    (
        "extend_too_often",
        &[
            ("a", "extends = \"b\"\n"),
            ("b", "extends = \"c\"\n"),
            ("c", "extends = \"d\"\n"),
            ("d", "extends = \"e\"\n"),
            ("e", "extends = \"f\"\n"),
            ("f", "extends = \"g\"\n"),
            ("g", "extends = \"h\"\n"),
            ("h", "extends = \"i\"\n"),
            ("i", "extends = \"j\"\n"),
            ("j", ""),
        ],
    ),
    (
        "extended_is_wrong",
        &[
            ("a", "extends = \"b\"\n\n[local]\nloopback = \"self\"\n"),
            ("b", "extends = \"c\"\n\n[[egress.deny]]\ncidr = \"10.0.0.1/8\"\n"),
            ("c", "mode = = 1\n"),
        ],
    ),
    (
        "denied_elsewhere",
        &[
            (
                "a",
                "extends = \"b\"\n\n[[egress.allow]]\ncidr = \"0.0.0.0/0\"\nports = [443]\n\n[[egress.allow]]\ndomain = \"www.example.com\"\n",
            ),
            (
                "b",
                "[[egress.deny]]\ndomain = \"*.example.com\"\n\n[[egress.allow]]\ndomain = \"example.net\"\n\n[[egress.deny]]\ndomain = \"example.net\"\n",
            ),
        ],
    ),
];

/// What is said about the first of some files of a directory.
fn problems_of(files: &[(&str, &str)]) -> Diagnostics {
    let directory = tempfile::tempdir().unwrap();
    for (name, lines) in files {
        let text = format!("version = 1\nname = \"{name}\"\n\n{lines}");
        std::fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
    }
    match Policy::load_from(directory.path(), files[0].0, &Host::default()) {
        Ok(policy) => policy.warnings,
        Err(problems) => problems,
    }
}

#[test]
fn problems_of_several_files_read_well() {
    // Where they lie differs from run to run.
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"/[^ `]*/\.tmp[^/`]*", "POLICIES");
    settings.bind(|| {
        for (name, files) in SEVERAL {
            let problems = problems_of(files);
            assert!(!problems.is_empty(), "{name}: nothing is said");
            insta::assert_snapshot!(*name, problems.render(false));
            for line in problems.json_lines().lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap();
            }
        }
    });
}

#[test]
fn more_names_than_fit_are_an_error() {
    use std::fmt::Write as _;
    let mut text = with_head("[dns]\nsearch = [\"a.example\", \"b.example\"]\n");
    for rule in 0..=compile::MOST_NAMES / 3 {
        write!(text, "[[egress.allow]]\ndomain = \"n{rule}.example\"\n").unwrap();
    }
    let problems = problems(&text);
    let told: Vec<_> = problems.items().iter().map(|problem| problem.code).collect();
    assert_eq!(told, [Code::TooManyNames], "{problems}");
}

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
    let elsewhere = [Code::Unreadable, Code::TooManyRules, Code::TooManyNames, Code::Extends, Code::Value];
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
