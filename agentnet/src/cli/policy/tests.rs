use clap::Parser;
use rstest::rstest;

use super::{ExitCode, PolicyArgs, Streams};
use crate::exit::WRONG_USAGE as INVALID;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    policy: PolicyArgs,
}

// The policies by path, from the directory of the package: by name, a file of this machine could come
// before them.

/// What a run wrote, colour taken out, and how it ended.
struct Outcome {
    out: String,
    err: String,
    code: ExitCode,
}

impl Outcome {
    fn is(&self, code: impl Into<ExitCode>) -> bool {
        // An exit code can only be compared as people see it.
        format!("{:?}", self.code) == format!("{:?}", code.into())
    }
}

fn agentnet_policy(args: &[&str]) -> Outcome {
    let cli = Cli::try_parse_from([&["policy"], args].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = cli.policy.command.run(&mut Streams { out: &mut out, err: &mut err }).unwrap();
    let plain = |bytes: &[u8]| String::from_utf8(anstream::adapter::strip_bytes(bytes).into_vec()).unwrap();
    Outcome { out: plain(&out), err: plain(&err), code }
}

#[rstest]
#[case(&["check", "../policies/offline.toml"], 0)]
#[case(&["check", "../policies/offline.toml", "--deny-warnings"], 0)]
#[case(&["check", "../policies/coding.toml"], 0)]
#[case(&["check", "../policies/coding.toml", "--deny-warnings"], 0)]
#[case(&["check", "./missing.toml", "../policies/offline.toml"], INVALID)]
#[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1:443"], 0)]
#[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1"], INVALID)]
#[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1", "--protocol", "icmp"], 0)]
#[case(&["explain", "../policies/offline.toml", "--to", "a b:443"], INVALID)]
#[case(&["explain", "nothing", "--to", "1.1.1.1:443"], INVALID)]
#[case(&["explain", "../policies/coding.toml", "pypi.org:443"], 0)]
#[case(&["explain", "../policies/coding.toml", "pypi.org"], INVALID)]
#[case(&["explain", "coding", "pypi.org:443", "--policies", "../policies"], 0)]
#[case(&["check", "coding", "--policies", "../policies"], 0)]
#[case(&["check", "../policies/presets/github.toml"], 0)]
#[case(&["presets"], 0)]
#[case(&["presets", "github"], 0)]
#[case(&["presets", "githb"], INVALID)]
#[case(&["presets", "--json"], 0)]
#[case(&["diff", "../policies/offline.toml", "../policies/coding.toml"], 0)]
#[case(&["diff", "../policies/offline.toml", "./missing.toml"], INVALID)]
#[case(&["schema"], 0)]
fn exit_codes_tell_valid_from_invalid(#[case] args: &[&str], #[case] code: u8) {
    let outcome = agentnet_policy(args);
    assert!(outcome.is(code), "{:?}\n{}\n{}", outcome.code, outcome.out, outcome.err);
    assert!(code == 0 || !outcome.err.is_empty(), "it failed and says nothing");
}

#[test]
fn every_file_is_checked_and_told() {
    let outcome =
        agentnet_policy(&["check", "./missing.toml", "../policies/coding.toml", "../policies/offline.toml"]);
    insta::assert_snapshot!("check_out", outcome.out);
    insta::assert_snapshot!("check_err", outcome.err);
}

#[test]
fn json_is_all_that_standard_output_has() {
    for args in [
        &["check", "--json", "./missing.toml", "../policies/coding.toml", "../policies/offline.toml"][..],
        &["explain", "--json", "../policies/lan-dev.toml", "--to", "10.20.0.7:443"],
        &["explain", "--json", "nothing", "--to", "10.20.0.7:443"],
        &["presets", "--json"],
        &["presets", "--json", "github"],
        &["diff", "--json", "../policies/lan-dev.toml", "../policies/coding.toml"],
        &["diff", "--json", "../policies/lan-dev.toml", "nothing"],
    ] {
        let outcome = agentnet_policy(args);
        assert_eq!(outcome.err, "");
        assert!(!outcome.out.is_empty());
        for line in outcome.out.lines() {
            serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
    }
}

#[test]
fn a_destination_is_given_once() {
    for args in [&["explain", "p"][..], &["explain", "p", "x:1", "--to", "x:1"]] {
        assert!(Cli::try_parse_from([&["policy"], args].concat()).is_err(), "{args:?}");
    }
}

#[test]
fn a_preset_is_shown_with_its_reasons() {
    let shown = agentnet_policy(&["presets", "github"]).out;
    assert_eq!(shown, include_str!("../../../../policies/presets/github.toml"));
    let outcome = agentnet_policy(&["presets", "--json", "ghcr"]);
    insta::assert_json_snapshot!("preset", serde_json::from_str::<serde_json::Value>(&outcome.out).unwrap());
    let unknown = agentnet_policy(&["presets", "githb"]);
    insta::assert_snapshot!("preset_unknown", unknown.err);
    insta::assert_snapshot!("presets", agentnet_policy(&["presets"]).out);
}

#[test]
fn names_are_explained_with_the_preset_that_has_them() {
    let told = |to: &str| agentnet_policy(&["explain", "../policies/coding.toml", to]).out;
    let texts: Vec<_> =
        ["pypi.org:443", "rubygems.org:443", "gist.github.com:443", "www.github.com:443", "example.org:8080"]
            .map(told)
            .into();
    let mut settings = insta::Settings::clone_current();
    // Those of the host that tests it.
    settings.add_filter("the agent asks .* for the name", "the agent asks RESOLVERS for the name");
    settings.bind(|| insta::assert_snapshot!("explain_names", texts.join("\n")));
}

#[test]
fn a_difference_is_told() {
    let outcome = agentnet_policy(&["diff", "../policies/lan-dev.toml", "../policies/offline.toml"]);
    insta::assert_snapshot!("diff", outcome.out);
    let same = agentnet_policy(&["diff", "../policies/coding.toml", "../policies/coding.toml"]);
    assert_eq!(same.out, "both allow the same\n");
}

#[test]
fn an_explanation_has_its_parts() {
    let parts = |args: &[&str]| {
        let local = ["explain", "--json", "--local", "192.0.2.1"];
        let outcome = agentnet_policy(&[&local[..], args].concat());
        serde_json::from_str::<serde_json::Value>(&outcome.out).unwrap()
    };
    insta::assert_json_snapshot!(
        "explain_allow",
        parts(&["../policies/lan-dev.toml", "--to", "10.20.0.7:5432"])
    );
    insta::assert_json_snapshot!(
        "explain_deny",
        parts(&["../policies/lan-dev.toml", "--to", "10.20.0.7:443"])
    );
    let own = parts(&["../policies/lan-dev.toml", "--to", "192.0.2.1:5432"]);
    assert_eq!(own["special"], "an address of this host");
}
