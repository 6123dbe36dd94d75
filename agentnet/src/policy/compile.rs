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
    verdict::RuleId,
};

use self::grants::Findings;
use super::{
    diagnostic::{Code, Diagnostic, Source},
    selector::Selector,
    validate::{Effect, Rule, Valid},
};
use crate::detect::action::Actions;

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
    /// Nodes of the name trie, sorted by the bytes of their keys.
    pub names: Vec<(NameKey, NameNode)>,
    /// Which agents the daemon puts under this policy by itself, `[[agents]]`.
    pub agents: Vec<AgentsInfo>,
    /// What is done about findings of detectors, `[detect]`.
    pub detect: Actions,
    /// Where each rule was written, by [`RuleId`]: allow and deny rules in the order of the file.
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
    /// Resolves the rules of `valid`, written in `source`, for a host that has the addresses `local`.
    /// Problems go to `problems`; what is wrong because of the rules alone is found on every host.
    pub fn new(valid: &Valid, source: &Source, local: &[IpAddr], problems: &mut Vec<Diagnostic>) -> Self {
        let mut findings = Findings::default();
        let nets = nets::compile(valid, local, &mut findings);
        let names = names::compile(valid, &mut findings);
        report(&findings, valid, problems);
        let icmp = |rule: &Rule| rule.effect == Effect::Allow && rule.protocols & protocols::ICMP != 0;
        Self {
            name: valid.name.clone(),
            mode: valid.mode,
            loopback: valid.loopback,
            listen: valid.listen,
            flags: if valid.rules.iter().any(icmp) { CFG_ICMP } else { 0 },
            nets,
            names,
            agents: valid
                .agents
                .iter()
                .map(|entry| AgentsInfo {
                    selector: entry.selector.clone(),
                    line: line(source, entry.span.start),
                })
                .collect(),
            detect: valid.detect.clone(),
            rules: valid
                .numbered()
                .map(|(id, rule)| RuleInfo {
                    id,
                    text: rule.to_string(),
                    file: source.file.clone(),
                    line: line(source, rule.span.start),
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

fn line(source: &Source, byte: usize) -> u32 {
    u32::try_from(source.line(byte)).unwrap_or(u32::MAX)
}

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
                rule.span.clone(),
                format!("more than {RULESET_ENTRIES} ranges of ports come together at {place}"),
            )
            .label("this rule does not fit any more")
            .help("merge ranges, or write rules for narrower networks and names"),
        );
    }
    for id in &findings.unreachable {
        let Some(rule) = valid.rules.get(usize::from(id.0)) else { continue };
        let mut problem = Diagnostic::new(
            Code::Unreachable,
            rule.span.clone(),
            format!("`{rule}` allows nothing: all of it is denied, and deny wins"),
        )
        .help("remove the rule, or deny less");
        let allowed = rule.traffic();
        let denies = valid.rules.iter().filter(|deny| deny.effect == Effect::Deny && deny.speaks_of(rule));
        let guilty = denies.filter(|deny| allowed.minus(&deny.traffic()) != allowed);
        for deny in guilty.take(MOST_RELATED) {
            problem = problem.related(deny.span.clone(), "denied here");
        }
        problems.push(problem);
    }
}
