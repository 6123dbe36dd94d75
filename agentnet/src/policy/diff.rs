//! What one policy allows and another does not.
//!
//! Compared is what the kernel is given, node by node: rules that are written differently and mean the same are no
//! difference. On no host in particular.

use std::{collections::BTreeMap, fmt};

use agentnet_common::{
    abi::{
        CFG_UNIX_ANY, LOCAL_ANY, LOCAL_DENY, MODE_AUDIT, PortRule, Ruleset, SPEAKS_ECH, SPEAKS_HTTP,
        SPEAKS_TLS, SPEAKS_UNNAMED,
    },
    addr::protocols,
    verdict::{NameTables as _, RuleId},
};

use super::{
    Policy,
    compile::{Compiled, RuleInfo},
    name::Pattern,
    net::Net,
    schema,
    traffic::{PortSet, Traffic},
};

/// Whether more or less is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It was refused, and is allowed.
    Opens,
    /// It was allowed, and is refused.
    Closes,
    /// It stays as it was, although what is around it changes.
    Stays,
}

impl Effect {
    /// A stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Opens => "opens",
            Self::Closes => "closes",
            Self::Stays => "stays",
        }
    }
}

/// A difference.
#[derive(Clone, Debug)]
pub struct Change {
    /// More or less.
    pub effect: Effect,
    /// Where: a name, names, a network, or a key of the policy.
    pub target: String,
    /// What may be sent there, or the key's value before and after.
    pub what: String,
    /// The rule that allows it, in the policy that does.
    pub rule: Option<RuleInfo>,
}

/// What is allowed in each policy at one place.
#[derive(Clone, Default, PartialEq, Eq)]
struct Delta {
    opened: Traffic,
    closed: Traffic,
    /// Ports over TCP that are allowed before and after, by what had to be spoken and what has to be.
    spoken: Vec<(u8, u8, PortSet)>,
}

impl Delta {
    fn new(before: &Ruleset, after: &Ruleset) -> Self {
        let allowed = |rules: &Ruleset| Traffic::of(entries(rules));
        let spoken = respoken(before, after);
        let (before, after) = (allowed(before), allowed(after));
        Self { opened: after.minus(&before), closed: before.minus(&after), spoken }
    }

    fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.closed.is_empty() && self.spoken.is_empty()
    }
}

/// What of TCP is allowed twice and has to be something else.
fn respoken(before: &Ruleset, after: &Ruleset) -> Vec<(u8, u8, PortSet)> {
    let tcp = |rules: &Ruleset| -> BTreeMap<u8, PortSet> {
        let mut by_speech: BTreeMap<u8, Vec<(u16, u16)>> = BTreeMap::new();
        for entry in entries(rules).filter(|entry| entry.protocols & protocols::TCP != 0) {
            by_speech.entry(entry.speaks).or_default().push((entry.first, entry.last));
        }
        by_speech.into_iter().map(|(speaks, ranges)| (speaks, PortSet::of(ranges))).collect()
    };
    let (before, after) = (tcp(before), tcp(after));
    let mut changed = Vec::new();
    for (was, ports_before) in &before {
        for (is, ports_after) in after.iter().filter(|(is, _)| *is != was) {
            let both = ports_before.and(ports_after);
            if !both.is_empty() {
                changed.push((*was, *is, both));
            }
        }
    }
    changed
}

/// Whether what is spoken may be more than it might be before: anything instead of something, or TLS that says less.
const fn says_less(was: u8, is: u8) -> bool {
    let apps = SPEAKS_TLS | SPEAKS_HTTP;
    if was & apps == is & apps {
        let lenient = SPEAKS_UNNAMED | SPEAKS_ECH;
        // Less of one and more of the other opens something, too.
        return is & lenient & !was != 0;
    }
    // HTTP is not what TLS was, and can be read by whoever is on the way.
    is & apps == 0 || was & SPEAKS_TLS != 0
}

