//! Text -> [`Document`]: TOML whose keys are known and whose values have the right types.
//!
//! The tree is walked by hand along the table of keys in [`super::schema`]. serde would stop at the first
//! error, and an enum of integers and strings (`ports`) would lose its places in the file.

pub(crate) mod walk;

use std::ops::Range;

use toml::{Spanned, de::DeTable};

use self::walk::Walker;
use super::{
    diagnostic::{Code, Diagnostic},
    schema,
    spoken::SpokenText,
};
use crate::{alert::model::Kind, detect::action::kinds};

/// A policy file as written.
#[derive(Debug, Default)]
pub struct Document {
    /// `version`.
    pub version: Field<i64>,
    /// `name`.
    pub name: Field<String>,
    /// `extends`.
    pub extends: Field<String>,
    /// `mode`.
    pub mode: Field<u8>,
    /// `[local] loopback`.
    pub loopback: Field<u8>,
    /// `[local] listen`.
    pub listen: Field<u8>,
    /// `[local] unix`.
    pub unix: Field<u8>,
    /// `[local] unix_allow`.
    pub unix_allow: Field<Vec<Spanned<String>>>,
    /// `[[agents]]`.
    pub agents: Vec<AgentText>,
    /// `[dns] resolvers`.
    pub resolvers: Field<Vec<Spanned<String>>>,
    /// `[dns] search`.
    pub search: Field<Vec<Spanned<String>>>,
    /// `[tls]`, which has no `app`.
    pub tls: SpokenText,
    /// `[egress] presets`.
    pub presets: Field<Vec<Spanned<String>>>,
    /// `[[egress.allow]]`.
    pub allow: Vec<RuleText>,
    /// `[[egress.deny]]`.
    pub deny: Vec<RuleText>,
    /// `[detect.KIND] action` by kind.
    pub detect: Vec<(Kind, Field<u8>)>,
}

/// An entry of `[[agents]]` as written.
#[derive(Debug)]
pub struct AgentText {
    /// Its header, or the whole of an inline table.
    pub span: Range<usize>,
    /// `unit`.
    pub unit: Field<String>,
    /// `cgroup`.
    pub cgroup: Field<String>,
    /// `container`.
    pub container: Field<String>,
}

/// A rule as written.
#[derive(Debug)]
pub struct RuleText {
    /// Its header, or the whole of an inline table.
    pub span: Range<usize>,
    /// `cidr`.
    pub cidr: Field<String>,
    /// `domain`.
    pub domain: Field<String>,
    /// `ports`.
    pub ports: Field<Vec<Spanned<PortText>>>,
    /// `protocols`, a set of [`agentnet_common::addr::protocols`].
    pub protocols: Field<u8>,
    /// `app`, `sni`, `ech` and `quic`; absent with a rule that denies.
    pub spoken: SpokenText,
}

/// A port or a range of ports as written.
#[derive(Debug)]
pub enum PortText {
    /// An integer.
    Number(i64),
    /// A string, such as `8000-8099`.
    Text(String),
    /// Something else, and that has been said.
    Bad,
}

/// The value of a key.
#[derive(Debug, Default)]
pub enum Field<T> {
    /// The key is not there.
    #[default]
    Absent,
    /// The value is wrong, and that has been said.
    Bad,
    /// The value.
    Is(Spanned<T>),
}

impl<T> Field<T> {
    /// Whether the key is not there.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The value, if there is a right one.
    pub const fn value(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Is(value) => Some(value),
            _ => None,
        }
    }

    fn and_then<U>(self, convert: impl FnOnce(Spanned<T>) -> Option<Spanned<U>>) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Bad => Field::Bad,
            Self::Is(value) => convert(value).map_or(Field::Bad, Field::Is),
        }
    }
}

impl Document {
    /// Reads `text`; problems go to `problems`. `None` if it is not TOML: what follows a syntax error is
    /// guesswork.
    pub fn parse(text: &str, problems: &mut Vec<Diagnostic>) -> Option<Self> {
        let root = root(text, problems)?;
        let mut root = Walker::new(&schema::POLICY, 0..0, root, problems);
        let mut document = Self {
            version: root.integer("version"),
            name: root.string("name"),
            extends: root.string("extends"),
            mode: root.choice("mode"),
            agents: root.tables("agents", AgentText::read),
            ..Self::default()
        };
        if let Some(mut local) = root.table("local") {
            document.loopback = local.choice("loopback");
            document.listen = local.choice("listen");
            document.unix = local.choice("unix");
            document.unix_allow = local.strings("unix_allow");
        }
        if let Some(mut dns) = root.table("dns") {
            document.resolvers = dns.strings("resolvers");
            document.search = dns.strings("search");
        }
        if let Some(mut tls) = root.table("tls") {
            document.tls = SpokenText::read(&mut tls);
        }
        if let Some(mut egress) = root.table("egress") {
            document.presets = egress.strings("presets");
            document.allow = egress.tables("allow", |mut table| {
                // A rule for a proxy needs no network: that it has none would be the same problem twice.
                let proxy = matches!(table.take("proxy"), Field::Bad);
                let spoken = SpokenText { app: table.choice("app"), ..SpokenText::read(&mut table) };
                let rule = RuleText { spoken, ..RuleText::read(table) };
                let cidr = if proxy && rule.cidr.is_absent() { Field::Bad } else { rule.cidr };
                RuleText { cidr, ..rule }
            });
            document.deny = egress.tables("deny", RuleText::read);
        }
        if let Some(mut detect) = root.table("detect") {
            document.detect = kinds()
                .filter_map(|kind| Some((kind, detect.table(kind.label())?.choice("action"))))
                .collect();
        }
        Some(document)
    }
}

impl AgentText {
    fn read(mut table: Walker<'_, '_>) -> Self {
        Self {
            span: table.span.clone(),
            unit: table.string("unit"),
            cgroup: table.string("cgroup"),
            container: table.string("container"),
        }
    }
}

impl RuleText {
    fn read(mut table: Walker<'_, '_>) -> Self {
        Self {
            span: table.span.clone(),
            cidr: table.string("cidr"),
            domain: table.string("domain"),
            ports: table.ports("ports"),
            protocols: table.choices("protocols"),
            spoken: SpokenText::default(),
        }
    }
}

impl SpokenText {
    /// The keys that rules and `[tls]` have.
    fn read(table: &mut Walker<'_, '_>) -> Self {
        Self {
            app: Field::Absent,
            sni: table.choice("sni"),
            ech: table.choice("ech"),
            quic: table.choice("quic"),
        }
    }
}

/// The tables of a TOML file; problems go to `problems`. `None` if it is not TOML.
pub(crate) fn root<'a>(text: &'a str, problems: &mut Vec<Diagnostic>) -> Option<DeTable<'a>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    problems.extend(errors.iter().map(syntax));
    errors.is_empty().then(|| root.into_inner())
}

fn syntax(error: &toml::de::Error) -> Diagnostic {
    let message = format!("not TOML: {}", error.message());
    match error.span() {
        Some(span) => Diagnostic::new(Code::Syntax, span, message),
        None => Diagnostic::of_file(Code::Syntax, message),
    }
}
