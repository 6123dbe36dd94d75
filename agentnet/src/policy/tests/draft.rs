//! Random policies and what is asked of them.
//!
//! Each rule and each question is decoded from one number: in a build that is not optimised, drawing them
//! part by part would take longer than everything that is tested.

use std::{
    fmt::{Debug, Write as _},
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
    path::Path,
};

use agentnet_common::{
    abi::{LOCAL_ANY, LOCAL_DENY, LOCAL_OWN, Ruleset},
    addr::{Addr, Endpoint, protocols},
    name::NameKey,
    verdict::{NameTables as _, Scope, Tables as _, Verdict, decide, decide_name, held_to_call},
};
use proptest::{prelude::*, test_runner::TestCaseError};
use toml::Spanned;

use super::scan::{PROTOCOLS, Rule, Said, scan, scan_name, scan_speaks};
use crate::policy::{
    Policy,
    diagnostic::{Code, Diagnostics, Severity, Source},
    host::Host,
    name::Name,
    parse::{Document, Field, PortText, RuleText},
    resolvers::{Resolution, is_unicast},
    schema,
    spoken::SpokenText,
};

/// Around these, addresses and networks are made.
const CENTRES: &[&str] = &[
    "0.0.0.0",
    "10.20.0.1",
    "10.20.3.7",
    "100.100.100.200",
    "127.0.0.1",
    "168.63.129.16",
    "169.254.169.254",
    "192.168.1.1",
    "192.0.2.1",
    "203.0.113.5",
    "203.0.113.129",
    "255.255.255.255",
    "::",
    "::1",
    "64:ff9b::a00:1",
    "2001:db8::1",
    "2001:db8:1::1",
    "2001::1",
    "fd00:ec2::254",
    "fd00:1::1",
    "fe80::1",
    "ff02::1",
];

const PREFIXES_V4: &[u32] = &[0, 1, 8, 9, 16, 24, 25, 30, 31, 32];
const PREFIXES_V6: &[u32] = &[0, 3, 7, 8, 10, 16, 32, 48, 64, 96, 126, 127, 128];

/// Addresses that the host may have.
const LOCAL: &[&str] = &["127.0.0.1", "::1", "10.20.0.1", "203.0.113.5", "2001:db8::1", "fe80::1"];

/// Domains that may be tried behind a name: some are among those that rules are about.
const SEARCH: &[&str] = &["a", "b", "a.b", "b.a.b", "corp.example"];

/// Ports near each other and at the end, so that ranges touch, nest and overlap.
const PORTS: &[u16] = &[1, 2, 3, 4, 5, 6, 7, 80, 443, 443, 443, 8079, 8080, 8443, u16::MAX - 1, u16::MAX];

/// Ports on which TLS is spoken by default.
const TLS: &[u16] = &[443, 853, 8443];

/// IANA numbers, the one most rules are about more often.
const NUMBERS: &[u8] = &[6, 6, 6, 6, 6, 6, 6, 6, 17, 1, 58, 132];

/// Of a hundred rules, those that allow.
const ALLOWING: usize = 85;

/// A number from which choices are taken, each as a digit of its own base.
pub(super) struct Dice(u64);

