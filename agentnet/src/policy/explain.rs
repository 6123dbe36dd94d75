//! Which rule decides about an endpoint, or what is missing.
//!
//! The verdict itself is the kernel's, [`agentnet_common::verdict`]; here it gets its reasons in words.

use std::{borrow::Cow, fmt, net::IpAddr};

use agentnet_common::{
    abi::{LOCAL_ANY, LOCAL_DENY, RULESET_SEARCH, SPEAKS_ECH, SPEAKS_HTTP, SPEAKS_TLS, SPEAKS_UNNAMED},
    addr::{Addr, Endpoint, protocol, protocols},
    door,
    name::NameKey,
    verdict::{self, NameTables as _, Reason, RuleId, Scope, Tables as _, Verdict},
};

use super::{
    Policy,
    compile::RuleInfo,
    name::{Pattern, PatternError},
    net::Net,
    presets, schema,
    special::{self, Special},
    spoken::TLS_PORTS,
    unix::{Known, door_name, suggestion as unix_suggestion},
    validate::{Effect, Rule},
};

/// Why something is allowed or refused.
#[derive(Clone, Debug)]
pub struct Explanation<'a> {
    /// What it is about, such as `tcp 203.0.113.9:443`.
    pub what: String,
    /// The verdict of the rules. In mode "audit" a refusal is reported and let through.
    pub verdict: Verdict,
    /// The rule that allows it.
    pub rule: Option<&'a RuleInfo>,
    /// The rule that denies it.
    pub deny_rule: Option<&'a RuleInfo>,
    /// The special-purpose network that a rule would have to name.
    pub special: Option<&'static str>,
    /// A rule that nearly allows it, and what it lacks.
    pub near: Option<Near<'a>>,
    /// What has to be spoken, of something that is allowed by its name.
    pub spoken: Option<Spoken>,
    /// What else has to be known to rely on the verdict.
    pub note: Option<Cow<'static, str>>,
    /// A preset that allows it.
    pub preset: Option<&'static str>,
    /// TOML that, added to the policy, allows it. `None` where no rule would.
    pub suggestion: Option<String>,
}

/// An allow rule that nearly applies.
#[derive(Clone, Copy, Debug)]
pub struct Near<'a> {
    /// The rule.
    pub rule: &'a RuleInfo,
    /// Why it does not apply.
    pub lacks: Lacks,
}

/// What has to be spoken on something that is allowed by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// What: a word of `app`, or "quic".
    pub app: &'static str,
    /// Whether there has to be the name of a server.
    pub named: bool,
    /// Whether there may be another name that is encrypted.
    pub encrypted: bool,
}

impl Spoken {
    /// Of `SPEAKS_*` over a protocol (an IANA number); `None` where no application speaks.
    fn new(speaks: u8, number: u8, is_quic: bool) -> Option<Self> {
        let app = match number {
            protocol::TCP if speaks & SPEAKS_TLS != 0 => "tls",
            protocol::TCP if speaks & SPEAKS_HTTP != 0 => "http",
            protocol::UDP if speaks & SPEAKS_TLS != 0 && is_quic => "quic",
            protocol::TCP | protocol::UDP => "any",
            _ => return None,
        };
        let has_tls = matches!(app, "tls" | "quic");
        Some(Self {
            app,
            named: has_tls && speaks & SPEAKS_UNNAMED == 0,
            encrypted: has_tls && speaks & SPEAKS_ECH != 0,
        })
    }
}

impl fmt::Display for Spoken {
    /// One sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, after) = match self.app {
            "tls" => ("TLS", ""),
            "quic" => ("QUIC", "; that is read once it has left, and what says another name is cut"),
            "http" => {
                return f.write_str(
                    "the connection has to speak HTTP/1 with a host that this rule allows; requests are read once they \
                     have left, and what asks for another host is an alert",
                );
            }
            _ => {
                return f.write_str(
                    "the connection may speak anything: only its address is known to be the name's, which other names \
                     may share",
                );
            }
        };
        let name = if self.named {
            "a server name that this rule allows"
        } else {
            "a server name that this rule allows, or none"
        };
        let ech = if self.encrypted {
            "Encrypted Client Hello allowed: only its outer name is held to the rule"
        } else {
            "Encrypted Client Hello refused"
        };
        write!(f, "the connection has to speak {what} with {name}; {ech}{after}")
    }
}

