//! The configuration as its author sees it.

use super::{DaemonConfig, schema};
use crate::policy::schema::{Kind, Table};

const DEFAULT: &str = include_str!("../../../dist/config.toml");

fn problems(text: &str) -> String {
    DaemonConfig::from_text("config.toml", text).unwrap_err().render(false)
}

#[test]
fn the_file_that_is_installed_says_what_holds_without_it() {
    assert_eq!(DaemonConfig::from_text("config.toml", DEFAULT).unwrap(), DaemonConfig::default());
    assert_eq!(DaemonConfig::from_text("config.toml", "").unwrap(), DaemonConfig::default());
}

/// Every key with the default that the table of keys has.
fn defaults(table: &'static Table) -> Vec<(&'static str, &'static str)> {
    let of = |key: &'static crate::policy::schema::Key| match key.kind {
        Kind::Table(table) => defaults(table),
        Kind::Texts => vec![(key.name, "[]")],
        _ => vec![(key.name, key.default.unwrap())],
    };
    table.keys.iter().flat_map(of).collect()
}

#[test]
fn the_file_that_is_installed_has_every_key() {
    for (name, value) in defaults(&schema::CONFIG) {
        let written = if value == "[]" { format!("{name} = []") } else { format!("{name} = \"{value}\"") };
        assert!(DEFAULT.contains(&written), "dist/config.toml lacks {written}");
    }
}

#[test]
fn every_key_is_read() {
    let config = DaemonConfig::from_text(
        "config.toml",
        r#"
[control]
read_group = ""
run_group = "staff"
[policies]
directory = "/srv/policies"
[store]
directory = "/srv/store"
alerts = { size = "1 GiB", age = "365d" }
[store.flows]
size = "2 GiB"
age = "7d"
[sample]
http_bytes_per_second = "1 MiB"
[detect.secret]
host_secrets = ["/root/.env", "env:DB_PASSWORD"]
"#,
    );
    insta::assert_debug_snapshot!(config.unwrap());
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    insta::assert_snapshot!(problems(
        r#"
[control]
read_group = 7
run-group = "staff"
[policies]
directory = "policies"
[store]
alerts = { size = "64", age = "3 months" }
flows = { size = "1 KiB", age = "1m" }
[sample]
http_bytes_per_second = "fast"
[detect.secret]
host_secrets = [".env", "env:"]
[daemon]
"#
    ));
    insta::assert_snapshot!(problems("[control]\nread_group = \"a b\"\n"));
    insta::assert_snapshot!(problems("[control\nread_group = \"a\"\n"));
}

#[test]
fn a_file_that_was_asked_for_has_to_be_there() {
    let missing = tempfile::tempdir().unwrap().path().join("config.toml");
    let problems = DaemonConfig::load(Some(&missing)).unwrap_err().render(false);
    assert!(problems.contains("cannot read") && problems.contains("config.toml"), "{problems}");
}