impl Dice {
    /// 0 to `sides - 1`; always 0 once the number is used up.
    fn roll(&mut self, sides: usize) -> usize {
        let sides = sides as u64;
        let face = self.0 % sides;
        self.0 /= sides;
        face.try_into().unwrap()
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    /// True in `percent` of a hundred cases, in steps of five.
    fn chance(&mut self, percent: usize) -> bool {
        self.roll(20) * 5 < percent
    }

    /// One of `of` in half of the cases.
    fn maybe(&mut self, of: &[&'static str]) -> Option<&'static str> {
        (self.roll(2) == 0).then(|| self.pick(of))
    }

    /// What `[tls]` may say.
    fn tls(&mut self) -> Said {
        Said {
            app: None,
            sni: self.maybe(&["required", "off"]),
            ech: self.maybe(&["deny", "allow"]),
            quic: self.maybe(&["deny", "allow"]),
        }
    }

    fn range(&mut self) -> (u16, u16) {
        let (a, b) = (self.pick(PORTS), self.pick(PORTS));
        (a.min(b), a.max(b))
    }

    /// Addresses at most three away from a centre.
    fn ip(&mut self) -> IpAddr {
        let (centre, low) = (self.pick(CENTRES), self.pick(&[0_u8, 1, 2, 3]));
        match centre.parse().unwrap() {
            IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ u32::from(low)).into(),
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ u128::from(low)).into(),
        }
    }

    fn scope(&mut self) -> Scope {
        match self.roll(10) {
            0 => Scope::OwnListener,
            1 => Scope::ForeignListener,
            _ => Scope::Remote,
        }
    }

    fn name(&mut self) -> String {
        // Two labels are alike in a way that keys must not be confused by: the length of the first is the
        // first character of the second.
        let long = "a".repeat(usize::from(b'0'));
        let labels = ["a", "b", "ba", &format!("0{long}"), &long];
        let count = self.roll(3) + 1;
        (0..count).map(|_| self.pick(&labels)).collect::<Vec<_>>().join(".")
    }
}

/// Whom a rule is about, with the questions that are asked about such rules.
pub(super) trait Target: Clone + Debug + Hash + Sized {
    /// The key of a rule it is written under.
    const KEY: &'static str;
    /// Whether an allow rule has to write its `ports`.
    const PORTS_REQUIRED: bool;
    type Question: Clone + Debug;

    fn draw(dice: &mut Dice) -> Self;
    fn text(&self) -> String;
    /// A question, most often one that one of `rules` is about.
    fn question(rules: &[Rule<Self>], dice: &mut Dice) -> Self::Question;
    fn decide(policy: &Policy, question: &Self::Question) -> Verdict;
    fn scan(draft: &Draft<Self>, question: &Self::Question) -> Verdict;
    /// What the entry that decides asks for, and what it has to.
    fn speaks(policy: &Policy, question: &Self::Question) -> u8;
    fn scan_speaks(draft: &Draft<Self>, question: &Self::Question) -> u8;
}

pub(super) type Network = (IpAddr, u32);

impl Target for Network {
    const KEY: &'static str = "cidr";
    const PORTS_REQUIRED: bool = true;
    type Question = ((IpAddr, u16, u8), Scope);

    fn draw(dice: &mut Dice) -> Self {
        match dice.ip() {
            IpAddr::V4(ip) => {
                let prefix = dice.pick(PREFIXES_V4);
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                (Ipv4Addr::from_bits(ip.to_bits() & mask).into(), prefix)
            }
            IpAddr::V6(ip) => {
                let prefix = dice.pick(PREFIXES_V6);
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                (Ipv6Addr::from_bits(ip.to_bits() & mask).into(), prefix)
            }
        }
    }

    fn text(&self) -> String {
        format!("{}/{}", self.0, self.1)
    }

    fn question(rules: &[Rule<Self>], dice: &mut Dice) -> Self::Question {
        let (first, prefix) = rules[dice.roll(rules.len())].target;
        let ip = match (dice.roll(12), first) {
            (0..=1, _) => dice.ip(),
            (2..=8, first) => first,
            // The last address of the network, the one behind it, and the one in front of it.
            (edge, IpAddr::V4(first)) => {
                let last = first.to_bits() | u32::MAX.checked_shr(prefix).unwrap_or(0);
                let edges = [last, last.wrapping_add(1), first.to_bits().wrapping_sub(1)];
                Ipv4Addr::from_bits(edges[edge - 9]).into()
            }
            (edge, IpAddr::V6(first)) => {
                let last = first.to_bits() | u128::MAX.checked_shr(prefix).unwrap_or(0);
                let edges = [last, last.wrapping_add(1), first.to_bits().wrapping_sub(1)];
                Ipv6Addr::from_bits(edges[edge - 9]).into()
            }
        };
        ((ip.to_canonical(), dice.pick(PORTS), dice.pick(NUMBERS)), dice.scope())
    }

    fn decide(policy: &Policy, &((ip, port, protocol), scope): &Self::Question) -> Verdict {
        let cfg = policy.compiled.agent_cfg(1, 0, 0);
        let endpoint = Endpoint::new(Addr::from(ip), port, protocol);
        held_to_call(decide(&policy.compiled, &cfg, &endpoint, scope), &endpoint)
    }

    fn scan(draft: &Draft<Self>, &(endpoint, scope): &Self::Question) -> Verdict {
        scan(&draft.rules, &draft.local, &draft.servers, draft.loopback, endpoint, scope)
    }

