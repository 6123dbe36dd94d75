//! [`Valid`] -> [`Compiled`]: rules resolved into what the kernel looks up.

mod grants;
mod lookup;
mod names;
mod nets;

use std::net::IpAddr;

use agentnet_common::{
    abi::{AgentCfg, CFG_ICMP, NameNode, RULESET_ENTRIES, Ruleset},
    addr::{Addr, protocols},
    name::NameKey,
    verdict::{DNS_PORT, RuleId},
};

use self::grants::Findings;
pub use self::lookup::Nets;
use super::{
    diagnostic::{Code, Diagnostic},
    host::Host,
    net::Net,
    resolvers::Resolution,
    selector::Selector,
    source::{Place, Sources},
    validate::{Effect, Rule, Valid},
};
use crate::{detect::action::Actions, kernel::unix::DoorEntry};

/// A policy as the kernel reads it, and what people are told about its rules.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The policy's name.
    pub name: String,
    /// `MODE_ENFORCE` or `MODE_AUDIT` of [`agentnet_common::abi`].
    pub mode: u8,
    /// `[local] loopback`, `LOCAL_*`.
    pub loopback: u8,
    /// `[local] listen`, `LOCAL_*`.
    pub listen: u8,
    /// `CFG_*`.
    pub flags: u8,
    /// Nodes of the network trie; the prefix length counts bits of the 128-bit (mapped) address. Holds
    /// `::/0` always. Sorted by prefix length, then address.
    pub nets: Vec<NetEntry>,
    /// Nodes of the name trie, sorted by the bytes of their keys; at most [`MOST_NAMES`].
    pub names: Vec<(NameKey, NameNode)>,
    /// Unix sockets that are open by name.
    pub doors: Vec<DoorEntry>,
    /// Who is asked for names, and what is tried behind them.
    pub resolution: Resolution,
    /// Which agents the daemon puts under this policy by itself, `[[agents]]`.
    pub agents: Vec<AgentsInfo>,
    /// What is done about findings of detectors, `[detect]`.
    pub detect: Actions,
    /// Where each rule was written, by [`RuleId`]: those of the file in its order, then those of its presets and of
    /// what it extends.
    pub rules: Vec<RuleInfo>,
}

/// A node of the network trie.
#[derive(Clone, Copy, Debug)]
pub struct NetEntry {
    /// The network's address, host bits zero.
    pub addr: Addr,
    /// Prefix length in bits, 0 to 128.
    pub prefix: u8,
    /// What is allowed there.
    pub rules: Ruleset,
}

/// An entry of `[[agents]]`.
#[derive(Clone, Debug)]
pub struct AgentsInfo {
    /// Which agents it is about.
    pub selector: Selector,
    /// Line of the file, from 1.
    pub line: u32,
}

/// A rule as people know it.
#[derive(Clone, Debug)]
pub struct RuleInfo {
    /// Its identifier.
    pub id: RuleId,
    /// One line that says what it allows, such as `10.20.0.0/16 tcp 5432, 8000-8099`, or denies, such as
    /// `deny 10.20.0.1/32 tcp+udp+icmp`.
    pub text: String,
    /// The file it is written in, or the name of a built-in policy.
    pub file: String,
    /// Line of the file, from 1.
    pub line: u32,
}

impl Compiled {
    /// Resolves the rules of `valid`, written in `sources`, for `host`. Problems go to `problems`; what is wrong
    /// because of the rules alone is found on every host.
    pub fn new(valid: &Valid, sources: &Sources, host: &Host, problems: &mut Vec<Diagnostic>) -> Self {
        let mut findings = Findings::default();
        let mut resolution = valid.dns.on(&host.resolution);
        resolution.servers.retain(|server| !denies_queries(valid, *server));
        let nets = nets::compile(valid, &host.local, &resolution.servers, &mut findings);
        let names = names::compile(valid, &resolution.search, &mut findings);
        report(&findings, valid, problems);
        report_shadowed(&findings, valid, problems);
        let icmp = |rule: &Rule| rule.effect == Effect::Allow && rule.protocols & protocols::ICMP != 0;
        Self {
            name: valid.name.clone(),
            mode: valid.mode,
            loopback: valid.loopback,
            listen: valid.listen,
            flags: valid.unix.flags() | if valid.rules.iter().any(icmp) { CFG_ICMP } else { 0 },
            nets,
            names,
            doors: valid.unix.doors(),
            resolution,
            agents: valid
                .agents
                .iter()
                .map(|entry| AgentsInfo {
                    selector: entry.selector.clone(),
                    line: line(sources, &entry.span.clone().into()),
                })
                .collect(),
            detect: valid.detect.clone(),
            rules: valid
                .numbered()
                .map(|(id, rule)| RuleInfo {
                    id,
                    text: rule.to_string(),
                    file: sources.get(rule.place.file).file.clone(),
                    line: line(sources, &rule.place),
                })
                .collect(),
        }
    }

