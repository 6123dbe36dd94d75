//! `[[egress.allow]]` and `[[egress.deny]]`: rules that mean something.

use std::{fmt, net::IpAddr};

use agentnet_common::{
    abi::SPEAKS_HTTP,
    addr::protocols::{ICMP, TCP, UDP},
};
use ipnet::IpNet;
use toml::Spanned;

use crate::policy::{
    diagnostic::{Code, Diagnostic, quote},
    name::Pattern,
    net::Net,
    parse::{Field, PortText, RuleText},
    schema,
    source::{FileId, Place},
    spoken::{Spoken, SpokenText},
    traffic::{PortSet, Traffic},
};

/// Whether a rule allows or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `[[egress.allow]]`.
    Allow,
    /// `[[egress.deny]]`.
    Deny,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// `cidr`.
    Net(Net),
    /// `domain`.
    Name(Pattern),
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether it allows or denies.
    pub effect: Effect,
    /// Whom it is about.
    pub target: Target,
    /// Set of [`agentnet_common::addr::protocols`], not empty.
    pub protocols: u8,
    /// Ports, not empty; without meaning for ICMP.
    pub ports: PortSet,
    /// What has to be spoken there; [`Spoken::ANYTHING`] where it denies, or is about a network.
    pub spoken: Spoken,
    /// Where it is written: its header.
    pub place: Place,
    /// Where its `cidr` or `domain` is written.
    pub target_place: Place,
}

impl Rule {
    /// A rule that denies everything at `pattern`, which stands in `file`.
    pub(in crate::policy) fn deny_all(pattern: Pattern, file: FileId) -> Self {
        let place = Place { file, span: 0..0 };
        Self {
            effect: Effect::Deny,
            target: Target::Name(pattern),
            protocols: TCP | UDP | ICMP,
            ports: PortSet::all(),
            spoken: Spoken::ANYTHING,
            target_place: place.clone(),
            place,
        }
    }

    /// What it is about, without the target.
    pub fn traffic(&self) -> Traffic {
        let traffic = Traffic::new(self.protocols, &self.ports);
        if self.spoken.allows_quic() { traffic.with_udp(&self.tls_ports()) } else { traffic }
    }

    /// The ports on which it asks for TLS, over whichever transport.
    pub fn tls_ports(&self) -> PortSet {
        if self.protocols & (TCP | UDP) == 0 {
            return PortSet::default();
        }
        self.spoken.tls_ports(&self.ports)
    }

    /// The ports on which it asks for TLS over TCP and refuses QUIC, and allows UDP all the same.
    fn contradicted(&self) -> PortSet {
        if self.protocols & UDP == 0 || self.spoken.allows_quic() {
            return PortSet::default();
        }
        self.tls_ports()
    }

    /// With what `[tls]` says of everything it says nothing of itself.
    #[must_use]
    pub(super) fn with_defaults(self, tls: Spoken, problems: &mut Vec<Diagnostic>) -> Self {
        if self.effect == Effect::Deny || self.net().is_some() {
            return self;
        }
        let rule = Self { spoken: self.spoken.or(tls), ..self };
        let contradicted = rule.contradicted();
        if !contradicted.is_empty() {
            problems.push(
                Diagnostic::new(
                    Code::Quic,
                    rule.place.clone(),
                    format!("the rule allows UDP on {contradicted}, which is QUIC, and `quic` is \"deny\""),
                )
                .help(
                    "write quic = \"allow\" for QUIC, app = \"any\" if it is something else, or leave out \"udp\": \
                     clients of HTTP/3 then use TLS over TCP",
                ),
            );
        }
        rule
    }

    /// Whether it is about everything that `other` is about, ports and protocols aside.
    pub fn speaks_of(&self, other: &Self) -> bool {
        match (&self.target, &other.target) {
            (Target::Net(net), Target::Net(other)) => net.covers(*other),
            (Target::Name(name), Target::Name(other)) => name.covers(other),
            _ => false,
        }
    }

    /// Whether it is written in the file that was asked for, and not in one that this file only names.
    pub fn is_own(&self) -> bool {
        self.place.file == FileId::MAIN
    }

    /// The same, written in `file`.
    #[must_use]
    pub(super) const fn in_file(mut self, file: FileId) -> Self {
        self.place.file = file;
        self.target_place.file = file;
        self
    }

    /// Its network, if it has one.
    pub const fn net(&self) -> Option<Net> {
        match self.target {
            Target::Net(net) => Some(net),
            Target::Name(_) => None,
        }
    }