    fn speaks(policy: &Policy, &((ip, port, protocol), _): &Self::Question) -> u8 {
        asked(policy.compiled.net(0, &Addr::from(ip)), protocol, port)
    }

    /// No name, nothing to be held to.
    fn scan_speaks(_: &Draft<Self>, _: &Self::Question) -> u8 {
        0
    }
}

impl Target for String {
    const KEY: &'static str = "domain";
    const PORTS_REQUIRED: bool = false;
    type Question = (Self, u16, u8);

    fn draw(dice: &mut Dice) -> Self {
        match dice.roll(9) {
            0..=3 => dice.name(),
            4..=7 => format!("*.{}", dice.name()),
            _ => "*".to_owned(),
        }
    }

    fn text(&self) -> String {
        self.clone()
    }

    fn question(rules: &[Rule<Self>], dice: &mut Dice) -> Self::Question {
        // The name of a rule, or one below it.
        let pattern = &rules[dice.roll(rules.len())].target;
        let (of_rule, name) = (dice.chance(75), dice.name());
        let name = match pattern.as_str() {
            "*" => name,
            _ if !of_rule => name,
            pattern if pattern.len() + name.len() > 250 => pattern.replace("*.", "x."),
            pattern => pattern.replace('*', &name),
        };
        (name, dice.pick(PORTS), dice.pick(NUMBERS))
    }

    fn decide(policy: &Policy, (name, port, protocol): &Self::Question) -> Verdict {
        let key = NameKey::from_dotted(name).unwrap();
        decide_name(&policy.compiled, 0, &key, *protocol, *port)
    }

    fn scan(draft: &Draft<Self>, (name, port, protocol): &Self::Question) -> Verdict {
        scan_name(&draft.rules, name, *port, *protocol)
    }

    fn speaks(policy: &Policy, (name, port, protocol): &Self::Question) -> u8 {
        let key = NameKey::from_dotted(name).unwrap();
        asked(policy.compiled.name(0, &key).map(|node| node.rules(key.len)), *protocol, *port)
    }

    fn scan_speaks(draft: &Draft<Self>, (name, port, protocol): &Self::Question) -> u8 {
        scan_speaks(&draft.rules, name, *port, *protocol)
    }
}

/// What the entry for a port asks for; 0 where there is none.
fn asked(rules: Option<&Ruleset>, number: u8, port: u16) -> u8 {
    let set = protocols::of(number);
    let mut entries = rules.iter().flat_map(|rules| &rules.rules);
    let is_icmp = set == protocols::ICMP;
    let found = entries
        .find(|entry| entry.protocols & set != 0 && (is_icmp || (entry.first..=entry.last).contains(&port)));
    found.map_or(0, |entry| entry.speaks)
}

impl<T: Target> Rule<T> {
    /// A rule that allows in `allowing` percent of the cases, in a policy whose `[tls]` is `tls`.
    fn draw(dice: &mut Dice, allowing: usize, tls: Said) -> Self {
        let allow = dice.chance(allowing);
        let protocols = dice.chance(50).then(|| {
            let set = dice.roll(7) + 1;
            PROTOCOLS
                .into_iter()
                .enumerate()
                .filter(|(at, _)| set >> at & 1 == 1)
                .map(|(_, word)| word)
                .collect()
        });
        let protocols: Option<Vec<_>> = protocols;
        let only_icmp = protocols.as_deref() == Some(&["icmp"]);
        let written = !only_icmp && (dice.chance(70) || (allow && T::PORTS_REQUIRED));
        let ports = written.then(|| (0..=dice.roll(2)).map(|_| dice.range()).collect());
        let target = T::draw(dice);
        let mut rule = Self { allow, target, protocols, ports, said: Said::default(), tls: Said::default() };
        if allow && T::KEY == "domain" {
            rule.tls = tls;
            rule.said = Said { app: dice.maybe(&["tls", "http", "any"]), ..dice.tls() };
            rule.make_sense();
        }
        rule
    }

