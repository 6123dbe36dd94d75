//! `agentnet policy explain`.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use agentnet_common::{
    abi::MODE_AUDIT,
    addr::{Addr, Endpoint, protocol},
    verdict::{RuleId, Verdict},
};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Directory, Streams};
use crate::{
    agent::resolv,
    exit,
    policy::{
        Policy,
        compile::RuleInfo,
        explain::{Explanation, Near, icmp_for},
    },
};

/// Arguments of `agentnet policy explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// File, or name of a policy.
    policy: String,
    /// Where to: an address or a name with a port, such as 10.20.1.2:5432, `[::1]:80`, api.github.com:443; or a Unix
    /// socket by its path, /run/docker.sock, or its abstract name behind an @.
    #[arg(value_name = "HOST:PORT", required_unless_present = "to", conflicts_with = "to")]
    destination: Option<Destination>,
    /// The same.
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<Destination>,
    #[command(flatten)]
    directory: Directory,
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
    /// A Unix socket, by path or behind an `@`.
    Unix(String),
}

impl std::str::FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix:");
        if let Some(name) = path.or_else(|| text.starts_with(['/', '@']).then_some(text)) {
            return Ok(Self { host: Host::Unix(name.to_owned()), port: None });
        }
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

pub(super) fn explain(args: &ExplainArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let (mut host, _) = resolv::this_host().context("cannot list the addresses of this host")?;
    if !args.local.is_empty() {
        host.local.clone_from(&args.local);
    }
    let policy = match args.directory.load(&args.policy, &host) {
        Ok(policy) => policy,
        Err(problems) => {
            streams.problems(&problems, args.json)?;
            return Ok(ExitCode::from(exit::WRONG_USAGE));
        }
    };
    let explanation = match decide(&policy, args) {
        Ok(explanation) => explanation,
        Err(error) => {
            writeln!(streams.err, "error: {error:#}")?;
            return Ok(ExitCode::from(exit::WRONG_USAGE));
        }
    };
    let audit = policy.compiled.mode == MODE_AUDIT;
    if args.json {
        let line = serde_json::to_string(&line(&explanation, audit))?;
        writeln!(streams.out, "{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(streams.out, "{explanation}")?;
    if let Some(spoken) = &explanation.spoken {
        writeln!(streams.out, "{spoken}")?;
    }
    if let Some(note) = &explanation.note {
        writeln!(streams.out, "note: {note}")?;
    }
    if audit && matches!(explanation.verdict, Verdict::Deny(_)) {
        writeln!(streams.out, "note: the policy is in mode \"audit\": it is reported, and let through")?;
    }
    if let Some(toml) = &explanation.suggestion {
        let copy = if policy.is_built_in() { "a copy of " } else { "" };
        writeln!(streams.out, "to allow it, add to {copy}{}:\n\n{}", policy.file(), toml.trim_end())?;
    }
    if let Some(preset) = explanation.preset {
        writeln!(
            streams.out,
            "\nor, with all that belongs to it, \"{preset}\" to `presets` of [egress]; `agentnet policy presets \
             {preset}` shows what that opens"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn decide<'a>(policy: &'a Policy, args: &ExplainArgs) -> anyhow::Result<Explanation<'a>> {
    let to = args.destination.as_ref().or(args.to.as_ref()).context("there is no HOST:PORT")?;
    let port = match (to.port, args.protocol) {
        (_, Protocol::Icmp) => 0,
        (Some(port), _) => port,
        (None, _) => match &to.host {
            Host::Ip(ip) => bail!("there is no port: write {}", SocketAddr::new(*ip, 443)),
            Host::Name(name) => bail!("there is no port: write {name}:443"),
            Host::Unix(_) => 0,
        },
    };
    let number = |icmp| match args.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Icmp => icmp,
    };
    match &to.host {
        Host::Ip(ip) => {
            let endpoint = Endpoint::new(Addr::from(*ip), port, number(icmp_for(*ip)));
            Ok(policy.explain(&endpoint, policy.scope(*ip)))
        }
        Host::Unix(name) => policy.explain_unix(name).with_context(|| {
            format!("`{}` is not the name of a Unix socket: it has 1 to 108 bytes", name.escape_debug())
        }),
        Host::Name(name) => policy
            .explain_name(name, number(protocol::ICMP), port)
            .with_context(|| format!("`{}` is neither an address nor a domain name", name.escape_debug())),
    }
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
    spoken: Option<SpokenLine>,
    note: Option<&'a str>,
    preset: Option<&'static str>,
    suggestion: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct RuleLine<'a> {
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

/// What has to be spoken.
#[derive(Serialize)]
struct SpokenLine {
    app: &'static str,
    named: bool,
    encrypted: bool,
    sentence: String,
}

impl<'a> From<&'a RuleInfo> for RuleLine<'a> {
    fn from(rule: &'a RuleInfo) -> Self {
        let RuleInfo { id: RuleId(id), text, file, line } = rule;
        Self { id: *id, text, file, line: *line }
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
        spoken: explanation.spoken.map(|spoken| SpokenLine {
            app: spoken.app,
            named: spoken.named,
            encrypted: spoken.encrypted,
            sentence: spoken.to_string(),
        }),
        note: explanation.note.as_deref(),
        preset: explanation.preset,
        suggestion: explanation.suggestion.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::{Destination, Host};

    #[rstest]
    #[case("10.0.0.1:80", Host::Ip("10.0.0.1".parse().unwrap()), Some(80))]
    #[case("10.0.0.1", Host::Ip("10.0.0.1".parse().unwrap()), None)]
    #[case("[::1]:80", Host::Ip("::1".parse().unwrap()), Some(80))]
    #[case("[::1]", Host::Ip("::1".parse().unwrap()), None)]
    #[case("::1", Host::Ip("::1".parse().unwrap()), None)]
    #[case("api.github.com:443", Host::Name("api.github.com".to_owned()), Some(443))]
    #[case("/run/docker.sock", Host::Unix("/run/docker.sock".to_owned()), None)]
    #[case("@name:1", Host::Unix("@name:1".to_owned()), None)]
    #[case("unix:a.sock", Host::Unix("a.sock".to_owned()), None)]
    #[case("localhost", Host::Name("localhost".to_owned()), None)]
    fn a_destination_is_read(#[case] text: &str, #[case] host: Host, #[case] port: Option<u16>) {
        assert_eq!(text.parse(), Ok(Destination { host, port }));
    }

    #[test]
    fn a_wrong_port_is_named() {
        assert_eq!("x:70000".parse::<Destination>(), Err("`70000` is not a port".to_owned()));
    }
}
