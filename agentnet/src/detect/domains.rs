//! Whose a name is: the registrable domain by the public suffix list, how popular it is, what kind of
//! service it belongs to. Data in `data/`, with sources, dates and licences in `data/README.md`.

use std::{collections::HashMap, fmt, sync::LazyLock};

use fst::Map;
use psl::{List, Psl as _, Type};

use super::name::{Name, display};

static POPULAR: LazyLock<Option<Map<&'static [u8]>>> =
    LazyLock::new(|| Map::new(&include_bytes!(concat!(env!("OUT_DIR"), "/popular.fst"))[..]).ok());
/// Services of developers' tools; few enough to be searched as they are.
static SERVICES: LazyLock<Vec<&'static [u8]>> = LazyLock::new(|| {
    let lines = include_str!("../../data/lists/services.txt").lines();
    let mut zones: Vec<_> = lines.filter(|line| !line.starts_with('#')).map(str::as_bytes).collect();
    zones.sort_unstable();
    zones
});
static CLASSES: LazyLock<Option<Map<&'static [u8]>>> =
    LazyLock::new(|| Map::new(&include_bytes!(concat!(env!("OUT_DIR"), "/classes.fst"))[..]).ok());

/// The registrable domain of a name, or what stands for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Base<'a> {
    /// In lower case.
    pub name: &'a [u8],
    /// Length of what is before it in the whole name, the dot excluded.
    pub sub: usize,
    /// What it is.
    pub kind: BaseKind,
}

impl fmt::Debug for Base<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", display(self.name), self.kind)
    }
}

/// What a [`Base`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BaseKind {
    /// A domain below a suffix of the ICANN part of the list.
    Registered,
    /// A domain below a suffix that its owner put on the list: `x.github.io`.
    Hosted,
    /// A name that is a public suffix itself.
    Suffix,
    /// A name whose last label is no top-level domain: all of them share one account.
    Unknown,
    /// A name of the local network (RFC 6762, 8375, 6761 and customs).
    Local,
    /// An address written backwards (RFC 1035, 3.5; RFC 3596, 2.5).
    Reverse,
    /// One label.
    Single,
}

/// Last labels of names that do not leave a site; two-label ones with their dot.
const LOCAL: &[&[u8]] = &[
    b"local",
    b"localhost",
    b"localdomain",
    b"lan",
    b"home",
    b"internal",
    b"intranet",
    b"corp",
    b"private",
    b"home.arpa",
    b"workgroup",
    b"mshome",
    b"domain",
];

impl<'a> Base<'a> {
    /// The base of a name.
    pub fn of(name: &'a Name) -> Self {
        Self::of_text(name.lower())
    }

    /// The base of a name in lower case.
    pub fn of_text(text: &'a [u8]) -> Self {
        let whole = |kind| Self { name: text, sub: 0, kind };
        if !text.contains(&b'.') {
            return whole(BaseKind::Single);
        }
        if ends_with_labels(text, b"in-addr.arpa") || ends_with_labels(text, b"ip6.arpa") {
            return Self::reverse(text);
        }
        if let Some(local) = LOCAL.iter().find(|local| ends_with_labels(text, local)) {
            return Self::at(text, text.len() - local.len(), BaseKind::Local);
        }
        let Some(suffix) = List.suffix(text).filter(psl::Suffix::is_known) else {
            // Any label may be data, the last ones too: dnscat2 without a domain sends `dnscat.<hex>.<hex>`.
            return Self { name: last_labels(text, 2), sub: text.len(), kind: BaseKind::Unknown };
        };
        let kind = match suffix.typ() {
            Some(Type::Private) => BaseKind::Hosted,
            _ => BaseKind::Registered,
        };
        // The label before the suffix, without looking for the suffix again.
        let before = text.len().checked_sub(suffix.as_bytes().len() + 1);
        match before
            .and_then(|end| text.get(..end))
            .filter(|before| !before.is_empty() && !before.ends_with(b"."))
        {
            Some(before) => {
                let start = before.iter().rposition(|&byte| byte == b'.').map_or(0, |dot| dot + 1);
                Self::at(text, start, kind)
            }
            None => whole(BaseKind::Suffix),
        }
    }

