//! Walking a TOML tree along the table of keys: what is left has the right keys, with values of the right
//! types; everything else is reported.

use std::{collections::HashMap, ops::Range};

use toml::{
    Spanned,
    de::{DeArray, DeInteger, DeTable, DeValue},
};

use super::{Field, PortText};
use crate::policy::{
    diagnostic::{Code, Diagnostic, quote},
    resolvers,
    schema::{self, Choice, Key, Kind, Table},
};

/// A table of the file with the description of its keys.
pub(crate) struct Walker<'i, 'p> {
    spec: &'static Table,
    /// Its header, or the whole of an inline table.
    pub(crate) span: Range<usize>,
    /// `None`: there, and wrong.
    values: HashMap<&'static str, Option<Spanned<DeValue<'i>>>>,
    problems: &'p mut Vec<Diagnostic>,
}

impl<'i, 'p> Walker<'i, 'p> {
    pub(crate) fn new(
        spec: &'static Table,
        span: Range<usize>,
        table: DeTable<'i>,
        problems: &'p mut Vec<Diagnostic>,
    ) -> Self {
        let mut values = HashMap::new();
        let mut misspelt = Vec::new();
        for (name, value) in table {
            let Some(key) = spec.key(name.get_ref()) else {
                let (problem, meant) = unknown_key(spec, name.get_ref(), name.span());
                problems.push(problem);
                misspelt.extend(meant);
                continue;
            };
            if matches!(key.kind, Kind::NotEnforced) {
                values.insert(key.name, None);
                problems.push(
                    Diagnostic::new(
                        Code::NotEnforced,
                        name.span(),
                        format!("`{}` is not enforced by this version of agentnet: remove it", key.name),
                    )
                    .help("a policy must not promise what does not happen; `docs/policy.md` has what does"),
                );
                continue;
            }
            let fits = key.kind.fits(value.get_ref());
            if !fits {
                problems.push(wrong_type(key, &value));
            }
            values.insert(key.name, fits.then_some(value));
        }
        for meant in misspelt {
            // That it is missing as well would be the same problem twice.
            values.entry(meant).or_insert(None);
        }
        Self { spec, span, values, problems }
    }