    /// Leaves out what would be an error, and allows QUIC where UDP on its ports would be one.
    fn make_sense(&mut self) {
        let over = |word| self.protocols.as_ref().map_or(word == "tcp", |words| words.contains(&word));
        let (tcp, udp) = (over("tcp"), over("udp"));
        if !tcp && (!udp || self.said.app == Some("http")) {
            self.said.app = None;
        }
        let ports = self.ports.as_deref().unwrap_or(&[(443, 443)]);
        let usual =
            || TLS.iter().any(|port| ports.iter().any(|(first, last)| (first..=last).contains(&port)));
        let has_tls = self.said.app.map_or_else(usual, |app| app == "tls") && (tcp || udp);
        if !has_tls {
            self.said = Said { app: self.said.app, ..Said::default() };
        } else if udp && !self.quic() {
            self.said.quic = Some("allow");
        }
    }

    /// As the TOML parser hands it on; `place` stands for where it is written.
    fn document(&self, place: usize) -> RuleText {
        let span = place..place + 1;
        let target = Field::Is(Spanned::new(span.clone(), self.target.text()));
        let (cidr, domain) = if T::KEY == "cidr" { (target, Field::Absent) } else { (Field::Absent, target) };
        let port = |(first, last)| Spanned::new(span.clone(), PortText::Text(format!("{first}-{last}")));
        let ports = self.ports.iter().map(|ports| ports.iter().copied().map(port).collect());
        let set = |words: &Vec<&str>| words.iter().fold(0, |set, word| set | protocol(word));
        let protocols = self.protocols.iter().map(set);
        RuleText {
            cidr,
            domain,
            ports: ports.map(|ports| Field::Is(Spanned::new(span.clone(), ports))).next().unwrap_or_default(),
            protocols: protocols
                .map(|set| Field::Is(Spanned::new(span.clone(), set)))
                .next()
                .unwrap_or_default(),
            spoken: spoken_text(self.said, &span),
            span,
        }
    }
}

fn spoken_text(said: Said, span: &Range<usize>) -> SpokenText {
    let field = |choices: &[schema::Choice], word: Option<&str>| match word {
        Some(word) => Field::Is(Spanned::new(span.clone(), schema::code(choices, word))),
        None => Field::Absent,
    };
    SpokenText {
        app: field(schema::APP, said.app),
        sni: field(schema::SNI, said.sni),
        ech: field(schema::ECH, said.ech),
        quic: field(schema::QUIC, said.quic),
    }
}

impl Said {
    fn toml(&self) -> String {
        let keys = [("app", self.app), ("sni", self.sni), ("ech", self.ech), ("quic", self.quic)];
        let lines = keys.into_iter().filter_map(|(key, word)| Some(format!("{key} = \"{}\"\n", word?)));
        lines.collect()
    }
}

fn protocol(word: &str) -> u8 {
    match word {
        "tcp" => protocols::TCP,
        "udp" => protocols::UDP,
        _ => protocols::ICMP,
    }
}

fn loopback(word: &str) -> u8 {
    match word {
        "own" => LOCAL_OWN,
        "deny" => LOCAL_DENY,
        _ => LOCAL_ANY,
    }
}

/// A policy and the host it is for.
#[derive(Clone, Debug, Hash)]
pub(super) struct Draft<T> {
    pub(super) rules: Vec<Rule<T>>,
    local: Vec<IpAddr>,
    loopback: &'static str,
    tls: Said,
    /// Who is asked for names.
    pub(super) servers: Vec<IpAddr>,
    /// What is tried behind them.
    pub(super) search: Vec<&'static str>,
}

/// How a [`Draft`] becomes a policy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// As the text of a file: all of the front end is in between.
    Text,
    /// Past the TOML parser, which is most of the time.
    Document,
}

