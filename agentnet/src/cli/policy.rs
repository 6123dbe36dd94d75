//! `agentnet policy`: check a policy file, explain what it decides.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use agentnet_common::{
    addr::{Addr, Endpoint, protocol},
    verdict::{RuleId, Verdict},
};
use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::policy::{
    Policy,
    compile::RuleInfo,
    diagnostic::{Diagnostics, Severity},
    explain::{Explanation, Near, icmp_for},
    schema,
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
    /// Where to: an address or a name with a port, such as 10.20.1.2:5432, [::1]:80, api.github.com:443.
    #[arg(long, value_name = "HOST:PORT")]
    to: Destination,
    /// Over which protocol; ICMP has no port.
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Take this address for one of the host that the agent runs on; may be given more than once.
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
/// What could not be written to standard output or error.
pub fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        PolicyCommand::Check(args) => check(&args),
        PolicyCommand::Explain(args) => explain(&args),
        PolicyCommand::Schema => {
            anstream::stdout().write_all(schema::json_schema().as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut invalid = false;
    for policy in &args.policies {
        // What is wrong with a file does not depend on the host that it is looked at on.
        match Policy::load(policy, &[]) {
            Ok(policy) => {
                invalid |= args.deny_warnings && !policy.warnings.is_empty();
                print(&policy.warnings, args.json)?;
                if !args.json {
                    writeln!(anstream::stdout(), "{}", summary(&policy))?;
                }
            }
            Err(problems) => {
                invalid = true;
                print(&problems, args.json)?;
                if !args.json {
                    let errors = counted(problems.count(Severity::Error), "error");
                    writeln!(anstream::stderr(), "{}: not valid: {errors}\n", problems.file())?;
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

/// JSON for whoever reads standard output, text for whoever looks at the terminal.
fn print(problems: &Diagnostics, json: bool) -> anyhow::Result<()> {
    if json {
        anstream::stdout().write_all(problems.json_lines().as_bytes())?;
    } else if !problems.is_empty() {
        // The stream takes the colour out again where it is not wanted.
        writeln!(anstream::stderr(), "{}\n", problems.render(true))?;
    }
    Ok(())
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

fn explain(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let policy = match Policy::load(&args.policy, &args.local) {
        Ok(policy) => policy,
        Err(problems) => {
            print(&problems, args.json)?;
            return Ok(ExitCode::from(INVALID));
        }
    };
    let explanation = match decide(&policy, args) {
        Ok(explanation) => explanation,
        Err(error) => {
            writeln!(anstream::stderr(), "error: {error:#}")?;
            return Ok(ExitCode::from(INVALID));
        }
    };
    let audit = policy.compiled.mode == agentnet_common::abi::MODE_AUDIT;
    let mut out = anstream::stdout();
    if args.json {
        let line = line(&explanation, audit);
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "{explanation}")?;
    if let Some(note) = explanation.note {
        writeln!(out, "note: {note}")?;
    }
    if audit && matches!(explanation.verdict, Verdict::Deny(_)) {
        writeln!(out, "note: the policy is in mode \"audit\": it is reported, and let through")?;
    }
    if let Some(toml) = &explanation.suggestion {
        let copy = if policy.is_built_in() { "a copy of " } else { "" };
        writeln!(out, "to allow it, add to {copy}{}:\n\n{}", policy.file(), toml.trim_end())?;
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

    use super::{Destination, ExitCode, Host, PolicyArgs, run};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn agentnet_policy(args: &[&str]) -> ExitCode {
        let cli = Cli::try_parse_from([&["policy"], args].concat()).unwrap();
        run(cli.policy).unwrap()
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

    #[test]
    fn exit_codes_tell_valid_from_invalid() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("broken.toml");
        std::fs::write(&file, "version = 1\nname = \"broken\"\nmood = \"enforce\"\n").unwrap();
        let file = file.to_str().unwrap();
        let code = |args: &[&str]| format!("{:?}", agentnet_policy(args));
        let (success, invalid) =
            (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::from(super::INVALID)));
        assert_eq!(code(&["check", "offline"]), success);
        assert_eq!(code(&["check", "offline", "--deny-warnings"]), success);
        assert_eq!(code(&["check", "coding"]), success);
        assert_eq!(code(&["check", "coding", "--deny-warnings"]), invalid);
        assert_eq!(code(&["check", "offline", file]), invalid);
        assert_eq!(code(&["check", "--json", "./missing.toml"]), invalid);
        assert_eq!(code(&["explain", "offline", "--to", "1.1.1.1:443"]), success);
        assert_eq!(code(&["explain", "offline", "--to", "1.1.1.1"]), invalid);
        assert_eq!(code(&["explain", "offline", "--to", "1.1.1.1", "--protocol", "icmp"]), success);
        assert_eq!(code(&["explain", "offline", "--to", "a b:443"]), invalid);
        assert_eq!(code(&["explain", "nothing", "--to", "1.1.1.1:443", "--json"]), invalid);
        assert_eq!(code(&["schema"]), success);
    }
}
