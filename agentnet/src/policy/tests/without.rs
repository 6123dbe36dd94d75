//! Policies from which names are taken at run time.

use rstest::rstest;

use super::super::{Policy, host::Host};

const TEXT: &str = r#"
version = 1
name = "demo"
[dns]
search = ["corp.example"]
[[egress.allow]]
domain = "*.evil.example"
[[egress.allow]]
domain = "deep.cdn.evil.example"
[[egress.allow]]
domain = "api.example.com"
[[egress.allow]]
cidr = "192.0.2.0/24"
protocols = ["tcp", "icmp"]
ports = [443]
"#;

fn policy() -> Policy {
    Policy::from_text("demo.toml", TEXT, &[]).unwrap()
}

#[rstest]
#[case("a.evil.example", true)]
#[case("b.a.evil.example", true)]
#[case("deep.cdn.evil.example", true)]
#[case("api.example.com", false)]
fn names_are_taken_with_all_below_them(#[case] name: &str, #[case] is_taken: bool) {
    let policy = policy();
    let without = policy.without(["evil.example"]).unwrap();
    let rule = |policy: &Policy| policy.explain_name(name, 6, 443).unwrap().rule.map(|rule| rule.id);
    assert!(rule(&policy).is_some());
    assert_eq!(rule(&without), rule(&policy).filter(|_| !is_taken));
}

#[test]
fn everything_else_is_as_it_was() {
    let policy = policy();
    let without = policy.without(["evil.example"]).unwrap();
    assert_eq!(without.compiled.nets.len(), policy.compiled.nets.len());
    let (cfg, before) = (without.compiled.agent_cfg(1, 2, 3), policy.compiled.agent_cfg(1, 2, 3));
    assert_eq!(format!("{cfg:?}"), format!("{before:?}"));
    for (rule, known) in without.compiled.rules.iter().zip(&policy.compiled.rules) {
        assert_eq!(
            (rule.id, &rule.text, &rule.file, rule.line),
            (known.id, &known.text, &known.file, known.line)
        );
    }
}

/// Another agent of the same file must not get it.
#[test]
fn it_is_not_what_its_file_says() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, host) = (policy(), Host::default());
    assert!(policy.is_of(directory.path(), "demo.toml", TEXT, &host));
    assert!(!policy.without(["evil.example"]).unwrap().is_of(directory.path(), "demo.toml", TEXT, &host));
}

#[test]
fn what_is_no_name_is_refused() {
    assert!(policy().without(["no name"]).is_err());
}
