//! Where policies come from, and the files that are published with agentnet.

use std::{fs, path::Path};

use agentnet_common::abi::{LOCAL_DENY, LOCAL_OWN, MODE_AUDIT, MODE_ENFORCE};
use rstest::rstest;

use crate::policy::{
    BUILT_IN, Policy,
    diagnostic::{Code, Diagnostics},
    host::Host,
    presets, schema, special,
};

const POLICIES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies");

fn only_code(problems: &Diagnostics) -> Code {
    let [problem] = problems.items() else { panic!("one problem expected:\n{problems}") };
    problem.code
}

#[test]
fn every_published_policy_is_valid() {
    let mut files = 0;
    for entry in fs::read_dir(POLICIES).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let policy = Policy::load(path.to_str().unwrap(), &Host::default())
                .unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(Some(policy.compiled.name.as_str()), path.file_stem().unwrap().to_str());
            assert!(policy.warnings.items().is_empty(), "{}", policy.warnings);
            files += 1;
        }
    }
    assert!(files >= BUILT_IN.len());
}

#[test]
fn every_policy_in_the_documentation_is_valid() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pages = fs::read_dir(docs.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut policies = 0;
    for page in pages.chain([docs.join("README.md")]).filter(|page| page.is_file()) {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```toml\n").skip(1) {
            let block = block.split("```").next().unwrap();
            let policy = Policy::from_text(page.to_str().unwrap(), block, &[]);
            let policy = policy.unwrap_or_else(|problems| panic!("{problems}"));
            assert!(policy.warnings.is_empty(), "{}", policy.warnings);
            policies += 1;
        }
    }
    assert!(policies > 0, "no page has a policy");
}

#[test]
fn every_built_in_policy_has_the_name_it_is_found_by() {
    let empty = tempfile::tempdir().unwrap();
    for (name, _) in BUILT_IN {
        let policy = Policy::load_from(empty.path(), name, &Host::default()).unwrap();
        assert_eq!(policy.compiled.name, *name);
        assert_eq!(policy.compiled.mode, MODE_ENFORCE);
        assert!(policy.is_built_in());
    }
}

#[test]
fn the_published_schema_is_current() {
    let published = fs::read_to_string(Path::new(POLICIES).join("agentnet-policy.schema.json")).unwrap();
    assert!(
        published == schema::json_schema(),
        "policies/agentnet-policy.schema.json is not what `agentnet policy schema` prints: write it anew"
    );
}

#[test]
fn a_file_of_the_directory_comes_before_a_built_in_policy() {
    let directory = tempfile::tempdir().unwrap();
    let load = |name: &str| Policy::load_from(directory.path(), name, &Host::default());
    assert!(load("offline").unwrap().is_built_in());
    let text = "version = 1\nname = \"offline\"\nmode = \"audit\"\n";
    fs::write(directory.path().join("offline.toml"), text).unwrap();
    let policy = load("offline").unwrap();
    assert_eq!(policy.compiled.mode, MODE_AUDIT);
    assert!(policy.file().ends_with("/offline.toml"));
}

#[rstest]
#[case("nothing", Code::NotFound)]
#[case("", Code::NotFound)]
#[case("..", Code::NotFound)]
#[case("Coding", Code::NotFound)]
#[case("missing.toml", Code::Unreadable)]
#[case("./missing", Code::Unreadable)]
#[case("/", Code::Unreadable)]
#[case("/dev/zero", Code::Unreadable)]
fn what_cannot_be_read_is_one_clear_error(#[case] policy: &str, #[case] code: Code) {
    let problems = Policy::load(policy, &Host::default()).unwrap_err();
    assert_eq!(only_code(&problems), code);
    assert_eq!(problems.file(), policy);
}

#[test]
fn what_is_not_text_is_one_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("latin1.toml");
    fs::write(&file, b"name = \"caf\xe9\"\n").unwrap();
    let problems = Policy::load(file.to_str().unwrap(), &Host::default()).unwrap_err();
    assert_eq!(only_code(&problems), Code::Unreadable);
    assert!(problems.to_string().contains("not UTF-8 text (byte 11)"), "{problems}");
}

#[test]
fn without_a_policy_everything_is_reported_and_nothing_refused() {
    let policy = Policy::audit(&Host::default());
    assert_eq!(policy.compiled.mode, MODE_AUDIT);
    assert!(policy.warnings.is_empty());
    assert!(policy.compiled.nets.iter().any(|entry| entry.prefix == 0));
    assert!(policy.compiled.nets.iter().all(|entry| entry.rules.len == 0));
}

#[test]
fn audit_can_be_forced() {
    let mut policy = Policy::load(&format!("{POLICIES}/offline.toml"), &Host::default()).unwrap();
    assert_eq!((policy.compiled.loopback, policy.compiled.listen), (LOCAL_OWN, LOCAL_DENY));
    policy.force_audit();
    assert_eq!(policy.compiled.mode, MODE_AUDIT);
}

#[test]
fn rules_know_where_they_are_written() {
    let text = "version = 1\nname = \"test\"\n\n[[egress.deny]]\ncidr = \"10.0.0.1/32\"\n\n\
                [[egress.allow]]\ncidr = \"10.0.0.0/8\"\nports = [5432, \"8000-8099\"]\n";
    let policy = Policy::from_text("test.toml", text, &[]).unwrap();
    let told: Vec<_> = policy.compiled.rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["`deny 10.0.0.1/32 tcp+udp+icmp` (test.toml:4)", "`10.0.0.0/8 tcp 5432, 8000-8099` (test.toml:7)",]
    );
    assert!(policy.compiled.rules.iter().enumerate().all(|(at, rule)| usize::from(rule.id.0) == at));
}

/// What docs/policy.md has between its markers: a row for each kind of finding.
#[test]
fn the_reference_has_every_kind_of_finding() {
    let reference = include_str!("../../../../docs/policy.md");
    let rows = crate::detect::REGISTRY.iter().map(|row| {
        let blocked = if row.blocked.is_empty() { "nothing" } else { row.blocked };
        format!("| `{}` | {} | {blocked} |\n", row.kind.label(), row.doc.trim_end_matches('.'))
    });
    let table = format!("<!-- kinds: begin -->\n{}<!-- kinds: end -->", rows.collect::<String>());
    assert!(reference.contains(&table), "docs/policy.md lacks:\n{table}");
}

#[test]
fn the_reference_names_every_key_code_and_special_network() {
    let reference = include_str!("../../../../docs/policy.md");
    let tables = [
        &schema::POLICY,
        &schema::EGRESS,
        &schema::ALLOW,
        &schema::DENY,
        &schema::LOCAL,
        &schema::DNS,
        &schema::TLS,
        &schema::DETECTOR,
    ];
    let keys = tables.iter().flat_map(|table| table.keys).map(|key| key.name.to_owned());
    let kinds = schema::detect().keys.iter().map(|key| key.name.to_owned());
    let codes = Code::ALL.iter().map(|code| code.label().to_owned());
    let networks = special::SPECIAL.iter().map(|special| special.net.to_string());
    let presets = presets::names().map(str::to_owned);
    for word in keys.chain(kinds).chain(codes).chain(networks).chain(presets) {
        let written =
            [format!("`{word}`"), format!("`[{word}]`"), format!("`[[{word}]]`"), format!(".{word}]]`")];
        assert!(written.iter().any(|form| reference.contains(form)), "docs/policy.md lacks {word}");
    }
}