impl<T: Target> Draft<T> {
    /// The text of its file.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "version = {}\nname = \"random\"\nlocal = {{ loopback = \"{}\" }}\n",
            schema::VERSION,
            self.loopback
        );
        write!(text, "[tls]\n{}", self.tls.toml()).unwrap();
        for rule in &self.rules {
            let header = if rule.allow { "allow" } else { "deny" };
            writeln!(text, "[[egress.{header}]]\n{} = \"{}\"", T::KEY, rule.target.text()).unwrap();
            if let Some(protocols) = &rule.protocols {
                writeln!(text, "protocols = {protocols:?}").unwrap();
            }
            if let Some(ports) = &rule.ports {
                let ports: Vec<_> = ports.iter().map(|(first, last)| format!("\"{first}-{last}\"")).collect();
                writeln!(text, "ports = [{}]", ports.join(", ")).unwrap();
            }
            text.push_str(&rule.said.toml());
        }
        text
    }

    fn host(&self) -> Host {
        let search = self.search.iter().map(|name| Name::parse(name).unwrap()).collect();
        Host { local: self.local.clone(), resolution: Resolution { servers: self.servers.clone(), search } }
    }

    fn past_parser(&self) -> Result<Policy, Diagnostics> {
        let (allow, deny): (Vec<_>, Vec<_>) = self.rules.iter().enumerate().partition(|(_, rule)| rule.allow);
        let texts = |rules: Vec<(usize, &Rule<T>)>| {
            rules.into_iter().map(|(place, rule)| rule.document(place)).collect()
        };
        let document = Document {
            version: Field::Is(Spanned::new(0..0, schema::VERSION.into())),
            name: Field::Is(Spanned::new(0..0, "random".to_owned())),
            loopback: Field::Is(Spanned::new(0..0, loopback(self.loopback))),
            tls: spoken_text(self.tls, &(0..0)),
            allow: texts(allow),
            deny: texts(deny),
            ..Document::default()
        };
        let source = Source::new("random.toml", "");
        Policy::from_document(Path::new(""), source, document, &self.host(), Vec::new())
    }

    /// The same with `rule` at `place`.
    pub(super) fn with(&self, place: usize, rule: Rule<T>) -> Self {
        let mut draft = self.clone();
        draft.rules.insert(place, rule);
        draft
    }

    /// The same with its rules in another order.
    pub(super) fn shuffled(&self, order: u64) -> Self {
        let (mut draft, mut dice) = (self.clone(), Dice(order));
        for at in (1..draft.rules.len()).rev() {
            draft.rules.swap(at, dice.roll(at + 1));
        }
        draft
    }

    /// The policy. A few have more ranges at one place than fit: `None`.
    pub(super) fn policy(&self, way: Way) -> Result<Option<Policy>, TestCaseError> {
        let policy = match way {
            Way::Text => Policy::read_from(Path::new(""), "random.toml", &self.text(), &self.host()),
            Way::Document => self.past_parser(),
        };
        match policy {
            Ok(policy) => Ok(Some(policy)),
            Err(problems) => {
                let mut errors =
                    problems.items().iter().filter(|problem| problem.severity() == Severity::Error);
                prop_assert!(errors.all(|problem| problem.code == Code::TooManyRanges), "{problems}");
                Ok(None)
            }
        }
    }
}

/// A policy with questions.
#[derive(Clone, Debug)]
pub(super) struct Case<T: Target> {
    pub(super) draft: Draft<T>,
    pub(super) questions: Vec<T::Question>,
    /// A rule that is not in it, and where it would be.
    pub(super) another: Rule<T>,
    pub(super) place: usize,
    /// Picks another order of its rules.
    pub(super) order: u64,
}

/// Cases with `questions` questions each.
pub(super) fn any_case<T: Target>(questions: usize) -> impl Strategy<Value = Case<T>> {
    let numbers = |count| prop::collection::vec(any::<u64>(), count);
    (prop::collection::vec(any::<u64>(), 2..10), numbers(questions), numbers(4)).prop_map(
        |(rules, questions, more)| {
            let tls = Dice(more[3]).tls();
            let rule = |&number: &u64| Rule::draw(&mut Dice(number), ALLOWING, tls);
            let mut host = Dice(more[0]);
            let local = LOCAL.iter().filter(|_| host.chance(25)).map(|ip| ip.parse().unwrap()).collect();
            let draft = Draft {
                rules: rules.iter().map(rule).collect(),
                local,
                loopback: host.pick(&["own", "deny", "any"]),
                tls,
                servers: (0..host.roll(3))
                    .map(|_| host.ip().to_canonical())
                    .filter(|ip| is_unicast(*ip))
                    .collect(),
                search: (0..host.roll(3)).map(|_| host.pick(SEARCH)).collect(),
            };
            // As many denies as allows.
            let another = Rule::draw(&mut Dice(more[1]), 50, tls);
            let place = host.roll(draft.rules.len() + 1);
            let all = draft.with(place, another.clone()).rules;
            let questions = questions.iter().map(|&number| T::question(&all, &mut Dice(number))).collect();
            Case { draft, questions, another, place, order: more[2] }
        },
    )
}