/// What has to be spoken, in the words of rules.
fn speech(speaks: u8) -> String {
    let app = schema::word(schema::APP, speaks & (SPEAKS_TLS | SPEAKS_HTTP)).unwrap_or("any");
    let sni = if speaks & SPEAKS_UNNAMED != 0 { ", sni off" } else { "" };
    let ech = if speaks & SPEAKS_ECH != 0 { ", ech allow" } else { "" };
    format!("(app {app}{sni}{ech})")
}

/// The differences from `before` to `after`: keys, then networks, then names.
pub fn diff(before: &Policy, after: &Policy) -> Vec<Change> {
    let mut changes = Vec::new();
    keys(before, after, &mut changes);
    networks(&before.compiled, &after.compiled, &mut changes);
    names(before, after, &mut changes);
    changes
}

fn keys(before: &Policy, after: &Policy, changes: &mut Vec<Change>) {
    let (before, after) = (&before.compiled, &after.compiled);
    let mut key = |table: &schema::Table, name: &str, before: u8, after: u8, is_wider: fn(u8) -> u8| {
        let Some(schema::Kind::Choice(choices)) = table.key(name).map(|key| &key.kind) else { return };
        let word = |code| choices.iter().find(|choice| choice.code == code).map_or("?", |choice| choice.word);
        if before != after {
            let wider = is_wider(after) > is_wider(before);
            changes.push(Change {
                effect: if wider { Effect::Opens } else { Effect::Closes },
                target: format!("`{name}`"),
                what: format!("\"{}\", and was \"{}\"", word(after), word(before)),
                rule: None,
            });
        }
    };
    key(&schema::POLICY, "mode", before.mode, after.mode, |mode| u8::from(mode == MODE_AUDIT));
    key(&schema::LOCAL, "loopback", before.loopback, after.loopback, |code| code);
    key(&schema::LOCAL, "listen", before.listen, after.listen, |code| code);
    let unix = |flags: u8| if flags & CFG_UNIX_ANY == 0 { LOCAL_DENY } else { LOCAL_ANY };
    key(&schema::LOCAL, "unix", unix(before.flags), unix(after.flags), |code| u8::from(code == LOCAL_ANY));
    lists("Unix socket", &before.doors, &after.doors, changes);
    lists("resolver", &before.resolution.servers, &after.resolution.servers, changes);
    lists("search domain", &before.resolution.search, &after.resolution.search, changes);
}

fn lists<T: PartialEq + fmt::Display>(what: &str, before: &[T], after: &[T], changes: &mut Vec<Change>) {
    let mut only_in = |effect, list: &[T], other: &[T]| {
        changes.extend(list.iter().filter(|item| !other.contains(item)).map(|item| Change {
            effect,
            target: item.to_string(),
            what: format!("as a {what}"),
            rule: None,
        }));
    };
    only_in(Effect::Opens, after, before);
    only_in(Effect::Closes, before, after);
}

