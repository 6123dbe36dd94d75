//! `[[agents]]`: exactly one key each, with a pattern that means something.

use std::ops::Range;

use crate::policy::{
    diagnostic::{Code, Diagnostic, quote},
    parse::{AgentText, Field},
    selector::{Selector, SelectorError},
};

/// An entry of `[[agents]]`.
#[derive(Clone, Debug)]
pub struct Agents {
    /// Which agents it is about.
    pub selector: Selector,
    /// Where it is written: its header.
    pub span: Range<usize>,
}

pub(super) fn check(text: &AgentText, problems: &mut Vec<Diagnostic>) -> Option<Agents> {
    type Parse = fn(&str) -> Result<Selector, SelectorError>;
    let keys: [(&str, &Field<String>, Parse); 3] = [
        ("unit", &text.unit, Selector::unit),
        ("cgroup", &text.cgroup, Selector::cgroup),
        ("container", &text.container, Selector::container),
    ];
    let mut written = keys.into_iter().filter(|(_, field, _)| !field.is_absent());
    let Some((key, field, parse)) = written.next() else {
        problems.push(
            Diagnostic::new(
                Code::Target,
                text.span.clone(),
                "the entry does not say which agents it is about",
            )
            .help(SelectorError::Empty.help()),
        );
        return None;
    };
    if let Some((other_key, other, _)) = written.next() {
        if let (Field::Is(value), Field::Is(other)) = (field, other) {
            problems.push(
                Diagnostic::new(
                    Code::Target,
                    other.span(),
                    format!("an entry has either `{key}` or `{other_key}`, not both"),
                )
                .related(value.span(), format!("its `{key}`"))
                .help("make two entries of it: an agent gets the policy if one of them fits"),
            );
        }
        return None;
    }
    let value = field.value()?;
    match parse(value.get_ref()) {
        Ok(selector) => Some(Agents { selector, span: text.span.clone() }),
        Err(error) => {
            let message = format!("{} is not a pattern for `{key}`: {error}", quote(value.get_ref()));
            problems.push(Diagnostic::new(Code::Selector, value.span(), message).help(error.help()));
            None
        }
    }
}
