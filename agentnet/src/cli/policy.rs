//! `agentnet policy`: check a policy file, explain what it decides.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use agentnet_common::{
    abi::MODE_AUDIT,
    addr::{Addr, Endpoint, protocol},
    verdict::{RuleId, Verdict},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    kernel::addrs,
    policy::{
        Policy,
        compile::RuleInfo,
        diagnostic::{Diagnostics, Severity},
        explain::{Explanation, Near, icmp_for},
        schema,
    },
};

/// Exit code of a wrong usage and of an invalid policy.
const INVALID: u8 = 2;

/// Arguments of `agentnet policy`.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

/// What to do with a policy.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Say everything that is wrong with policy files.
    Check(CheckArgs),
    /// Say which rule decides about a destination, or what is missing.
    Explain(ExplainArgs),
    /// Print the JSON Schema of policy files.
    Schema,
}

/// Arguments of `agentnet policy check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Files, or names of policies.
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<String>,
    /// Take warnings for errors.
    #[arg(long)]
    deny_warnings: bool,
    /// Print one JSON object a problem and line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `agentnet policy explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// File, or name of a policy.
    policy: String,
    /// Where to: an address or a name with a port, such as 10.20.1.2:5432, `[::1]:80`, api.github.com:443.
    #[arg(long, value_name = "HOST:PORT")]
    to: Destination,
    /// Over which protocol; ICMP has no port.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Take this for an address of the host that the agent runs on, instead of those of this host; may be
    /// given more than once.
    #[arg(long, value_name = "ADDRESS")]
    local: Vec<IpAddr>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// A protocol that rules can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Protocol {
    #[default]
    Tcp,
    Udp,
    Icmp,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { host: Host::Ip(socket.ip()), port: Some(socket.port()) });
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Self { host: Host::Ip(ip), port: None });
        }
        let Some((name, port)) = text.rsplit_once(':') else {
            return Ok(Self { host: Host::Name(text.to_owned()), port: None });
        };
        let port = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
        Ok(Self { host: Host::Name(name.to_owned()), port: Some(port) })
    }
}

/// Runs `agentnet policy`.
///
/// # Errors
/// What could not be written to standard output or error; that the addresses of this host cannot be listed.
pub fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    // The streams take colour out again where it is not wanted.
    let mut streams = Streams { out: &mut anstream::stdout(), err: &mut anstream::stderr() };
    args.command.run(&mut streams)
}

/// Where to write.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Streams<'_> {
    /// JSON for whoever reads standard output, text for whoever looks at the terminal.
    fn problems(&mut self, problems: &Diagnostics, json: bool) -> io::Result<()> {
        if json {
            self.out.write_all(problems.json_lines().as_bytes())
        } else if problems.is_empty() {
            Ok(())
        } else {
            writeln!(self.err, "{}\n", problems.render(true))
        }
    }
}