/// Why a rule does not apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacks {
    /// Right address or name; wrong port or protocol.
    Traffic,
    /// The address is in a special-purpose network, which the rule does not name.
    Special,
    /// The rule is for the names below this one.
    Itself,
    /// The rule is for a name above this one, and not for those below.
    Below,
}

impl Lacks {
    /// A stable label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Traffic => "port_or_protocol",
            Self::Special => "special_network",
            Self::Itself => "not_itself",
            Self::Below => "not_below",
        }
    }
}

/// The word for an IANA protocol number.
fn protocol_word(number: u8) -> Option<&'static str> {
    let set = protocols::of(number);
    schema::PROTOCOLS.iter().find(|choice| choice.code == set).map(|choice| choice.word)
}

impl Explanation<'_> {
    /// The verdict alone.
    const fn new(what: String, verdict: Verdict) -> Self {
        Self {
            what,
            verdict,
            rule: None,
            deny_rule: None,
            special: None,
            near: None,
            spoken: None,
            note: None,
            preset: None,
            suggestion: None,
        }
    }
}

impl Policy {
    /// Explains the verdict about `endpoint`, which is where `scope` says.
    pub fn explain(&self, endpoint: &Endpoint, scope: Scope) -> Explanation<'_> {
        let verdict = verdict::decide(&self.compiled, &self.compiled.agent_cfg(1, 0, 0), endpoint, scope);
        let verdict = verdict::held_to_call(verdict, endpoint);
        let ip = IpAddr::from(endpoint.addr);
        let host = Net::of(endpoint.addr, 128);
        let set = protocols::of(endpoint.protocol);
        let has_ports = set != protocols::ICMP;
        let what = match protocol_word(endpoint.protocol) {
            Some(word) if has_ports => {
                format!("{word} {}", std::net::SocketAddr::new(ip, endpoint.port))
            }
            Some(word) => format!("{word} {ip}"),
            None => format!("protocol {} to {ip}", endpoint.protocol),
        };
        let mut explanation = Explanation::new(what, verdict);
        let reason = match verdict {
            Verdict::Allow(id) => {
                explanation.rule = self.compiled.rule(id);
                return explanation;
            }
            Verdict::Deny(reason) => reason,
        };

