//! [`Document`]s -> [`Valid`]: rules that mean something, each with its place.

mod agents;
mod dns;
mod rule;

use agentnet_common::{
    abi::{LOCAL_OWN, MAX_RULES, MODE_ENFORCE},
    verdict::RuleId,
};

pub use self::{
    agents::Agents,
    dns::Dns,
    rule::{Effect, Rule, Target},
};
use super::{
    diagnostic::{Code, Diagnostic, quote},
    parse::{Document, Field},
    schema,
    source::FileId,
    spoken::Spoken,
    unix::UnixSockets,
};
use crate::detect::action::Actions;

/// A policy whose every part is right.
#[derive(Clone, Debug)]
pub struct Valid {
    /// Its name.
    pub name: String,
    /// `MODE_*` of [`agentnet_common::abi`].
    pub mode: u8,
    /// `[local] loopback`, `LOCAL_*`.
    pub loopback: u8,
    /// `[local] listen`, `LOCAL_*`.
    pub listen: u8,
    /// `[local] unix` and `unix_allow`.
    pub unix: UnixSockets,
    /// The rules by [`RuleId`]: those of the file in its order, then those of its presets, then those of the
    /// policy it extends.
    pub rules: Vec<Rule>,
    /// `[dns]`.
    pub dns: Dns,
    /// `[[agents]]`.
    pub agents: Vec<Agents>,
    /// `[detect]`.
    pub detect: Actions,
}

/// A file of a policy as written.
#[derive(Debug)]
pub struct Part {
    /// Which file.
    pub file: FileId,
    /// What it says.
    pub document: Document,
}

impl Valid {
    /// Checks what the files of a policy say, those first that count more; problems go to `problems`. Rules with a
    /// problem are left out, so that the others can be looked at further.
    pub fn check(parts: &[Part], problems: &mut Vec<Diagnostic>) -> Self {
        let checked: Vec<_> = parts.iter().map(|part| Checked::of(part, problems)).collect();
        let mut rules: Vec<_> = Vec::new();
        let (mut name, mut dns, mut agents) = (None, Dns::default(), Vec::new());
        let mut unix = UnixSockets::default();
        for (part, checked) in parts.iter().zip(checked) {
            rules.extend(checked.rules);
            dns = dns.or(checked.dns);
            unix = unix.with(checked.unix);
            name.get_or_insert(checked.name);
            // Whoever extends a policy does not take its agents away from it.
            if part.file == FileId::MAIN {
                agents = checked.agents;
            }
        }
        let said = parts.iter().map(|part| Spoken::from(&part.document.tls));
        let tls = said.fold(Spoken::default(), Spoken::or);
        let mut rules: Vec<_> =
            rules.into_iter().map(|rule: Rule| rule.with_defaults(tls, problems)).collect();
        if let Some(rule) = rules.get(MAX_RULES) {
            problems.push(
                Diagnostic::new(
                    Code::TooManyRules,
                    rule.place.clone(),
                    format!("{} rules are more than the {MAX_RULES} that a policy can have", rules.len()),
                )
                .label("the first one too many")
                .help("merge rules for neighbouring networks"),
            );
            rules.truncate(MAX_RULES);
        }
        let mut detect = Actions::default();
        // What the policy says comes after, and instead of, what those say that it extends.
        for (kind, action) in parts.iter().rev().flat_map(|part| &part.document.detect) {
            if let Some(code) = action.value() {
                detect.set(*kind, schema::setting(*code.get_ref()));
            }
        }
        let word = |field: fn(&Document) -> &Field<u8>, default| {
            let mut values = parts.iter().filter_map(|part| field(&part.document).value());
            values.next().map_or(default, |value| *value.get_ref())
        };
        Self {
            name: name.unwrap_or_default(),
            mode: word(|document| &document.mode, MODE_ENFORCE),
            loopback: word(|document| &document.loopback, LOCAL_OWN),
            listen: word(|document| &document.listen, LOCAL_OWN),
            unix,
            rules,
            dns,
            agents,
            detect,
        }
    }

    /// The rules with their identifiers.
    pub fn numbered(&self) -> impl Iterator<Item = (RuleId, &Rule)> {
        (0..).map(RuleId).zip(&self.rules)
    }
}

/// What a file says by itself.
struct Checked {
    name: String,
    rules: Vec<Rule>,
    unix: UnixSockets,
    dns: Dns,
    agents: Vec<Agents>,
}

impl Checked {
    fn of(part: &Part, problems: &mut Vec<Diagnostic>) -> Self {
        let Part { file, document } = part;
        let mut found = Vec::new();
        check_version(&document.version, &mut found);
        let name = check_name(&document.name, &mut found);
        let allow = document.allow.iter().map(|rule| (Effect::Allow, rule));
        let deny = document.deny.iter().map(|rule| (Effect::Deny, rule));
        let rules = allow.chain(deny).filter_map(|(effect, text)| rule::check(effect, text, &mut found));
        let mut rules: Vec<_> = rules.map(|rule| rule.in_file(*file)).collect();
        rules.sort_by_key(|rule| rule.place.span.start);
        let dns = Dns::check(document, &mut found);
        let unix = UnixSockets::check(document, *file, &mut found);
        let agents = document.agents.iter().filter_map(|entry| agents::check(entry, &mut found)).collect();
        problems.extend(found.into_iter().map(|problem| problem.in_file(*file)));
        Self { name, rules, unix, dns, agents }
    }
}

fn check_version(version: &Field<i64>, problems: &mut Vec<Diagnostic>) {
    let right = format!("write version = {} at the top of the file", schema::VERSION);
    match version {
        Field::Absent => problems.push(
            Diagnostic::new(Code::MissingKey, 0..0, "the policy does not say its `version`").help(right),
        ),
        Field::Is(version) if *version.get_ref() != i64::from(schema::VERSION) => problems.push(
            Diagnostic::new(
                Code::Version,
                version.span(),
                format!("this version of agentnet does not know version {} of the format", version.get_ref()),
            )
            .help(format!("it knows version {}", schema::VERSION)),
        ),
        Field::Is(_) | Field::Bad => {}
    }
}

fn check_name(name: &Field<String>, problems: &mut Vec<Diagnostic>) -> String {
    match name {
        Field::Bad => String::new(),
        Field::Absent => {
            problems.push(
                Diagnostic::new(Code::MissingKey, 0..0, "the policy does not say its `name`")
                    .help("write name = \"...\" at the top of the file; alerts give it"),
            );
            String::new()
        }
        Field::Is(name) => {
            if !is_policy_name(name.get_ref()) {
                problems.push(
                    Diagnostic::new(
                        Code::PolicyName,
                        name.span(),
                        format!("{} is not a name for a policy", quote(name.get_ref())),
                    )
                    .help(format!(
                        "a name has 1 to {} lower-case letters, digits, `-`, `_` and `.`, and begins with a \
                         letter or digit",
                        schema::NAME_LENGTH
                    )),
                );
            }
            name.get_ref().clone()
        }
    }
}

/// Whether `name` can be the name of a policy, and thus of a file.
pub fn is_policy_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= schema::NAME_LENGTH
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || matches!(byte, b'-' | b'_' | b'.'))
}
