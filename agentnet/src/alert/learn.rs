//! A policy written from what an agent did under audit.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use super::{
    class::{Class, Remedy, reason_from_label},
    model::Destination,
    summary::Summary,
    text::{MAX_COMM, MAX_SENTENCE, clean},
};
use crate::policy::special::is_metadata;

/// What was seen of one address.
#[derive(Default)]
struct Seen {
    /// Ports by protocol as rules name it.
    ports: BTreeMap<&'static str, BTreeSet<u16>>,
    processes: BTreeSet<String>,
    count: u64,
}

/// A policy in TOML that allows what `summary` saw, one `[[egress.allow]]` for each address and set of
/// ports.
///
/// What rules cannot allow is named in comments, and so are cloud metadata services: they hand out the
/// machine's credentials, so that to open one is to be a decision.
pub fn policy(summary: &Summary) -> String {
    let mut seen: BTreeMap<IpAddr, Seen> = BTreeMap::new();
    let mut left_out: BTreeSet<String> = BTreeSet::new();
    let mut listen = None;
    for row in &summary.allowed {
        // What no rule of a file allowed, `[local]` did, and goes on doing.
        if row.policy.line.is_some() {
            let _ = note(&mut seen, &row.destination, &BTreeSet::new(), row.count);
        }
    }
    let mut names = BTreeMap::<&str, u64>::new();
    let mut sockets: BTreeSet<String> = BTreeSet::new();
    for row in &summary.refused {
        if let Some(name) = &row.name {
            match (&row.denied_by, &row.suggestion) {
                (Some(rule), _) => {
                    left_out.insert(format!("{name}: the rule {rule} denies it"));
                }
                (None, Some(rule)) => {
                    // Resolvers ask for one name with several search domains: one rule.
                    let times = names.entry(rule.trim_end()).or_default();
                    *times = times.saturating_add(row.count);
                }
                (None, None) => {
                    left_out.insert(format!("{name}: no rule can allow it ({})", row.reason));
                }
            }
            continue;
        }
        if let Some(socket) = &row.unix {
            if socket.is_harmless() {
                sockets.insert(socket.quoted());
            } else {
                left_out.insert(format!("{socket}: whoever listens there acts outside of any policy"));
            }
            continue;
        }
        let remedy = reason_from_label(&row.reason).map(|reason| Class::of(reason).remedy);
        match (&row.destination, remedy) {
            (Some(peer), Some(Remedy::Listen)) => {
                let wanted = if peer.ip.is_loopback() { "loopback" } else { "any" };
                // "any" includes loopback.
                if listen != Some("any") {
                    listen = Some(wanted);
                }
            }
            (Some(destination), _) if row.denied_by.is_some() => {
                let rule = row.denied_by.as_deref().unwrap_or_default();
                left_out.insert(format!("{destination}: the rule {rule} denies it"));
            }
            // Under audit the ping itself follows, and brings its destination.
            (None, Some(Remedy::Add(_))) => {}
            (Some(destination), Some(Remedy::Rule | Remedy::Add(_) | Remedy::Operator(_)))
                if note(&mut seen, destination, &row.processes, row.count) => {}
            (Some(destination), _) => {
                left_out.insert(format!("{destination}: no rule can allow it ({})", row.reason));
            }
            (None, _) => {
                left_out.insert(format!("{}: no rule can allow it", row.reason));
            }
        }
    }

    let mut toml = String::new();
    let name = toml::Value::String(name(&summary.agent));
    // Writing to a string cannot fail.
    let _ = writeln!(toml, "# Written from what agent {} was seen to do.", clean(&summary.agent, MAX_COMM));
    let _ = writeln!(toml, "# Read every rule before you use it: what is listed here is allowed.");
    if summary.refused_elsewhere + summary.allowed_elsewhere > 0 {
        let _ = writeln!(toml, "# There were more destinations than fit into a summary: this is incomplete.");
    }
    for what in left_out {
        let _ = writeln!(toml, "# Left out: {}", clean(&what, MAX_SENTENCE));
    }
    let _ = writeln!(toml, "version = 1\nname = {name}\nmode = \"enforce\"");
    for (rule, count) in &names {
        let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
        let _ = writeln!(toml, "\n# asked for {times}\n{rule}");
    }
    for (ip, seen) in &seen {
        write_rules(&mut toml, *ip, seen);
    }
    if listen.is_some() || !sockets.is_empty() {
        let _ = writeln!(toml, "\n[local]");
    }
    if let Some(listen) = listen {
        let _ = writeln!(toml, "listen = \"{listen}\"");
    }
    if !sockets.is_empty() {
        let names: Vec<String> = sockets.into_iter().collect();
        let _ = writeln!(toml, "# Unix sockets of others.\nunix_allow = [{}]", names.join(", "));
    }
    toml
}

/// Notes a destination; `false` if no rule can name its protocol.
fn note(
    seen: &mut BTreeMap<IpAddr, Seen>,
    destination: &Destination,
    processes: &BTreeSet<String>,
    count: u64,
) -> bool {
    let (protocol, port) = match (destination.protocol.as_ref(), destination.port) {
        ("tcp", Some(port)) => ("tcp", Some(port)),
        ("udp", Some(port)) => ("udp", Some(port)),
        ("icmp" | "icmpv6", _) => ("icmp", None),
        _ => return false,
    };
    let entry = seen.entry(destination.ip).or_default();
    entry.ports.entry(protocol).or_default().extend(port);
    entry.processes.extend(processes.iter().map(|comm| clean(comm, MAX_COMM)));
    entry.count = entry.count.saturating_add(count);
    true
}