        let covering = |rule: &Rule| rule.net().is_some_and(|net| net.covers(host));
        let special = special::innermost(host, &self.host.local);
        let names = |rule: &Rule| {
            special.is_none_or(|Special { net, .. }| rule.net().is_some_and(|own| net.covers(own)))
        };
        let speaks = |rule: &Rule| covering(rule) && rule.traffic().contains(set, endpoint.port);
        explanation.deny_rule = self.find(Effect::Deny, speaks);
        let near = |lacks| move |rule| Near { rule, lacks };
        if set == 0 {
            explanation.note = Some("no rule can allow this protocol".into());
            return explanation;
        }
        explanation.near = self
            .find(Effect::Allow, |rule| covering(rule) && names(rule))
            .map(near(Lacks::Traffic))
            .or_else(|| self.find(Effect::Allow, speaks).map(near(Lacks::Special)));
        let named = matches!(explanation.near, Some(Near { lacks: Lacks::Traffic, .. }));
        explanation.special = special.filter(|_| !named).map(|special| special.name);
        if reason == Reason::ForeignListener {
            explanation.note = match self.compiled.loopback {
                LOCAL_DENY | LOCAL_ANY => None,
                _ => Some("a listener of the agent's own on this host is allowed".into()),
            };
        }
        // On this host a rule helps only where the policy knows the address as this host's.
        let known = scope == Scope::Remote
            || self.compiled.net(0, &endpoint.addr).is_some_and(agentnet_common::abi::Ruleset::is_local);
        let possible = known && (endpoint.port != 0 || !has_ports);
        if possible && explanation.deny_rule.is_none() {
            explanation.suggestion = Some(suggest("cidr", &host.to_string(), set, endpoint.port, false));
        }
        explanation
    }

    /// Explains the verdict about `name` at `port` over `protocol` (an IANA number).
    ///
    /// # Errors
    /// Why `name` is not a domain name.
    pub fn explain_name(&self, name: &str, protocol: u8, port: u16) -> Result<Explanation<'_>, PatternError> {
        let pattern = Pattern::parse(name)?;
        if pattern.is_below() {
            return Err(PatternError::Wildcard);
        }
        let name = pattern.base();
        let key = NameKey::from_dotted(name).map_err(PatternError::Dns)?;
        let verdict = verdict::decide_name(&self.compiled, 0, &key, protocol, port);
        let set = protocols::of(protocol);
        let word = protocol_word(protocol).unwrap_or("protocol without name");
        let what =
            if set == protocols::ICMP { format!("{word} {name}") } else { format!("{word} {name}:{port}") };
        let mut explanation = Explanation::new(what, verdict);
        if let Verdict::Allow(id) = verdict {
            explanation.rule = self.compiled.rule(id);
            let rule = self.valid.rules.get(usize::from(id.0));
            explanation.spoken =
                rule.and_then(|rule| Spoken::new(rule.spoken.at(port), protocol, rule.spoken.allows_quic()));
            explanation.note = Some(self.note_on_allowed());
            return Ok(explanation);
        }

        let by_name = |found: fn(&Pattern, &str) -> bool| {
            move |rule: &Rule| rule.name().is_some_and(|pattern| found(pattern, name))
        };
        let traffic = |rule: &Rule| rule.traffic().contains(set, port);
        let matching = by_name(Pattern::matches);
        explanation.deny_rule = self.find(Effect::Deny, |rule| matching(rule) && traffic(rule));
        let near = |lacks| move |rule| Near { rule, lacks };
        let itself = by_name(|pattern, name| pattern.is_below() && pattern.base() == name);
        let below = by_name(|pattern, name| !pattern.is_below() && pattern.is_above(name));
        explanation.near = self
            .find(Effect::Allow, matching)
            .map(near(Lacks::Traffic))
            .or_else(|| self.find(Effect::Allow, itself).map(near(Lacks::Itself)))
            .or_else(|| self.find(Effect::Allow, below).map(near(Lacks::Below)));
        explanation.note = self.note_on_denied(&key);
        if explanation.deny_rule.is_none() && set != 0 {
            explanation.preset = presets::allowing(name, set, port).first().copied();
            explanation.suggestion = Some(suggest("domain", name, set, port, true));
        }
        Ok(explanation)
    }

    /// Explains the verdict about the Unix socket that a process calls `text`: a path, or an abstract name behind an
    /// `@`. `None` if no socket can be called so.
    pub fn explain_unix(&self, text: &str) -> Option<Explanation<'_>> {
        let name = door_name(text)?;
        let known = Known::of(text);
        let verdict = door::decide(&self.compiled, &self.compiled.agent_cfg(1, 0, 0), &name);
        let what = match known {
            Some(known) => format!("unix {text} ({})", known.what),
            None => format!("unix {text}"),
        };
        let mut explanation = Explanation::new(what, verdict);
        if matches!(verdict, Verdict::Deny(_)) {
            explanation.note = known.and_then(|known| known.reach.caution()).map(Cow::from);
            explanation.suggestion = unix_suggestion(text);
            if explanation.suggestion.is_none() {
                explanation.note = Some(
                    "a name is open only as the policy writes it: from the root, without `.`, `..` and empty parts".into(),
                );
            }
        } else if let Some((entry, place)) = self.valid.unix.opening(&name) {
            let (file, line) = (&self.sources.get(place.file).file, self.sources.line(place));
            explanation.note = Some(
                format!(
                    "\"{entry}\" ({file}:{line}) opens it; the name is judged, not the socket it leads to: whoever can \
                     put something else in its place decides that"
                )
                .into(),
            );
        }
        Some(explanation)
    }

    /// What an allowed name needs before anything is sent.
    fn note_on_allowed(&self) -> Cow<'static, str> {
        let servers = &self.compiled.resolution.servers;
        if servers.is_empty() {
            return "no resolver is known, so that the agent cannot ask for the name: list one in `resolvers` of [dns]"
                .into();
        }
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        format!(
            "its addresses are opened when the agent asks {} for the name; one in a special-purpose network only if \
             a `cidr` rule names it",
            servers.join(" or ")
        )
        .into()
    }

    /// What may be done with a name to which nothing may be sent.
    fn note_on_denied(&self, key: &NameKey) -> Option<Cow<'static, str>> {
        let node = self.compiled.name(0, key)?;
        let rules = if node.len as usize == key.len { &node.this } else { &node.below };
        if rules.len > 0 {
            Some("it may be asked for, for the sake of other ports".into())
        } else if rules.flags & RULESET_SEARCH != 0 {
            Some("it may be asked for, because resolvers put a search domain behind names; its answer opens nothing".into())
        } else {
            None
        }
    }

    /// Where an address is, as far as the policy knows: whose listener is there is not asked.
    pub fn scope(&self, ip: IpAddr) -> Scope {
        let local =
            self.compiled.net(0, &Addr::from(ip)).is_some_and(agentnet_common::abi::Ruleset::is_local);
        if local { Scope::ForeignListener } else { Scope::Remote }
    }

    /// The first rule that applies.
    fn find(&self, effect: Effect, applies: impl Fn(&Rule) -> bool) -> Option<&RuleInfo> {
        let (id, _) = self.valid.numbered().find(|(_, rule)| rule.effect == effect && applies(rule))?;
        self.compiled.rule(id)
    }
}