    fn at(text: &'a [u8], start: usize, kind: BaseKind) -> Self {
        Self { name: text.get(start..).unwrap_or(text), sub: start.saturating_sub(1), kind }
    }

    /// Whether the labels before `arpa` are those of an address; if not, the zone of the first number below
    /// it is the base, as for any other name.
    fn reverse(text: &'a [u8]) -> Self {
        let v4 = text.ends_with(b"in-addr.arpa");
        let zone = if v4 { b"in-addr.arpa".len() } else { b"ip6.arpa".len() };
        let sub = text.get(..text.len().saturating_sub(zone + 1)).unwrap_or_default();
        let mut labels = sub.split(|&byte| byte == b'.');
        let is_part = |label: &[u8]| match v4 {
            true => label.len() <= 3 && label.iter().all(u8::is_ascii_digit),
            false => label.len() == 1 && label.iter().all(u8::is_ascii_hexdigit),
        };
        let address = labels.all(is_part) && sub.len() <= if v4 { 15 } else { 63 };
        if address {
            return Self::at(text, text.len() - zone, BaseKind::Reverse);
        }
        let last = sub.iter().rposition(|&byte| byte == b'.').map_or(0, |dot| dot + 1);
        Self::at(text, last, BaseKind::Registered)
    }

    /// The base by the rules of ICANN alone, where that differs: many names below one owner's suffix share it.
    pub fn icann(&self) -> Option<&'a [u8]> {
        if self.kind != BaseKind::Hosted {
            return None;
        }
        let mut rest = self.name;
        while let Some(dot) = rest.iter().position(|&byte| byte == b'.') {
            let shorter = rest.get(dot + 1..)?;
            let suffix = List.suffix(shorter)?;
            if suffix.typ() != Some(Type::Private) && suffix.as_bytes().len() == shorter.len() {
                // `rest` is one label below a suffix of ICANN's.
                return Some(rest);
            }
            rest = shorter;
        }
        None
    }

    /// What is before the base in `text`, the text it was made of.
    pub fn sub_of<'b>(&self, text: &'b [u8]) -> &'b [u8] {
        text.get(..self.sub).unwrap_or_default()
    }

    /// Whether it is among the most visited or one of developers' services (`data/README.md`), and none where
    /// anybody can listen.
    pub fn is_popular(&self) -> bool {
        matches!(self.kind, BaseKind::Registered | BaseKind::Hosted)
            && (POPULAR.as_ref().is_some_and(|popular| popular.contains_key(self.name))
                || SERVICES.binary_search(&self.name).is_ok())
            && !Class::of_exact(self.name).intersects(Classes::LISTENERS)
    }

    /// For people and JSON.
    pub fn display(&self) -> String {
        match self.kind {
            BaseKind::Local => format!("*.{}", display(self.name)),
            _ => display(self.name),
        }
    }
}

/// The last `count` labels.
fn last_labels(text: &[u8], count: usize) -> &[u8] {
    let dots = text.iter().enumerate().rev().filter(|&(_, &byte)| byte == b'.');
    let start = dots.map(|(at, _)| at + 1).nth(count - 1);
    text.get(start.unwrap_or(0)..).unwrap_or(text)
}

/// Whether `text` is `zone` or ends in it at a border of labels.
pub fn ends_with_labels(text: &[u8], zone: &[u8]) -> bool {
    text.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with(b"."))
}