    /// The rule of this identifier; `None` for a reserved one.
    pub fn rule(&self, id: RuleId) -> Option<&RuleInfo> {
        self.rules.get(usize::from(id.0))
    }

    /// The configuration of an agent under this policy, at `slot`.
    pub const fn agent_cfg(&self, agent: u32, slot: u32, generation: u32) -> AgentCfg {
        AgentCfg {
            agent,
            slot,
            generation,
            mode: self.mode,
            loopback: self.loopback,
            listen: self.listen,
            flags: self.flags,
        }
    }
}

/// Whether a rule denies DNS at the address of a resolver: deny wins there too.
fn denies_queries(valid: &Valid, server: IpAddr) -> bool {
    let server = Net::host(server);
    let denies = valid.rules.iter().filter(|rule| rule.effect == Effect::Deny);
    denies
        .filter(|rule| rule.net().is_some_and(|net| net.is_v4() == server.is_v4() && net.contains(server)))
        .any(|rule| {
            let traffic = rule.traffic();
            [protocols::TCP, protocols::UDP].iter().any(|protocol| traffic.contains(*protocol, DNS_PORT))
        })
}

fn line(sources: &Sources, place: &Place) -> u32 {
    u32::try_from(sources.line(place)).unwrap_or(u32::MAX)
}

/// Warns of rules that do not decide what has to be spoken.
fn report_shadowed(findings: &Findings, valid: &Valid, problems: &mut Vec<Diagnostic>) {
    let mut told = None;
    for (id, earlier) in &findings.shadowed {
        let rule = |id: RuleId| valid.rules.get(usize::from(id.0));
        let (Some(rule), Some(earlier)) = (rule(*id), rule(*earlier)) else { continue };
        // What comes from elsewhere is overruled here: that is what the order is for.
        if !rule.is_own() || told.replace(*id) == Some(*id) {
            continue;
        }
        problems.push(
            Diagnostic::new(
                Code::Shadowed,
                rule.place.clone(),
                format!("`{rule}` does not decide what has to be spoken: `{earlier}` comes first"),
            )
            .related(earlier.place.clone(), "decides on the ports that both allow")
            .help("put the rule that is to decide first, or let them be about different ports"),
        );
    }
}

/// Most nodes of the name trie: as many rules as a policy can have, each with one search domain.
pub const MOST_NAMES: usize = 1 << 17;

/// Denies shown with a rule they leave nothing of.
const MOST_RELATED: usize = 3;

fn report(findings: &Findings, valid: &Valid, problems: &mut Vec<Diagnostic>) {
    let mut too_many: Vec<_> = findings.too_many.iter().collect();
    // A rule that does not fit at a network does not fit at many of those inside either.
    too_many.sort_by_key(|(id, _)| *id);
    too_many.dedup_by_key(|(id, _)| *id);
    for (id, place) in too_many {
        let Some(rule) = valid.rules.get(usize::from(id.0)) else { continue };
        problems.push(
            Diagnostic::new(
                Code::TooManyRanges,
                rule.place.clone(),
                format!("more than {RULESET_ENTRIES} ranges of ports come together at {place}"),
            )
            .label("this rule does not fit any more")
            .help("merge ranges, or write rules for narrower networks and names"),
        );
    }
    if let Some(names) = findings.too_many_names {
        problems.push(
            Diagnostic::of_file(
                Code::TooManyNames,
                format!("the names of the rules, each with each search domain, are {names}, and at most {MOST_NAMES} fit"),
            )
            .help("write fewer rules, or list in `search` of [dns] the domains that are needed"),
        );
    }
    for id in &findings.unreachable {
        // What comes from elsewhere may be denied here: that is how one takes a part of it.
        let Some(rule) = valid.rules.get(usize::from(id.0)).filter(|rule| rule.is_own()) else { continue };
        let mut problem = Diagnostic::new(
            Code::Unreachable,
            rule.place.clone(),
            format!("`{rule}` allows nothing: all of it is denied, and deny wins"),
        )
        .help("remove the rule, or deny less");
        let allowed = rule.traffic();
        let denies = valid.rules.iter().filter(|deny| deny.effect == Effect::Deny && deny.speaks_of(rule));
        let guilty = denies.filter(|deny| allowed.minus(&deny.traffic()) != allowed);
        for deny in guilty.take(MOST_RELATED) {
            problem = problem.related(deny.place.clone(), "denied here");
        }
        problems.push(problem);
    }
}