fn write_rules(toml: &mut String, ip: IpAddr, seen: &Seen) {
    // Protocols with the same ports share a rule.
    let mut rules: BTreeMap<&BTreeSet<u16>, Vec<&str>> = BTreeMap::new();
    for (protocol, ports) in &seen.ports {
        rules.entry(ports).or_default().push(protocol);
    }
    let length = if ip.is_ipv4() { 32 } else { 128 };
    let metadata = is_metadata(ip);
    let start = if metadata { "# " } else { "" };
    let times = if seen.count == 1 { "once".to_owned() } else { format!("{} times", seen.count) };
    let mut about = format!("\n# seen {times}");
    if !seen.processes.is_empty() {
        about.push_str(", from ");
        about.push_str(&seen.processes.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    }
    let _ = writeln!(toml, "{about}");
    if metadata {
        let _ =
            writeln!(toml, "# a cloud metadata service, which hands out the machine's credentials: left out");
    }
    for (index, (ports, protocols)) in rules.into_iter().enumerate() {
        if index > 0 {
            let _ = writeln!(toml);
        }
        let _ = writeln!(toml, "{start}[[egress.allow]]\n{start}cidr = \"{ip}/{length}\"");
        if !ports.is_empty() {
            let _ = writeln!(toml, "{start}ports = [{}]", ranges(ports).join(", "));
        }
        let _ = writeln!(toml, "{start}protocols = [\"{}\"]", protocols.join("\", \""));
    }
}

/// Ports as a policy lists them, three or more in a row as a range.
fn ranges(ports: &BTreeSet<u16>) -> Vec<String> {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => runs.push((*port, *port)),
        }
    }
    runs.into_iter()
        .flat_map(|(first, last)| match last - first {
            0 => vec![first.to_string()],
            1 => vec![first.to_string(), last.to_string()],
            _ => vec![format!("\"{first}-{last}\"")],
        })
        .collect()
}

/// A name for the policy: that of the agent, reduced to what a file name and a policy name may hold.
fn name(agent: &str) -> String {
    let name: String = agent
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' })
        .take(MAX_COMM)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "learned".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr};

    use agentnet_common::{
        addr::{Addr, Endpoint, protocol},
        event::{Hook, Outcome},
        verdict::Reason,
    };

    use super::{
        super::{
            summary::{Refused, Summary},
            tests::{event, pipeline, record, start},
        },
        policy,
    };

    #[test]
    fn what_was_seen_becomes_rules_grouped_by_address() {
        let mut pipeline = pipeline();
        for (ip, port, number) in [
            ("203.0.113.7", 443, protocol::TCP),
            ("203.0.113.7", 80, protocol::TCP),
            ("203.0.113.7", 443, protocol::UDP),
            ("203.0.113.7", 80, protocol::UDP),
            ("203.0.113.7", 0, protocol::ICMP),
            ("2001:db8::7", 22, protocol::TCP),
            ("169.254.169.254", 80, protocol::TCP),
            ("203.0.113.9", 0, 47),
            ("203.0.113.66", 443, protocol::TCP),
            ("2001:db8::8", 8080, protocol::TCP),
            ("2001:db8::8", 8081, protocol::TCP),
            ("2001:db8::8", 8082, protocol::TCP),
            ("2001:db8::8", 65535, protocol::TCP),
        ] {
            let mut event = event(ip);
            event.outcome = Outcome::Audited as u8;
            let addr = Addr::from(ip.parse::<IpAddr>().unwrap());
            event.endpoint = Endpoint::new(addr, port, number);
            if number == 47 {
                event.reason = Reason::UnknownProtocol as u8;
            }
            let _ = pipeline.on_record(&record(event), start());
        }
        let mut allowed = event("10.0.0.9");
        (allowed.outcome, allowed.rule) = (Outcome::Allowed as u8, 0);
        let _ = pipeline.on_record(&record(allowed), start());
        let mut into = event("127.0.0.1");
        (into.outcome, into.hook) = (Outcome::Audited as u8, Hook::Ingress as u8);
        into.reason = Reason::ListenDenied as u8;
        let _ = pipeline.on_record(&record(into), start());
        let (_, summary) = pipeline.finish(start());
        let learned = policy(&summary);
        assert!(learned.parse::<toml::Table>().is_ok(), "{learned}");
        insta::assert_snapshot!(learned);
    }

    /// Names become rules for names, once each, whatever a resolver has put behind them.
    #[test]
    fn names_that_were_asked_for_become_rules() {
        let row = |name: &str, denied_by: Option<&str>, suggestion: Option<&str>| Refused {
            name: Some(name.to_owned()),
            destination: None,
            reason: Reason::NameNotAllowed.label().to_owned(),
            audited: true,
            processes: BTreeSet::new(),
            count: 2,
            socket: None,
            option: None,
            unix: None,
            denied_by: denied_by.map(str::to_owned),
            suggestion: suggestion.map(str::to_owned),
        };
        let rule = "[[egress.allow]]\ndomain = \"api.example.com\"\n";
        let summary = Summary {
            agent: "demo".to_owned(),
            refused: vec![
                row("api.example.com", None, Some(rule)),
                row("api.example.com.corp.example", None, Some(rule)),
                row("denied.example", Some("`deny denied.example`"), None),
                row("a\\.b.example", None, None),
            ],
            ..Summary::default()
        };
        insta::assert_snapshot!("learned_names", policy(&summary));
    }
}
