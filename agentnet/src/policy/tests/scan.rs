//! A plain scan of all rules of a policy, written from docs/policy.md.
//!
//! It shares no code with the compiler: it has rules, networks, special-purpose networks and names of its
//! own.

use std::{net::IpAddr, sync::LazyLock};

use agentnet_common::verdict::{Reason, RuleId, Scope, Verdict};

/// Networks that a rule has to name; the second column says which are this host.
pub(super) const SPECIAL: &[(&str, bool)] = &[
    ("0.0.0.0/8", false),
    ("0.0.0.0/32", true),
    ("10.0.0.0/8", false),
    ("100.64.0.0/10", false),
    ("100.100.100.200/32", false),
    ("127.0.0.0/8", true),
    ("168.63.129.16/32", false),
    ("169.254.0.0/16", false),
    ("169.254.42.42/32", false),
    ("169.254.169.254/32", false),
    ("169.254.170.2/32", false),
    ("169.254.170.23/32", false),
    ("172.16.0.0/12", false),
    ("192.0.0.0/24", false),
    ("192.0.0.192/32", false),
    ("192.168.0.0/16", false),
    ("224.0.0.0/4", false),
    ("240.0.0.0/4", false),
    ("255.255.255.255/32", false),
    ("::/96", false),
    ("::/128", true),
    ("::1/128", true),
    ("64:ff9b::/96", false),
    ("64:ff9b:1::/48", false),
    ("2001::/32", false),
    ("2002::/16", false),
    ("fc00::/7", false),
    ("fd00:42::42/128", false),
    ("fd00:ec2::23/128", false),
    ("fd00:ec2::254/128", false),
    ("fd20:ce::254/128", false),
    ("fe80::/10", false),
    ("fe80::a9fe:a9fe/128", false),
    ("fec0::/10", false),
    ("ff00::/8", false),
];

static PARSED: LazyLock<Vec<((IpAddr, u32), bool)>> =
    LazyLock::new(|| SPECIAL.iter().map(|(net, is_local)| (parse_net(net), *is_local)).collect());

pub(super) const PROTOCOLS: [&str; 3] = ["tcp", "udp", "icmp"];

/// `app`, `sni`, `ech` and `quic` as written.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Said {
    pub(super) app: Option<&'static str>,
    pub(super) sni: Option<&'static str>,
    pub(super) ech: Option<&'static str>,
    pub(super) quic: Option<&'static str>,
}

#[derive(Clone, Debug, Hash)]
pub(super) struct Rule<T> {
    pub(super) allow: bool,
    pub(super) target: T,
    /// `None`: not written.
    pub(super) protocols: Option<Vec<&'static str>>,
    /// `None`: not written.
    pub(super) ports: Option<Vec<(u16, u16)>>,
    pub(super) said: Said,
    /// What `[tls]` says to all rules by name that allow.
    pub(super) tls: Said,
}

impl<T> Rule<T> {
    /// `tls`, `http` or `any`.
    fn app(&self, port: u16) -> &'static str {
        self.said.app.unwrap_or(match port {
            443 | 853 | 8443 => "tls",
            80 | 8080 => "http",
            _ => "any",
        })
    }

    pub(super) fn quic(&self) -> bool {
        self.said.quic.or(self.tls.quic) == Some("allow")
    }

    /// What a TCP connection has to speak: the sum of 1 for TLS, 2 for HTTP, 4 where TLS needs no name, 8 where
    /// its name may be hidden.
    fn speaks(&self, port: u16) -> u8 {
        match self.app(port) {
            "tls" => {
                let unnamed = self.said.sni.or(self.tls.sni) == Some("off");
                let hidden = self.said.ech.or(self.tls.ech) == Some("allow");
                1 + 4 * u8::from(unnamed) + 8 * u8::from(hidden)
            }
            "http" => 2,
            _ => 0,
        }
    }

    fn matches(&self, protocol: &str, port: u16, default_ports: &[(u16, u16)]) -> bool {
        let default = if self.allow { default_ports } else { &[(0, u16::MAX)] };
        let ports = self.ports.as_deref().unwrap_or(default);
        let here = || ports.iter().any(|&(first, last)| (first..=last).contains(&port));
        let default_protocols: &[&str] = match (self.allow, &self.ports) {
            (true, _) => &["tcp"],
            (false, None) => &["tcp", "udp", "icmp"],
            (false, Some(_)) => &["tcp", "udp"],
        };
        let protocols = self.protocols.as_deref().unwrap_or(default_protocols);
        if self.allow && protocol == "udp" && self.quic() && protocols != ["icmp"] {
            return here() && (self.app(port) == "tls" || protocols.contains(&"udp"));
        }
        protocols.contains(&protocol) && (protocol == "icmp" || here())
    }
}

fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}

/// Whether `ip` is of the family of `network` and has its first `prefix` bits.
fn inside(ip: IpAddr, (network, prefix): (IpAddr, u32)) -> bool {
    let ((ip_bits, width), (network_bits, _)) = (bits(ip), bits(network));
    let same =
        |shift| ip_bits.checked_shr(shift).unwrap_or(0) == network_bits.checked_shr(shift).unwrap_or(0);
    ip.is_ipv4() == network.is_ipv4() && same(width - prefix)
}

fn parse_net(text: &str) -> (IpAddr, u32) {
    let (ip, prefix) = text.split_once('/').unwrap();
    (ip.parse().unwrap(), prefix.parse().unwrap())
}

fn protocol_name(number: u8) -> Option<&'static str> {
    match number {
        1 | 58 => Some("icmp"),
        6 => Some("tcp"),
        17 => Some("udp"),
        _ => None,
    }
}

/// The rules that speak about one place, as a person would go through them.
struct Scan<'a, T> {
    allows: Vec<(usize, &'a Rule<T>)>,
    denies: Vec<&'a Rule<T>>,
    default_ports: &'static [(u16, u16)],
}

impl<T> Scan<'_, T> {
    fn allowed_by(&self, protocol: &str, port: u16) -> Option<usize> {
        if self.denies.iter().any(|rule| rule.matches(protocol, port, self.default_ports)) {
            return None;
        }
        let mut allows = self.allows.iter();
        allows.find(|(_, rule)| rule.matches(protocol, port, self.default_ports)).map(|(at, _)| *at)
    }

    /// Whether anything at all is allowed.
    fn allows_something(&self) -> bool {
        let rules = self.allows.iter().map(|(_, rule)| *rule).chain(self.denies.iter().copied());
        somewhere(rules, |protocol, port| self.allowed_by(protocol, port).is_some())
    }
}

/// Whether something holds at some protocol and port: where it does, it begins or ends at the end of a range.
fn somewhere<'a, T: 'a>(rules: impl Iterator<Item = &'a Rule<T>>, holds: impl Fn(&str, u16) -> bool) -> bool {
    let ends = rules.flat_map(|rule| rule.ports.iter().flatten()).flat_map(|&(first, last)| [first, last]);
    let mut near: Vec<u16> =
        ends.flat_map(|end| [end.saturating_sub(1), end, end.saturating_add(1)]).collect();
    near.extend([1, 80, 443, 853, 8080, 8443, u16::MAX]);
    near.iter().any(|port| PROTOCOLS.iter().any(|protocol| holds(protocol, *port)))
}

/// Whether queries to a resolver at `ip` are denied.
pub(super) fn denies_queries(rules: &[Rule<(IpAddr, u32)>], ip: IpAddr) -> bool {
    rules
        .iter()
        .filter(|rule| !rule.allow && inside(ip, rule.target))
        .any(|rule| ["tcp", "udp"].iter().any(|word| rule.matches(word, 53, &[])))
}