    /// Adds a problem that its reader found.
    pub(crate) fn report(&mut self, problem: Diagnostic) {
        self.problems.push(problem);
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Field<DeValue<'i>> {
        debug_assert!(self.spec.key(name).is_some(), "{name} is not a key of {}", self.spec.name);
        match self.values.remove(name) {
            None => Field::Absent,
            Some(None) => Field::Bad,
            Some(Some(value)) => Field::Is(value),
        }
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Field<String> {
        self.take(name)
            .and_then(|value| value.get_ref().as_str().map(|text| spanned(&value, text.to_owned())))
    }

    pub(crate) fn integer(&mut self, name: &'static str) -> Field<i64> {
        self.take(name).and_then(|value| match value.get_ref() {
            DeValue::Integer(digits) => integer(digits).map(|number| spanned(&value, number)),
            _ => None,
        })
    }

    /// The code of a word that the table of keys has.
    pub(crate) fn choice(&mut self, name: &'static str) -> Field<u8> {
        let choices = self.words(name);
        self.take(name).and_then(|value| {
            let code = self.code(name, choices, &value)?;
            Some(spanned(&value, code))
        })
    }

    /// The set of the codes of several words.
    pub(crate) fn choices(&mut self, name: &'static str) -> Field<u8> {
        let choices = self.words(name);
        self.list(name).and_then(|list| {
            let codes: Vec<_> = list.get_ref().iter().map(|item| self.code(name, choices, item)).collect();
            let set = codes.into_iter().try_fold(0, |set, code| Some(set | code?))?;
            Some(spanned(&list, set))
        })
    }

    pub(crate) fn ports(&mut self, name: &'static str) -> Field<Vec<Spanned<PortText>>> {
        self.list(name).and_then(|list| {
            let mut ports = Vec::new();
            for item in list.get_ref() {
                let value = item.get_ref();
                let port = match value {
                    DeValue::String(text) => PortText::Text(text.to_string()),
                    DeValue::Integer(digits) => {
                        integer(digits).map_or_else(|| PortText::Text(digits.to_string()), PortText::Number)
                    }
                    _ => PortText::Bad,
                };
                if matches!(port, PortText::Bad) {
                    self.problems.push(
                        Diagnostic::new(
                            Code::WrongType,
                            item.span(),
                            format!("a port is an integer or a string, not {}", type_name(value)),
                        )
                        .help("write ports = [443, \"8000-8099\"]"),
                    );
                }
                ports.push(spanned(item, port));
            }
            Some(spanned(&list, ports))
        })
    }

    /// A list of texts.
    pub(crate) fn strings(&mut self, name: &'static str) -> Field<Vec<Spanned<String>>> {
        self.list(name).and_then(|list| {
            let texts = list.get_ref().iter().map(|item| {
                let text = item.get_ref().as_str().map(|text| spanned(item, text.to_owned()));
                if text.is_none() {
                    self.problems.push(Diagnostic::new(
                        Code::WrongType,
                        item.span(),
                        format!("`{name}` takes strings, not {}", type_name(item.get_ref())),
                    ));
                }
                text
            });
            // All are looked at before one that is wrong ends it.
            let texts: Vec<_> = texts.collect();
            Some(spanned(&list, texts.into_iter().collect::<Option<_>>()?))
        })
    }

    /// A list that is not empty, unless its kind may be.
    fn list(&mut self, name: &'static str) -> Field<DeArray<'i>> {
        let may_be_empty =
            self.spec.key(name).is_some_and(|key| matches!(key.kind, Kind::Suffixes | Kind::Texts));
        self.take(name).and_then(|value| {
            let span = value.span();
            let DeValue::Array(list) = value.into_inner() else { return None };
            if list.is_empty() && !may_be_empty {
                self.problems.push(
                    Diagnostic::new(Code::EmptyList, span, format!("`{name}` is empty"))
                        .help(format!("list at least one, or remove `{name}`")),
                );
                return None;
            }
            Some(Spanned::new(span, list))
        })
    }

    pub(crate) fn table(&mut self, name: &'static str) -> Option<Walker<'i, '_>> {
        let spec = match self.spec.key(name)?.kind {
            Kind::Table(spec) => spec,
            Kind::Detect => schema::detect(),
            _ => return None,
        };
        let Field::Is(value) = self.take(name) else { return None };
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Some(Walker::new(spec, span, table, self.problems)),
            _ => None,
        }
    }

    pub(crate) fn tables<T>(&mut self, name: &'static str, read: impl Fn(Walker<'i, '_>) -> T) -> Vec<T> {
        let Some(Key { kind: Kind::Tables(spec), .. }) = self.spec.key(name) else { return Vec::new() };
        let Field::Is(value) = self.take(name) else { return Vec::new() };
        let DeValue::Array(list) = value.into_inner() else { return Vec::new() };
        let mut tables = Vec::new();
        for item in list {
            let span = item.span();
            // `fits` has seen to it that these are tables.
            if let DeValue::Table(table) = item.into_inner() {
                tables.push(read(Walker::new(spec, span, table, self.problems)));
            }
        }
        tables
    }

    fn words(&self, name: &str) -> &'static [Choice] {
        match self.spec.key(name) {
            Some(Key { kind: Kind::Choice(choices) | Kind::Choices(choices), .. }) => choices,
            _ => &[],
        }
    }

    /// The code of the word `value`; what is wrong with it is reported.
    fn code(&mut self, name: &str, choices: &[Choice], value: &Spanned<DeValue<'_>>) -> Option<u8> {
        let words = || choices.iter().map(|choice| choice.word);
        let one_of = || list(words().map(|word| format!("\"{word}\"")));
        let Some(text) = value.get_ref().as_str() else {
            self.problems.push(
                Diagnostic::new(
                    Code::WrongType,
                    value.span(),
                    format!("`{name}` takes strings, not {}", type_name(value.get_ref())),
                )
                .help(format!("one of {}", one_of())),
            );
            return None;
        };
        let code = choices.iter().find(|choice| choice.word == text).map(|choice| choice.code);
        if code.is_none() {
            let help = match closest(text, words()) {
                Some(word) => format!("did you mean \"{word}\"? Possible are {}", one_of()),
                None => format!("possible are {}", one_of()),
            };
            self.problems.push(
                Diagnostic::new(
                    Code::UnknownValue,
                    value.span(),
                    format!("{} is not a value of `{name}`", quote(text)),
                )
                .help(help),
            );
        }
        code
    }
}

