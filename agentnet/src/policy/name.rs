//! Domain names as rules write them.

use std::fmt;

use agentnet_common::name::{KEY_BYTES, NameError, NameKey};
use serde::{Deserialize, Serialize};

/// A name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Lower-case A-labels without a trailing dot; empty is the root, above all names.
    base: String,
    /// Every name below `base`, at any depth and without `base` itself.
    below: bool,
}

/// One name: lower-case A-labels without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Reads a name as [`Pattern::parse`] does.
    ///
    /// # Errors
    /// Why `text` is none.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        match Pattern::parse(text)? {
            Pattern { base, below: false } => Ok(Self(base)),
            Pattern { .. } => Err(PatternError::Wildcard),
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its key.
    pub fn key(&self) -> NameKey {
        // `parse` has seen to it that it has one.
        NameKey::from_dotted(&self.0).unwrap_or(ROOT_KEY)
    }
}

impl TryFrom<String> for Name {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is an address.
    #[error("it is an address")]
    Address(std::net::IpAddr),
    /// It is a network.
    #[error("it is a network")]
    Network(ipnet::IpNet),
    /// It has a scheme, and perhaps a path.
    #[error("it is a URL")]
    Url(String),
    /// It has a port.
    #[error("it has a port")]
    Port(String, u16),
    /// A `*` elsewhere than alone in the first label.
    #[error("`*` can only be the whole first label")]
    Wildcard,
    /// IDNA (UTS 46) has no ASCII form for it.
    #[error("it has no ASCII form (IDNA)")]
    Idna,
    /// The DNS cannot have it.
    #[error("{}", dns_error(*.0))]
    Dns(NameError),
}

fn dns_error(error: NameError) -> String {
    match error {
        NameError::Empty => "it is empty".to_owned(),
        NameError::EmptyLabel => "it has an empty label".to_owned(),
        NameError::LongLabel => "a label is longer than 63 characters".to_owned(),
        NameError::LongName => "it is longer than 253 characters".to_owned(),
        NameError::Character(byte) => {
            format!("it contains `{}`", char::from(byte).escape_debug())
        }
    }
}

impl PatternError {
    /// What would be right.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Address(ip) => {
                Some(format!("write cidr = \"{ip}/{}\"", if ip.is_ipv4() { 32 } else { 128 }))
            }
            Self::Network(net) => Some(format!("write cidr = \"{net}\"")),
            Self::Url(host) => Some(format!("write domain = \"{host}\"; paths cannot be told apart")),
            Self::Port(host, port) => Some(format!("write domain = \"{host}\" and ports = [{port}]")),
            Self::Wildcard => {
                Some("write \"*.example.com\" for every name below example.com, at any depth".to_owned())
            }
            Self::Idna => Some("write its A-label form, which begins with xn--".to_owned()),
            Self::Dns(NameError::Character(_)) => {
                Some("a name has letters, digits, `-`, `_` and dots".to_owned())
            }
            Self::Dns(_) => None,
        }
    }
}