fn networks(before: &Compiled, after: &Compiled, changes: &mut Vec<Change>) {
    let nodes = |compiled: &Compiled| -> BTreeMap<Net, Ruleset> {
        compiled.nets.iter().map(|entry| (Net::of(entry.addr, entry.prefix), entry.rules)).collect()
    };
    let (old, new) = (nodes(before), nodes(after));
    let mut all: Vec<Net> = old.keys().chain(new.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    // As where they are compiled: a network comes behind those it is in.
    let mut stack: Vec<(Net, Delta)> = Vec::new();
    for net in all {
        while stack.last().is_some_and(|(outer, _)| !outer.contains(net)) {
            stack.pop();
        }
        let around = stack.last().filter(|(outer, _)| outer.is_v4() == net.is_v4());
        let around = around.map(|(_, delta)| delta.clone()).unwrap_or_default();
        let (was, is) = (at(&old, net), at(&new, net));
        let delta = Delta::new(&was, &is);
        tell(&net.to_string(), &delta, &around, (before, &was), (after, &is), changes);
        stack.push((net, delta));
    }
}

/// What holds in a network: the innermost node that holds all of it.
fn at(nodes: &BTreeMap<Net, Ruleset>, net: Net) -> Ruleset {
    let around = (0..=net.prefix()).rev().map(|prefix| Net::of(net.addr(), prefix));
    around.filter_map(|outer| nodes.get(&outer)).next().copied().unwrap_or_default()
}

fn names(before: &Policy, after: &Policy, changes: &mut Vec<Change>) {
    let patterns = |policy: &Policy| -> Vec<Pattern> {
        policy.valid.rules.iter().filter_map(|rule| rule.name().cloned()).collect()
    };
    let mut all: BTreeMap<Vec<u8>, Pattern> = BTreeMap::new();
    for pattern in patterns(before).into_iter().chain(patterns(after)) {
        all.entry(pattern.key().as_bytes().to_vec()).or_insert(pattern);
    }
    let (old, new) = (&before.compiled, &after.compiled);
    let mut stack: Vec<(Vec<u8>, Delta)> = Vec::new();
    for (bytes, pattern) in all {
        while stack.last().is_some_and(|(above, _)| !bytes.starts_with(above)) {
            stack.pop();
        }
        let above = stack.last().map(|(_, delta)| delta.clone()).unwrap_or_default();
        let key = pattern.key();
        let rules = |compiled: &Compiled, is_below: bool| {
            compiled.name(0, &key).map_or_else(Ruleset::default, |node| {
                if node.len as usize == key.len && !is_below { node.this } else { node.below }
            })
        };
        if !pattern.base().is_empty() {
            let (was, is) = (rules(old, false), rules(new, false));
            let delta = Delta::new(&was, &is);
            tell(pattern.base(), &delta, &above, (old, &was), (new, &is), changes);
        }
        let (was, is) = (rules(old, true), rules(new, true));
        let delta = Delta::new(&was, &is);
        let below = if pattern.base().is_empty() { "*".to_owned() } else { format!("*.{}", pattern.base()) };
        tell(&below, &delta, &above, (old, &was), (new, &is), changes);
        stack.push((bytes, delta));
    }
}

/// Tells a difference, unless it is that of what is `around`.
fn tell(
    target: &str,
    delta: &Delta,
    around: &Delta,
    (before, was): (&Compiled, &Ruleset),
    (after, is): (&Compiled, &Ruleset),
    changes: &mut Vec<Change>,
) {
    if delta == around {
        return;
    }
    let mut change = |effect, traffic: &Traffic, rule: Option<&RuleInfo>| {
        let (target, what) = (target.to_owned(), traffic.to_string());
        changes.push(Change { effect, target, what, rule: rule.cloned() });
    };
    if delta.is_empty() {
        // Without its surroundings it would seem to be changed with them.
        return change(Effect::Stays, &Traffic::default(), None);
    }
    if !delta.opened.is_empty() {
        change(Effect::Opens, &delta.opened, rule_of(after, is, &delta.opened));
    }
    if !delta.closed.is_empty() {
        change(Effect::Closes, &delta.closed, rule_of(before, was, &delta.closed));
    }
    for (was, now, ports) in &delta.spoken {
        let traffic = Traffic::new(protocols::TCP, ports);
        changes.push(Change {
            effect: if says_less(*was, *now) { Effect::Opens } else { Effect::Closes },
            target: target.to_owned(),
            what: format!("{traffic} {}, and was {}", speech(*now), speech(*was)),
            rule: rule_of(after, is, &traffic).cloned(),
        });
    }
}

fn entries(rules: &Ruleset) -> impl Iterator<Item = PortRule> {
    rules.rules.iter().copied().take(usize::from(rules.len))
}

/// The first rule behind some of `traffic`.
fn rule_of<'a>(compiled: &'a Compiled, rules: &Ruleset, traffic: &Traffic) -> Option<&'a RuleInfo> {
    let behind = entries(rules).filter(|entry| traffic.minus(&Traffic::of([*entry])) != *traffic);
    let first = behind.map(|entry| RuleId(entry.rule)).min()?;
    compiled.rule(first)
}

impl fmt::Display for Change {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6}  {}", self.effect.label(), self.target)?;
        if !self.what.is_empty() {
            write!(f, " {}", self.what)?;
        }
        match &self.rule {
            Some(rule) => write!(f, "  by {rule}"),
            None => Ok(()),
        }
    }
}