impl Kind {
    /// Whether `value` has the right type, as far as the items of a list.
    fn fits(&self, value: &DeValue<'_>) -> bool {
        match (self, value) {
            (Self::Version, DeValue::Integer(digits)) => integer(digits).is_some(),
            (
                Self::Name | Self::Cidr | Self::Domain | Self::Pattern | Self::Text(_) | Self::Choice(_),
                DeValue::String(_),
            )
            | (
                Self::Ports
                | Self::Choices(_)
                | Self::UnixNames
                | Self::Presets
                | Self::Resolvers
                | Self::Suffixes
                | Self::Texts,
                DeValue::Array(_),
            )
            | (Self::Table(_) | Self::Detect, DeValue::Table(_)) => true,
            (Self::Tables(_), DeValue::Array(list)) => {
                list.iter().all(|item| matches!(item.get_ref(), DeValue::Table(_)))
            }
            _ => false,
        }
    }

    /// The right type in words, and how it is written.
    fn expected(&self, name: &str) -> (&'static str, String) {
        match self {
            Self::Version => ("an integer", format!("write {name} = {}", schema::VERSION)),
            Self::Name => ("a string", format!("write {name} = \"coding\"")),
            Self::Cidr => ("a string", format!("write {name} = \"10.20.0.0/16\", one rule for each network")),
            Self::Domain => ("a string", format!("write {name} = \"example.com\", one rule for each name")),
            Self::Pattern => ("a string", format!("write {name} = \"...\", one entry for each pattern")),
            Self::Ports => ("a list", format!("write {name} = [443, \"8000-8099\"]")),
            Self::UnixNames => ("a list", format!("write {name} = [\"/run/postgresql/\"]")),
            Self::Presets => ("a list", format!("write {name} = [\"github\"]")),
            Self::Resolvers | Self::Suffixes => {
                ("a list", format!("write {name} = [\"{}\"]", resolvers::SYSTEM))
            }
            Self::Texts => ("a list", format!("write {name} = [\"...\"], or [] for none")),
            Self::Text(example) => ("a string", format!("write {name} = \"{example}\"")),
            Self::Choice(choices) => {
                ("a string", format!("one of {}", list(choices.iter().map(|c| format!("\"{}\"", c.word)))))
            }
            Self::Choices(choices) => {
                let example = choices.first().map_or("", |choice| choice.word);
                ("a list", format!("write {name} = [\"{example}\"]"))
            }
            Self::Table(table) => ("a table", format!("write {} above its keys", table.name)),
            Self::Detect => ("a table", "write [detect.dns_tunnel] above its keys".to_owned()),
            Self::Tables(table) => ("a list of tables", format!("begin each with {}", table.name)),
            Self::NotEnforced => ("nothing", format!("remove {name}")),
        }
    }
}

fn wrong_type(key: &Key, value: &Spanned<DeValue<'_>>) -> Diagnostic {
    let (expected, help) = key.kind.expected(key.name);
    let found = match value.get_ref() {
        DeValue::Integer(digits) if integer(digits).is_none() => "an integer of more than 64 bits",
        other => type_name(other),
    };
    Diagnostic::new(
        Code::WrongType,
        value.span(),
        format!("`{}` is {expected}, and this is {found}", key.name),
    )
    .help(help)
}

/// The problem, and the key that was meant.
fn unknown_key(spec: &Table, name: &str, span: Range<usize>) -> (Diagnostic, Option<&'static str>) {
    let keys = || spec.keys.iter().filter(|key| !matches!(key.kind, Kind::NotEnforced)).map(|key| key.name);
    let meant = closest(name, keys());
    let help = match meant {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("the keys here are {}", list(keys().map(|key| format!("`{key}`")))),
    };
    let message = format!("{} is not a key of {}", quote(name), spec.name);
    (Diagnostic::new(Code::UnknownKey, span, message).help(help), meant)
}

/// The word most like `text`, if one is like it.
pub(crate) fn closest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.6;
    words
        .map(|word| (strsim::normalized_damerau_levenshtein(text, word), word))
        .filter(|&(likeness, _)| likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

/// `a, b and c`.
fn list(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<_> = items.collect();
    match (items.pop(), items.is_empty()) {
        (Some(last), false) => format!("{} and {last}", items.join(", ")),
        (last, _) => last.unwrap_or_default(),
    }
}

/// The value of an integer, in whichever of TOML's bases; `None` beyond `i64`.
fn integer(digits: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(digits.as_str(), digits.radix()).ok()
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn spanned<T, U>(place: &Spanned<T>, value: U) -> Spanned<U> {
    Spanned::new(place.span(), value)
}