    /// Its name, if it has one.
    pub const fn name(&self) -> Option<&Pattern> {
        match &self.target {
            Target::Net(_) => None,
            Target::Name(name) => Some(name),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => net.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Rule {
    /// `10.20.0.0/16 tcp 5432, 8000-8099`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.effect == Effect::Deny {
            f.write_str("deny ")?;
        }
        write!(f, "{}", self.target)?;
        let words = schema::PROTOCOLS.iter().filter(|choice| self.protocols & choice.code != 0);
        for (index, choice) in words.enumerate() {
            write!(f, "{}{}", if index == 0 { " " } else { "+" }, choice.word)?;
        }
        if self.protocols != ICMP && self.ports != PortSet::all() {
            write!(f, " {}", self.ports)?;
        }
        let spoken = self.spoken.to_string();
        if self.effect == Effect::Deny || self.net().is_some() || spoken.is_empty() {
            return Ok(());
        }
        write!(f, " ({spoken})")
    }
}

pub(super) fn check(effect: Effect, text: &RuleText, problems: &mut Vec<Diagnostic>) -> Option<Rule> {
    // All parts are looked at before one that is wrong ends it.
    let target = check_target(text, problems);
    let ports = check_ports(text, problems);
    let protocols = match &text.protocols {
        Field::Bad => return None,
        Field::Is(set) => *set.get_ref(),
        Field::Absent => match effect {
            Effect::Allow => TCP,
            Effect::Deny if text.ports.is_absent() => TCP | UDP | ICMP,
            Effect::Deny => TCP | UDP,
        },
    };
    if let (Field::Is(ports), ICMP) = (&text.ports, protocols) {
        problems.push(
            Diagnostic::new(Code::PortsWithIcmp, ports.span(), "ICMP has no ports")
                .help("remove `ports`, or add \"tcp\" or \"udp\" to `protocols`"),
        );
        return None;
    }
    let (target, target_place) = target?;
    let ports = match (ports?, &target) {
        (Some(ports), _) => ports,
        (None, _) if effect == Effect::Deny || protocols == ICMP => PortSet::all(),
        (None, Target::Name(_)) => PortSet::of([(443, 443)]),
        (None, Target::Net(net)) => {
            problems.push(
                Diagnostic::new(
                    Code::MissingKey,
                    target_place,
                    format!("the rule for {net} does not say its `ports`"),
                )
                .help("write ports = [443], or ports = [\"1-65535\"] for all"),
            );
            return None;
        }
    };
    let spoken = match (effect, &target) {
        (Effect::Deny, _) => Spoken::ANYTHING,
        (_, Target::Net(net)) => {
            check_nothing_spoken(&text.spoken, *net, &target_place, problems);
            Spoken::ANYTHING
        }
        (_, Target::Name(_)) => check_spoken(&text.spoken, protocols, &ports, problems),
    };
    Some(Rule { effect, target, protocols, ports, spoken, place: text.span.clone().into(), target_place })
}

/// A rule for addresses has no name that what is spoken could be held to.
fn check_nothing_spoken(text: &SpokenText, net: Net, place: &Place, problems: &mut Vec<Diagnostic>) {
    for (key, value) in text.keys() {
        let help = match key {
            "quic" => "for QUIC to these addresses write protocols = [\"tcp\", \"udp\"]".to_owned(),
            _ => format!("remove `{key}`, or write rules with `domain`"),
        };
        problems.push(
            Diagnostic::new(
                Code::NoName,
                value.span(),
                format!("the rule for {net} has no name that `{key}` could hold anybody to"),
            )
            .related(place.clone(), "whatever is spoken to these addresses is allowed")
            .help(help),
        );
    }
}

fn check_spoken(text: &SpokenText, protocols: u8, ports: &PortSet, problems: &mut Vec<Diagnostic>) -> Spoken {
    let spoken = Spoken::from(text);
    let has_tls = protocols & (TCP | UDP) != 0 && !spoken.tls_ports(ports).is_empty();
    for (key, value) in text.keys() {
        let (message, help) = match key {
            "app" if protocols & (TCP | UDP) == 0 => {
                ("the rule is about ICMP, in which no application speaks", "remove `app`")
            }
            "app" if protocols & TCP == 0 && spoken.app == Some(SPEAKS_HTTP) => {
                ("HTTP is spoken over TCP, which the rule does not allow", "add \"tcp\" to `protocols`")
            }
            "sni" | "ech" | "quic" if !has_tls => (
                "there is no TLS on the ports of this rule",
                "remove the key, or write app = \"tls\" if TLS is what has to be spoken there",
            ),
            _ => continue,
        };
        problems.push(
            Diagnostic::new(Code::NoTls, value.span(), format!("`{key}` says nothing here: {message}"))
                .help(help),
        );
    }
    spoken
}

fn check_target(text: &RuleText, problems: &mut Vec<Diagnostic>) -> Option<(Target, Place)> {
    match (&text.cidr, &text.domain) {
        (Field::Absent, Field::Absent) => {
            problems.push(
                Diagnostic::new(Code::Target, text.span.clone(), "the rule does not say whom it is about")
                    .help("write cidr = \"10.20.0.0/16\" or domain = \"example.com\""),
            );
            None
        }
        (Field::Is(cidr), Field::Absent) => {
            let net = check_cidr(cidr, problems)?;
            Some((Target::Net(net), cidr.span().into()))
        }
        (Field::Absent, Field::Is(domain)) => {
            let span = domain.span();
            match Pattern::parse(domain.get_ref()) {
                Ok(pattern) => Some((Target::Name(pattern), span.into())),
                Err(error) => {
                    let message = format!("{} is not a domain name: {error}", quote(domain.get_ref()));
                    let problem = Diagnostic::new(Code::Domain, span, message);
                    problems.push(Diagnostic { help: error.help(), ..problem });
                    None
                }
            }
        }
        (Field::Is(cidr), Field::Is(domain)) => {
            problems.push(
                Diagnostic::new(
                    Code::Target,
                    domain.span(),
                    "a rule has either `cidr` or `domain`, not both",
                )
                .related(cidr.span(), "its network")
                .help("make two rules of it"),
            );
            None
        }
        (Field::Bad, _) | (_, Field::Bad) => None,
    }
}

fn check_cidr(cidr: &Spanned<String>, problems: &mut Vec<Diagnostic>) -> Option<Net> {
    let text = cidr.get_ref();
    let wrong = |message: &str| {
        Diagnostic::new(Code::Cidr, cidr.span(), format!("{} is not a network: {message}", quote(text)))
    };
    let Ok(net) = text.parse::<IpNet>() else {
        problems.push(match text.parse::<IpAddr>() {
            Ok(ip) => wrong("the prefix length is missing")
                .help(format!("write \"{}\" for this address alone", IpNet::from(ip))),
            Err(_) => wrong("it is not in CIDR notation")
                .help("write an address, a slash and a prefix length, such as \"10.20.0.0/16\""),
        });
        return None;
    };
    if net.addr() != net.network() {
        let message = format!("{} has bits set behind its prefix", quote(text));
        let (network, address) = (net.trunc(), IpNet::from(net.addr()));
        problems.push(
            Diagnostic::new(Code::HostBits, cidr.span(), message)
                .help(format!("the network is \"{network}\", the address alone \"{address}\"")),
        );
        return None;
    }
    let mapped = Net::from(net);
    if matches!(net, IpNet::V6(_)) && mapped.is_v4() {
        problems.push(wrong("IPv4 addresses are written as such").help(format!("write \"{mapped}\"")));
        return None;
    }
    Some(mapped)
}

/// `Some(None)`: no `ports` at all. `None`: wrong ones.
fn check_ports(text: &RuleText, problems: &mut Vec<Diagnostic>) -> Option<Option<PortSet>> {
    let ports = match &text.ports {
        Field::Absent => return Some(None),
        Field::Bad => return None,
        Field::Is(ports) => ports.get_ref(),
    };
    let ranges: Vec<_> = ports.iter().map(|port| check_port(port, problems)).collect();
    let ranges: Option<Vec<_>> = ranges.into_iter().collect();
    Some(Some(PortSet::of(ranges?)))
}

/// First and last port, included.
fn check_port(port: &Spanned<PortText>, problems: &mut Vec<Diagnostic>) -> Option<(u16, u16)> {
    let number = |text: &str| {
        // `parse` would take a sign.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port != 0)
    };
    let (text, wrong) = match port.get_ref() {
        PortText::Number(value) => (value.to_string(), format!("{value} is not a port")),
        PortText::Text(text) => {
            (text.clone(), format!("{} is neither a port nor a range of ports", quote(text)))
        }
        PortText::Bad => return None,
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let (message, help) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => return Some((first, last)),
        (Some(first), Some(last)) => {
            (format!("{} is a range backwards", quote(&text)), format!("write \"{last}-{first}\""))
        }
        _ => (wrong, "ports go from 1 to 65535; a range is written \"8000-8099\"".to_owned()),
    };
    problems.push(Diagnostic::new(Code::Port, port.span(), message).help(help));
    None
}