/// docs/policy.md, read out loud.
pub(super) fn scan(
    rules: &[Rule<(IpAddr, u32)>],
    local: &[IpAddr],
    servers: &[IpAddr],
    loopback: &str,
    (ip, port, protocol): (IpAddr, u16, u8),
    scope: Scope,
) -> Verdict {
    if loopback != "deny" && scope == Scope::OwnListener {
        return Verdict::Allow(RuleId::OWN_LISTENER);
    }
    if loopback == "any" && scope == Scope::ForeignListener {
        return Verdict::Allow(RuleId::ANY_LISTENER);
    }
    let loopback_net = |ip| PARSED.iter().any(|(net, is_local)| *is_local && inside(ip, *net));
    let own = local.iter().filter(|ip| !loopback_net(**ip)).map(|ip| ((*ip, bits(*ip).1), true));
    let table = PARSED.iter().copied();
    let special = table.chain(own).filter(|(net, _)| inside(ip, *net)).max_by_key(|((_, prefix), _)| *prefix);
    let names = |prefix: u32| special.is_none_or(|((_, special), _)| prefix >= special);
    let on_this_host = scope != Scope::Remote;
    // Queries for names: what is in them is judged elsewhere.
    let word = protocol_name(protocol);
    let transport = |word: &str| matches!(word, "tcp" | "udp");
    let resolver = word.is_some_and(transport) && servers.contains(&ip) && !denies_queries(rules, ip);
    // A resolver is asked for names, and whatever else there is on its host is nobody's business.
    let asked = if port == 53 { Verdict::Allow(RuleId::RESOLVER) } else { Verdict::Deny(Reason::NoRule) };
    if on_this_host && !special.is_some_and(|(_, is_local)| is_local) {
        if resolver {
            return asked;
        }
        return Verdict::Deny(Reason::ForeignListener);
    }
    let here = || rules.iter().enumerate().filter(|(_, rule)| inside(ip, rule.target));
    let scan = Scan {
        allows: here().filter(|(_, rule)| rule.allow && names(rule.target.1)).collect(),
        denies: here().filter(|(_, rule)| !rule.allow).map(|(_, rule)| rule).collect(),
        default_ports: &[],
    };
    match word.and_then(|protocol| scan.allowed_by(protocol, port)) {
        Some(at) => Verdict::Allow(RuleId(at.try_into().unwrap())),
        None if resolver => asked,
        None if on_this_host => Verdict::Deny(Reason::ForeignListener),
        None if special.is_some() => Verdict::Deny(Reason::SpecialNetwork),
        None if scan.allows_something() => Verdict::Deny(Reason::PortOrProtocol),
        None => Verdict::Deny(Reason::NoRule),
    }
}

fn at_name<'a>(rules: &'a [Rule<String>], name: &str) -> Scan<'a, String> {
    let means = |pattern: &str| match pattern.strip_prefix('*') {
        // "*" and "*.example.com": what is left of the latter is the end of every name below.
        Some(end) => name.len() > end.len() && name.ends_with(end),
        None => pattern == name,
    };
    let here = || rules.iter().enumerate().filter(|(_, rule)| means(&rule.target));
    Scan {
        allows: here().filter(|(_, rule)| rule.allow).collect(),
        denies: here().filter(|(_, rule)| !rule.allow).map(|(_, rule)| rule).collect(),
        default_ports: &[(443, 443)],
    }
}

/// Whether `name` may be asked for because a resolver makes it of one that is allowed.
pub(super) fn scan_search(rules: &[Rule<String>], search: &[&str], name: &str) -> bool {
    let there = at_name(rules, name);
    let meant = search.iter().filter_map(|suffix| name.strip_suffix(suffix)?.strip_suffix('.'));
    meant.into_iter().any(|shorter| {
        let here = at_name(rules, shorter);
        somewhere(rules.iter(), |protocol, port| {
            here.allowed_by(protocol, port).is_some()
                && !there.denies.iter().any(|rule| rule.matches(protocol, port, there.default_ports))
        })
    })
}

pub(super) fn scan_name(rules: &[Rule<String>], name: &str, port: u16, protocol: u8) -> Verdict {
    let scan = at_name(rules, name);
    match protocol_name(protocol).and_then(|protocol| scan.allowed_by(protocol, port)) {
        Some(at) => Verdict::Allow(RuleId(at.try_into().unwrap())),
        None if scan.allows_something() => Verdict::Deny(Reason::PortOrProtocol),
        None => Verdict::Deny(Reason::NameNotAllowed),
    }
}

/// What a connection to `name` has to speak, by the rule that allows it.
pub(super) fn scan_speaks(rules: &[Rule<String>], name: &str, port: u16, protocol: u8) -> u8 {
    match scan_name(rules, name, port, protocol) {
        Verdict::Allow(id) if protocol == 6 => rules[usize::from(id.0)].speaks(port),
        _ => 0,
    }
}
