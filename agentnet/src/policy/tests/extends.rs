//! What a policy takes from others, and what of it holds.

use std::{fs, net::IpAddr, path::Path};

use agentnet_common::{
    abi::{LOCAL_ANY, LOCAL_DENY, MODE_AUDIT, MODE_ENFORCE, RULESET_RESOLVER, RULESET_SEARCH},
    addr::{Addr, protocol},
    name::NameKey,
    verdict::{NameTables as _, RuleId, Tables as _, Verdict},
};

use crate::policy::{Policy, host::Host, name::Name, resolvers::Resolution};

/// A directory with these policies.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    directory
}

fn write(directory: &Path, name: &str, lines: &str) {
    let text = format!("version = 1\nname = \"{name}\"\n{lines}");
    fs::write(directory.join(format!("{name}.toml")), text).unwrap();
}

fn load(directory: &Path, name: &str) -> Policy {
    Policy::load_from(directory, name, &host()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn host() -> Host {
    let resolution =
        Resolution { servers: vec![ip("127.0.0.53")], search: vec![Name::parse("corp.example").unwrap()] };
    Host { local: vec![ip("127.0.0.1")], resolution }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn decide(policy: &Policy, name: &str) -> Verdict {
    policy.explain_name(name, protocol::TCP, 443).unwrap().verdict
}

fn allows(policy: &Policy, name: &str) -> bool {
    matches!(decide(policy, name), Verdict::Allow(_))
}

#[test]
fn rules_add_up_and_deny_wins() {
    let directory = directory(&[
        (
            "base",
            "[[egress.deny]]\ndomain = \"gist.github.com\"\n[[egress.allow]]\ndomain = \"*.example.net\"\n",
        ),
        (
            "child",
            "extends = \"base\"\n[[egress.allow]]\ndomain = \"*.github.com\"\n[[egress.deny]]\n\
             domain = \"x.example.net\"\n",
        ),
    ]);
    let policy = load(directory.path(), "child");
    assert!(policy.warnings.items().is_empty(), "{}", policy.warnings);
    for (name, allowed) in [
        ("api.github.com", true),
        ("gist.github.com", false),
        ("a.example.net", true),
        ("x.example.net", false),
        ("example.org", false),
    ] {
        assert_eq!(allows(&policy, name), allowed, "{name}");
    }
    let base = load(directory.path(), "base");
    assert!(!allows(&base, "api.github.com") && allows(&base, "x.example.net"));
    assert_eq!(policy.compiled.name, "child");
}

#[test]
fn what_both_say_is_as_the_policy_itself_says() {
    let directory = directory(&[
        (
            "a",
            "mode = \"audit\"\n[local]\nloopback = \"deny\"\nlisten = \"deny\"\n[dns]\nresolvers = [\"192.0.2.1\"]\n\
             search = [\"a.example\"]\n[[agents]]\nunit = \"a.service\"\n",
        ),
        ("b", "extends = \"a\"\n[local]\nloopback = \"any\"\n[dns]\nsearch = []\n"),
        (
            "c",
            "extends = \"b\"\nmode = \"enforce\"\n[dns]\nresolvers = [\"192.0.2.3\", \"system\"]\n[[agents]]\n\
             unit = \"c.service\"\n",
        ),
    ]);
    let said = |name| {
        let compiled = load(directory.path(), name).compiled;
        let servers: Vec<_> = compiled.resolution.servers.iter().map(ToString::to_string).collect();
        let agents: Vec<_> = compiled.agents.iter().map(|entry| entry.selector.to_string()).collect();
        (compiled.mode, compiled.loopback, compiled.listen, servers, compiled.resolution.search.len(), agents)
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    assert_eq!(said("a").3, texts(&["192.0.2.1"]));
    // Agents belong to the file that names them.
    assert_eq!(said("b"), (MODE_AUDIT, LOCAL_ANY, LOCAL_DENY, texts(&["192.0.2.1"]), 0, vec![]));
    let c = said("c");
    assert_eq!((c.0, c.1, c.2), (MODE_ENFORCE, LOCAL_ANY, LOCAL_DENY));
    assert_eq!((c.3, c.4), (texts(&["192.0.2.3", "127.0.0.53"]), 0));
    assert_eq!(c.5.len(), 1);
    assert!(c.5[0].contains("c.service"), "{}", c.5[0]);
}

#[test]
fn rules_know_their_file_and_the_files_own_come_first() {
    let directory = directory(&[
        ("base", "[egress]\npresets = [\"pypi\", \"npm\"]\n[[egress.allow]]\ndomain = \"base.example\"\n"),
        (
            "child",
            "extends = \"base\"\n[egress]\npresets = [\"npm\"]\n[[egress.allow]]\ndomain = \"child.example\"\n",
        ),
    ]);
    let policy = load(directory.path(), "child");
    let at = |file: &str| format!("{}/{file}", directory.path().display());
    let told: Vec<_> = policy
        .compiled
        .rules
        .iter()
        .map(|rule| format!("{} {}:{}", rule.text, rule.file, rule.line))
        .collect();
    assert_eq!(
        told,
        [
            format!("child.example tcp 443 {}:6", at("child.toml")),
            "registry.npmjs.org tcp 443 <preset:npm>:10".to_owned(),
            "registry.yarnpkg.com tcp 443 <preset:npm>:14".to_owned(),
            format!("base.example tcp 443 {}:5", at("base.toml")),
            "pypi.org tcp 443 <preset:pypi>:11".to_owned(),
            "files.pythonhosted.org tcp 443 <preset:pypi>:15".to_owned(),
        ]
    );
    assert_eq!(decide(&policy, "pypi.org"), Verdict::Allow(RuleId(4)));
    assert!(
        policy.explain_name("pypi.org", protocol::TCP, 443).unwrap().to_string().contains("<preset:pypi>:11")
    );
    assert!(!policy.is_built_in());
}

#[test]
fn a_built_in_policy_can_be_extended_and_shadowed() {
    let directory = directory(&[("mine", "extends = \"offline\"\n")]);
    let policy = load(directory.path(), "mine");
    assert_eq!(policy.compiled.listen, LOCAL_DENY);
    write(directory.path(), "offline", "[local]\nlisten = \"any\"\n");
    assert_eq!(load(directory.path(), "mine").compiled.listen, LOCAL_ANY);
}

/// What the daemon asks when files have changed.
#[test]
fn a_policy_is_another_when_what_it_extends_or_the_host_is() {
    let directory = directory(&[
        ("base", "[egress]\npresets = [\"npm\"]\n"),
        ("middle", "extends = \"base\"\n"),
        ("child", "extends = \"middle\"\n"),
    ]);
    let policy = load(directory.path(), "child");
    let is_of = |host: &Host| policy.is_of(directory.path(), policy.file(), policy.text(), host);
    assert!(is_of(&host()));
    let mut other = host();
    other.resolution.servers.push(ip("192.0.2.9"));
    assert!(!is_of(&other), "another resolver");
    other = host();
    other.local.push(ip("192.0.2.9"));
    assert!(!is_of(&other), "another address");
    write(directory.path(), "base", "[egress]\npresets = [\"pypi\"]\n");
    assert!(!is_of(&host()), "the policy that is extended in the end");
    write(directory.path(), "base", "[egress]\npresets = [\"npm\"]\n");
    assert!(is_of(&host()));
    fs::remove_file(directory.path().join("middle.toml")).unwrap();
    assert!(!is_of(&host()), "a policy that is gone");
}

#[test]
fn a_policy_with_resolvers_of_its_own_is_the_same_whatever_the_host_asks() {
    let directory = directory(&[("p", "[dns]\nresolvers = [\"192.0.2.1\"]\nsearch = []\n")]);
    let policy = load(directory.path(), "p");
    let mut other = host();
    other.resolution = Resolution::default();
    assert!(policy.is_of(directory.path(), policy.file(), policy.text(), &other));
}

#[test]
fn resolvers_and_search_domains_reach_the_kernels_tables() {
    let directory = directory(&[(
        "p",
        "[egress]\npresets = [\"github\"]\n[[egress.deny]]\ndomain = \"*.corp.example\"\n",
    )]);
    let open = self::directory(&[("p", "[egress]\npresets = [\"github\"]\n")]);
    let marked = |policy: &Policy, name: &str| {
        let key = NameKey::from_dotted(name).unwrap();
        policy.compiled.name(0, &key).is_some_and(|node| {
            let rules = if node.len as usize == key.len { node.this } else { node.below };
            rules.flags & RULESET_SEARCH != 0
        })
    };
    let policy = load(open.path(), "p");
    assert!(marked(&policy, "github.com.corp.example"));
    assert!(!marked(&policy, "github.com") && !marked(&policy, "corp.example"));
    assert!(!marked(&policy, "x.github.com.corp.example") && !marked(&policy, "evil.com.corp.example"));
    assert!(!allows(&policy, "github.com.corp.example"), "it may be asked for and opens nothing");
    let denied = load(directory.path(), "p");
    assert!(!marked(&denied, "github.com.corp.example"), "deny wins");
    let flags = |address: &str| policy.compiled.net(0, &Addr::from(ip(address))).unwrap().flags;
    assert_ne!(flags("127.0.0.53") & RULESET_RESOLVER, 0);
    assert_eq!(flags("127.0.0.54") & RULESET_RESOLVER, 0);
    assert_eq!(flags("127.0.0.53") & !RULESET_RESOLVER, flags("127.0.0.54"));
    let audit = Policy::audit(&host());
    assert_ne!(audit.compiled.net(0, &Addr::from(ip("127.0.0.53"))).unwrap().flags & RULESET_RESOLVER, 0);
}