/// A rule that allows just this; ports are left out where they are the default.
fn suggest(key: &str, target: &str, set: u8, port: u16, default_ports: bool) -> String {
    let mut toml = format!("[[egress.allow]]\n{key} = \"{target}\"\n");
    // UDP on a port of TLS is QUIC, which a name opens together with TLS.
    let is_quic = default_ports && set == protocols::UDP && TLS_PORTS.contains(&port);
    if set != protocols::ICMP && !(default_ports && port == 443) {
        toml.push_str(&format!("ports = [{port}]\n"));
    }
    if is_quic {
        toml.push_str("quic = \"allow\"\n");
    } else if set != protocols::TCP {
        let word =
            schema::PROTOCOLS.iter().find(|choice| choice.code == set).map_or("", |choice| choice.word);
        toml.push_str(&format!("protocols = [\"{word}\"]\n"));
    }
    toml
}

/// The IANA number of ICMP for the family of `ip`.
pub fn icmp_for(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 }
}

impl fmt::Display for RuleInfo {
    /// The rule and where it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` ({}:{})", self.text, self.file, self.line)
    }
}

impl fmt::Display for Explanation<'_> {
    /// One sentence, without the note and the suggestion.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        let reason = match self.verdict {
            Verdict::Allow(RuleId::OWN_LISTENER) => {
                return write!(f, "{what} is allowed: a listener of the agent's own");
            }
            Verdict::Allow(RuleId::ANY_LISTENER) => {
                return write!(f, "{what} is allowed: `[local] loopback` is \"any\"");
            }
            Verdict::Allow(RuleId::UNIX) if self.note.is_some() => {
                return write!(f, "{what} is allowed by `unix_allow`");
            }
            Verdict::Allow(RuleId::UNIX) => {
                return write!(f, "{what} is allowed: `[local] unix` is \"any\"");
            }
            Verdict::Allow(_) => {
                return match self.rule {
                    Some(rule) => write!(f, "{what} is allowed by {rule}"),
                    None => write!(f, "{what} is allowed"),
                };
            }
            Verdict::Deny(reason) => reason,
        };
        write!(f, "{what} is denied")?;
        match (self.deny_rule, self.near) {
            (Some(rule), _) => return write!(f, " by {rule}: deny wins over allow"),
            (_, Some(Near { rule, lacks: Lacks::Traffic })) => {
                return write!(f, ": {rule} does not allow that port or protocol");
            }
            (_, Some(Near { rule, lacks: Lacks::Itself })) => {
                return write!(f, ": {rule} is for the names below, not for the name itself");
            }
            (_, Some(Near { rule, lacks: Lacks::Below })) => {
                return write!(f, ": {rule} is for that name only, not for the names below");
            }
            (_, Some(Near { lacks: Lacks::Special, .. }) | None) => {}
        }
        match (self.special, self.near) {
            (Some(special), Some(Near { rule, .. })) => {
                write!(f, ": {rule} does not name {special}, which has to be named")
            }
            (Some(special), None) => write!(f, ": no rule names {special}"),
            (None, _) if reason == Reason::ForeignListener => {
                write!(f, ": the listener on this host is not the agent's own")
            }
            (None, _) if reason == Reason::UnixSocket => {
                write!(f, ": `unix_allow` of [local] does not name it")
            }
            (None, _) => write!(f, ": no rule allows it"),
        }
    }
}