impl Pattern {
    /// Reads a `domain`: `example.com`, `*.example.com` or `*`, in any case, as U-labels or A-labels, with
    /// or without a trailing dot.
    ///
    /// # Errors
    /// Why `text` is none of these, see [`PatternError`].
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
            return Err(PatternError::Address(ip));
        }
        if let Ok(net) = text.parse() {
            return Err(PatternError::Network(net));
        }
        if let Some((_, rest)) = text.split_once("://") {
            let host = rest.split(['/', ':', '?', '#']).next().unwrap_or_default();
            return Err(PatternError::Url(printable(host)));
        }
        if let Some((host, port)) = text.split_once(':')
            && let Ok(port) = port.parse()
        {
            return Err(PatternError::Port(printable(host), port));
        }
        let (base, below) = match text.strip_prefix("*.") {
            Some(base) => (base, true),
            None if text == "*" => return Ok(Self { base: String::new(), below: true }),
            None => (text, false),
        };
        if base.contains('*') {
            return Err(PatternError::Wildcard);
        }
        // Before IDNA too: what is not even ASCII gets the same one dot.
        let base = base.strip_suffix('.').unwrap_or(base);
        let base = idna::domain_to_ascii(base).map_err(|_| PatternError::Idna)?;
        NameKey::from_dotted(&base).map_err(PatternError::Dns)?;
        Ok(Self { base, below })
    }

    /// The name, or the one above all that are meant; empty above `*`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether the names below [`Self::base`] are meant, and not that name itself.
    pub const fn is_below(&self) -> bool {
        self.below
    }

    /// Whether this is a wildcard with no more than a top-level domain.
    pub fn is_wide(&self) -> bool {
        self.below && !self.base.contains('.')
    }

    /// The key of [`Self::base`].
    pub fn key(&self) -> NameKey {
        // `parse` has seen to it that every base but the root has a key.
        NameKey::from_dotted(&self.base).unwrap_or(ROOT_KEY)
    }

    /// Whether `name` is below [`Self::base`].
    pub fn is_above(&self, name: &str) -> bool {
        self.base.is_empty() || name.strip_suffix(&*self.base).is_some_and(|rest| rest.ends_with('.'))
    }

    /// Whether every name that `other` means is meant.
    pub fn covers(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (true, true) => self.base == other.base || self.matches(&other.base),
            (_, false) => self.matches(&other.base),
            (false, true) => false,
        }
    }

    /// Whether `name`, lower-case A-labels, is meant.
    pub fn matches(&self, name: &str) -> bool {
        if self.below { self.is_above(name) } else { name == self.base }
    }
}

/// The key above all names.
const ROOT_KEY: NameKey = NameKey { len: 0, bytes: [0; KEY_BYTES] };

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.below, &*self.base) {
            (true, "") => f.write_str("*"),
            (true, base) => write!(f, "*.{base}"),
            (false, base) => f.write_str(base),
        }
    }
}

/// A part of the file for a line of TOML that people copy.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').take(253).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::Pattern;

    #[rstest]
    #[case("example.com", "example.com")]
    #[case("Example.COM.", "example.com")]
    #[case("*.Example.com", "*.example.com")]
    #[case("*", "*")]
    #[case("bücher.example", "xn--bcher-kva.example")]
    #[case("*.bücher.example", "*.xn--bcher-kva.example")]
    #[case("faß.de", "xn--fa-hia.de")]
    #[case("例え。テスト", "xn--r8jz45g.xn--zckzah")]
    #[case("_dmarc.example.com", "_dmarc.example.com")]
    #[case("localhost", "localhost")]
    fn names_are_normalised(#[case] text: &str, #[case] normal: &str) {
        assert_eq!(Pattern::parse(text).unwrap().to_string(), normal);
    }

    #[rstest]
    #[case("", "it is empty")]
    #[case(".", "it is empty")]
    #[case("*.", "it is empty")]
    #[case("a..b", "it has an empty label")]
    #[case("example.com..", "it has an empty label")]
    #[case(".example.com", "it has an empty label")]
    #[case("a.*.example.com", "`*` can only be the whole first label")]
    #[case("*a.example.com", "`*` can only be the whole first label")]
    #[case("**.example.com", "`*` can only be the whole first label")]
    #[case("10.0.0.1", "it is an address")]
    #[case("[::1]", "it is an address")]
    #[case("10.0.0.0/8", "it is a network")]
    #[case("https://example.com/x", "it is a URL")]
    #[case("example.com:8443", "it has a port")]
    #[case("exa mple.com", "it contains ` `")]
    #[case("example.com/x", "it contains `/`")]
    #[case("xn--a.example", "it has no ASCII form (IDNA)")]
    fn what_is_not_a_name_is_refused(#[case] text: &str, #[case] why: &str) {
        assert_eq!(Pattern::parse(text).unwrap_err().to_string(), why);
    }

    #[rstest]
    #[case("example.com", "example.com", true)]
    #[case("example.com", "www.example.com", false)]
    #[case("*.example.com", "www.example.com", true)]
    #[case("*.example.com", "a.b.example.com", true)]
    #[case("*.example.com", "example.com", false)]
    #[case("*.example.com", "badexample.com", false)]
    #[case("*", "anything.at.all", true)]
    fn a_wildcard_is_every_name_below(#[case] pattern: &str, #[case] name: &str, #[case] expected: bool) {
        assert_eq!(Pattern::parse(pattern).unwrap().matches(name), expected);
    }
}