/// A kind of service, in the order of `build.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Shows whoever runs it which requests came in: interactsh, Burp collaborator.
    Oast,
    /// Stores whatever request is sent to it.
    RequestBin,
    /// Makes somebody's own machine reachable.
    Tunnel,
    /// Text or files of anybody.
    Paste,
    /// A messenger's interface for programs.
    Bot,
    /// A resolver over an encrypted transport.
    EncryptedDns,
    /// Dynamic DNS.
    DynamicDns,
    /// A trusted service that is known to be misused.
    TrustedSite,
    /// Makes long addresses short.
    Shortener,
    /// Tells the public address.
    IpEcho,
    /// A gateway to IPFS.
    Ipfs,
    /// A page of links.
    LinkInBio,
}

/// A set of [`Class`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(u64);

impl Classes {
    /// Where anybody can read what is sent, without an account or within seconds of making one.
    pub const LISTENERS: Self =
        Self(1 << Class::Oast as u64 | 1 << Class::RequestBin as u64 | 1 << Class::Tunnel as u64);

    /// Whether they have one in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first of [`Class::ALL`] in it, which is the gravest.
    pub fn gravest(self) -> Option<Class> {
        Class::ALL.into_iter().find(|&class| self.intersects(Self(1 << class as u64)))
    }
}

impl Class {
    /// Every class, in the order of its bit; the gravest first.
    pub const ALL: [Self; 12] = [
        Self::Oast,
        Self::RequestBin,
        Self::Tunnel,
        Self::Paste,
        Self::Bot,
        Self::EncryptedDns,
        Self::DynamicDns,
        Self::TrustedSite,
        Self::Shortener,
        Self::IpEcho,
        Self::Ipfs,
        Self::LinkInBio,
    ];

    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Oast => "out_of_band_testing",
            Self::RequestBin => "request_bin",
            Self::Tunnel => "tunnel",
            Self::Paste => "paste",
            Self::Bot => "messenger_bot",
            Self::EncryptedDns => "encrypted_dns",
            Self::DynamicDns => "dynamic_dns",
            Self::TrustedSite => "trusted_site",
            Self::Shortener => "url_shortener",
            Self::IpEcho => "ip_echo",
            Self::Ipfs => "ipfs_gateway",
            Self::LinkInBio => "link_page",
        }
    }

    /// What people are told it is.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Oast => "a service that shows its user every request that comes in",
            Self::RequestBin => "a service that stores whatever request is sent to it",
            Self::Tunnel => "a tunnel to somebody's own machine",
            Self::Paste => "a place for text or files of anybody",
            Self::Bot => "a messenger's interface for programs",
            Self::EncryptedDns => "a resolver over an encrypted transport, past the one of the policy",
            Self::DynamicDns => "a name of a dynamic DNS service",
            Self::TrustedSite => "a trusted service that is known to be misused",
            Self::Shortener => "a service that shortens addresses",
            Self::IpEcho => "a service that tells the public address",
            Self::Ipfs => "a gateway to IPFS",
            Self::LinkInBio => "a page of links",
        }
    }

    /// The classes of a name itself.
    fn of_exact(name: &[u8]) -> Classes {
        Classes(CLASSES.as_ref().and_then(|classes| classes.get(name)).unwrap_or(0))
    }

    /// The classes of a name in lower case and of every name above it, with the one that is listed.
    pub fn of(text: &[u8]) -> (Classes, &[u8]) {
        let mut rest = text;
        loop {
            let found = Self::of_exact(rest);
            if !found.is_empty() {
                return (found, rest);
            }
            match rest.iter().position(|&byte| byte == b'.') {
                Some(dot) => rest = rest.get(dot + 1..).unwrap_or_default(),
                None => return (Classes::default(), text),
            }
        }
    }
}

/// Zones in which services ask for names made of hashes, addresses or counters, with the types they ask for.
static INFRASTRUCTURE: LazyLock<HashMap<&'static [u8], Types>> = LazyLock::new(|| {
    let lines = include_str!("../../data/lists/infrastructure.txt").lines();
    let zones = lines.filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        let zone = words.next()?.as_bytes();
        Some((zone, Types(words.filter_map(rtype).fold(0, |set, rtype| set | Types::bit(rtype)))))
    });
    zones.collect()
});