impl PolicyCommand {
    fn run(self, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(args) => check(&args, streams),
            Self::Explain(args) => explain(&args, streams),
            Self::Schema => {
                streams.out.write_all(schema::json_schema().as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn check(args: &CheckArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let mut invalid = false;
    for policy in &args.policies {
        // What is wrong with a file does not depend on the host that it is looked at on.
        match Policy::load(policy, &[]) {
            Ok(policy) => {
                invalid |= args.deny_warnings && !policy.warnings.is_empty();
                streams.problems(&policy.warnings, args.json)?;
                if !args.json {
                    writeln!(streams.out, "{}", summary(&policy))?;
                }
            }
            Err(problems) => {
                invalid = true;
                streams.problems(&problems, args.json)?;
                if !args.json {
                    let errors = counted(problems.count(Severity::Error), "error");
                    writeln!(streams.err, "{}: not valid: {errors}", problems.file())?;
                }
            }
        }
    }
    Ok(if invalid { ExitCode::from(INVALID) } else { ExitCode::SUCCESS })
}

fn summary(policy: &Policy) -> String {
    let rules = counted(policy.compiled.rules.len(), "rule");
    match policy.warnings.count(Severity::Warning) {
        0 => format!("{}: valid, {rules}", policy.file()),
        warnings => format!("{}: valid, {rules}, {}", policy.file(), counted(warnings, "warning")),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// An explanation as JSON.
#[derive(Serialize)]
struct ExplanationLine<'a> {
    what: &'a str,
    verdict: &'static str,
    reason: Option<&'static str>,
    mode: &'static str,
    sentence: String,
    rule: Option<RuleLine<'a>>,
    deny_rule: Option<RuleLine<'a>>,
    near: Option<NearLine<'a>>,
    special: Option<&'static str>,
    note: Option<&'static str>,
    suggestion: Option<&'a str>,
}

#[derive(Serialize)]
struct RuleLine<'a> {
    id: u16,
    text: &'a str,
    file: &'a str,
    line: u32,
}

#[derive(Serialize)]
struct NearLine<'a> {
    #[serde(flatten)]
    rule: RuleLine<'a>,
    lacks: &'static str,
}

impl<'a> From<&'a RuleInfo> for RuleLine<'a> {
    fn from(rule: &'a RuleInfo) -> Self {
        let RuleInfo { id: RuleId(id), text, file, line } = rule;
        Self { id: *id, text, file, line: *line }
    }
}

fn explain(args: &ExplainArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let local = if args.local.is_empty() {
        addrs::local_addresses().context("cannot list the addresses of this host")?
    } else {
        args.local.clone()
    };
    let policy = match Policy::load(&args.policy, &local) {
        Ok(policy) => policy,
        Err(problems) => {
            streams.problems(&problems, args.json)?;
            return Ok(ExitCode::from(INVALID));
        }
    };
    let explanation = match decide(&policy, args) {
        Ok(explanation) => explanation,
        Err(error) => {
            writeln!(streams.err, "error: {error:#}")?;
            return Ok(ExitCode::from(INVALID));
        }
    };
    let audit = policy.compiled.mode == MODE_AUDIT;
    if args.json {
        let line = serde_json::to_string(&line(&explanation, audit))?;
        writeln!(streams.out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(streams.out, "{explanation}")?;
    if let Some(note) = explanation.note {
        writeln!(streams.out, "note: {note}")?;
    }
    if audit && matches!(explanation.verdict, Verdict::Deny(_)) {
        writeln!(streams.out, "note: the policy is in mode \"audit\": it is reported, and let through")?;
    }
    if let Some(toml) = &explanation.suggestion {
        let copy = if policy.is_built_in() { "a copy of " } else { "" };
        writeln!(streams.out, "to allow it, add to {copy}{}:\n\n{}", policy.file(), toml.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn decide<'a>(policy: &'a Policy, args: &ExplainArgs) -> anyhow::Result<Explanation<'a>> {
    let port = match (args.to.port, args.protocol) {
        (_, Protocol::Icmp) => 0,
        (Some(port), _) => port,
        (None, _) => match &args.to.host {
            Host::Ip(ip) => bail!("--to has no port: write {}", SocketAddr::new(*ip, 443)),
            Host::Name(name) => bail!("--to has no port: write {name}:443"),
        },
    };
    let number = |icmp| match args.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Icmp => icmp,
    };
    match &args.to.host {
        Host::Ip(ip) => {
            let endpoint = Endpoint::new(Addr::from(*ip), port, number(icmp_for(*ip)));
            Ok(policy.explain(&endpoint, policy.scope(*ip)))
        }
        Host::Name(name) => policy
            .explain_name(name, number(protocol::ICMP), port)
            .with_context(|| format!("`{}` is neither an address nor a domain name", name.escape_debug())),
    }
}

fn line<'a>(explanation: &'a Explanation<'a>, audit: bool) -> ExplanationLine<'a> {
    let (verdict, reason) = match explanation.verdict {
        Verdict::Allow(_) => ("allow", None),
        Verdict::Deny(reason) => ("deny", Some(reason.label())),
    };
    ExplanationLine {
        what: &explanation.what,
        verdict,
        reason,
        mode: if audit { "audit" } else { "enforce" },
        sentence: explanation.to_string(),
        rule: explanation.rule.map(RuleLine::from),
        deny_rule: explanation.deny_rule.map(RuleLine::from),
        near: explanation
            .near
            .map(|Near { rule, lacks }| NearLine { rule: RuleLine::from(rule), lacks: lacks.label() }),
        special: explanation.special,
        note: explanation.note,
        suggestion: explanation.suggestion.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::{Destination, ExitCode, Host, INVALID, PolicyArgs, Streams};

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
        let plain =
            |bytes: &[u8]| String::from_utf8(anstream::adapter::strip_bytes(bytes).into_vec()).unwrap();
        Outcome { out: plain(&out), err: plain(&err), code }
    }

    #[rstest]
    #[case("10.0.0.1:80", Host::Ip("10.0.0.1".parse().unwrap()), Some(80))]
    #[case("10.0.0.1", Host::Ip("10.0.0.1".parse().unwrap()), None)]
    #[case("[::1]:80", Host::Ip("::1".parse().unwrap()), Some(80))]
    #[case("[::1]", Host::Ip("::1".parse().unwrap()), None)]
    #[case("::1", Host::Ip("::1".parse().unwrap()), None)]
    #[case("api.github.com:443", Host::Name("api.github.com".to_owned()), Some(443))]
    #[case("localhost", Host::Name("localhost".to_owned()), None)]
    fn a_destination_is_read(#[case] text: &str, #[case] host: Host, #[case] port: Option<u16>) {
        assert_eq!(text.parse(), Ok(Destination { host, port }));
    }

    #[test]
    fn a_wrong_port_is_named() {
        assert_eq!("x:70000".parse::<Destination>(), Err("`70000` is not a port".to_owned()));
    }

    #[rstest]
    #[case(&["check", "../policies/offline.toml"], 0)]
    #[case(&["check", "../policies/offline.toml", "--deny-warnings"], 0)]
    #[case(&["check", "../policies/coding.toml"], 0)]
    #[case(&["check", "../policies/coding.toml", "--deny-warnings"], INVALID)]
    #[case(&["check", "./missing.toml", "../policies/offline.toml"], INVALID)]
    #[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1:443"], 0)]
    #[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1"], INVALID)]
    #[case(&["explain", "../policies/offline.toml", "--to", "1.1.1.1", "--protocol", "icmp"], 0)]
    #[case(&["explain", "../policies/offline.toml", "--to", "a b:443"], INVALID)]
    #[case(&["explain", "nothing", "--to", "1.1.1.1:443"], INVALID)]
    #[case(&["schema"], 0)]
    fn exit_codes_tell_valid_from_invalid(#[case] args: &[&str], #[case] code: u8) {
        let outcome = agentnet_policy(args);
        assert!(outcome.is(code), "{:?}\n{}\n{}", outcome.code, outcome.out, outcome.err);
        assert!(code == 0 || !outcome.err.is_empty(), "it failed and says nothing");
    }

    #[test]
    fn every_file_is_checked_and_told() {
        let outcome = agentnet_policy(&[
            "check",
            "./missing.toml",
            "../policies/coding.toml",
            "../policies/offline.toml",
        ]);
        insta::assert_snapshot!("check_out", outcome.out);
        insta::assert_snapshot!("check_err", outcome.err);
    }

    #[test]
    fn json_is_all_that_standard_output_has() {
        for args in [
            &["check", "--json", "./missing.toml", "../policies/coding.toml", "../policies/offline.toml"][..],
            &["explain", "--json", "../policies/lan-dev.toml", "--to", "10.20.0.7:443"],
            &["explain", "--json", "nothing", "--to", "10.20.0.7:443"],
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
}