/// A set of types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Types(u64);

impl Types {
    const fn bit(rtype: u16) -> u64 {
        if rtype < 64 { 1 << rtype } else { 0 }
    }

    /// Whether a type is in it.
    pub const fn has(self, rtype: u16) -> bool {
        self.0 & Self::bit(rtype) != 0
    }
}

/// The types of which a service asks for names such as `text` all day.
pub fn infrastructure(text: &[u8]) -> Types {
    let mut rest = text;
    loop {
        if let Some(&types) = INFRASTRUCTURE.get(rest) {
            return types;
        }
        match rest.iter().position(|&byte| byte == b'.') {
            Some(dot) => rest = rest.get(dot + 1..).unwrap_or_default(),
            None => return Types::default(),
        }
    }
}

/// The number of a type that the list names.
fn rtype(name: &str) -> Option<u16> {
    match name {
        "A" => Some(1),
        "TXT" => Some(16),
        "AAAA" => Some(28),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> (String, BaseKind) {
        let base = Base::of_text(text.as_bytes());
        (display(base.name), base.kind)
    }

    #[test]
    fn a_base_is_what_somebody_can_register() {
        use BaseKind::{Hosted, Local, Registered, Reverse, Single, Suffix, Unknown};
        for (text, expected, kind) in [
            ("www.example.com", "example.com", Registered),
            ("a.b.example.co.uk", "example.co.uk", Registered),
            ("example.com", "example.com", Registered),
            ("x.user.github.io", "user.github.io", Hosted),
            ("co.uk", "co.uk", Suffix),
            ("dnscat.0123.4567", "0123.4567", Unknown),
            ("www.pirate.sea", "pirate.sea", Unknown),
            ("printer.local", "local", Local),
            ("4.3.2.1.in-addr.arpa", "in-addr.arpa", Reverse),
            ("secret.4.3.2.1.in-addr.arpa", "1.in-addr.arpa", Registered),
            ("wpad", "wpad", Single),
        ] {
            assert_eq!(base(text), (expected.to_owned(), kind), "{text}");
        }
        let name = Name::parse("Data.Example.com").unwrap();
        assert_eq!(Base::of(&name).sub_of(name.sent()), b"Data");
    }

    #[test]
    fn many_names_below_one_owners_suffix_share_its_base() {
        let icann = |text: &str| Base::of_text(text.as_bytes()).icann().map(display);
        assert_eq!(icann("x.user.github.io").as_deref(), Some("github.io"));
        assert_eq!(icann("bucket.s3.amazonaws.com").as_deref(), Some("amazonaws.com"));
        assert_eq!(icann("www.example.com"), None);
    }

    #[test]
    fn lists_are_there_and_cover_what_is_below() {
        assert!(Base::of_text(b"www.github.com").is_popular());
        assert!(!Base::of_text(b"q.skullseclabs.org").is_popular());
        for (text, class) in [
            ("x.oast.fun", Class::Oast),
            ("abc.webhook.site", Class::RequestBin),
            ("x-y.trycloudflare.com", Class::Tunnel),
            ("transfer.sh", Class::Paste),
            ("api.telegram.org", Class::Bot),
            ("dns.google", Class::EncryptedDns),
        ] {
            assert_eq!(Class::of(text.as_bytes()).0.gravest(), Some(class), "{text}");
        }
        assert!(Class::of(b"www.example.org").0.is_empty());
        // Listed as popular by visits, but anybody can listen there.
        assert!(!Base::of_text(b"webhook.site").is_popular());
    }

    #[test]
    fn infrastructure_is_by_zone_and_type() {
        assert!(infrastructure(b"0abc.avqs.mcafee.com").has(1));
        assert!(!infrastructure(b"0abc.avqs.mcafee.com").has(16));
        assert!(!infrastructure(b"avqs.mcafee.com.example.org").has(1));
    }
}
