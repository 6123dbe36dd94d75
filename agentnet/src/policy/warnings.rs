//! What is right and probably not meant.

use std::collections::{HashMap, hash_map::Entry};

use super::{
    diagnostic::{Code, Diagnostic},
    validate::{Effect, Rule, Valid},
};

/// What a policy without errors does differently than its author may think. Independent of the host.
pub fn of(valid: &Valid) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    duplicates(valid, &mut warnings);
    wide_wildcards(valid, &mut warnings);
    names_not_resolved(valid, &mut warnings);
    denies_by_name_only(valid, &mut warnings);
    warnings
}

fn duplicates(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<_, &Rule> = HashMap::new();
    for rule in &valid.rules {
        match seen.entry((rule.effect, &rule.target, rule.traffic())) {
            Entry::Vacant(entry) => {
                entry.insert(rule);
            }
            Entry::Occupied(first) => warnings.push(
                Diagnostic::new(Code::Duplicate, rule.span.clone(), format!("`{rule}` is here twice"))
                    .related(first.get().span.clone(), "the same rule")
                    .help("remove one of them"),
            ),
        }
    }
}

fn wide_wildcards(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    for rule in valid.rules.iter().filter(|rule| rule.effect == Effect::Allow) {
        let Some(name) = rule.name().filter(|name| name.is_wide()) else { continue };
        let message = match name.base() {
            "" => "`*` allows every name there is".to_owned(),
            base => format!("`*.{base}` allows every name below the top-level domain `{base}`"),
        };
        warnings.push(
            Diagnostic::new(Code::WideWildcard, rule.target_span.clone(), message)
                .help("anybody can have a name there: name the domains that are meant"),
        );
    }
}

fn names_not_resolved(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    let allowed: Vec<_> =
        valid.rules.iter().filter(|rule| rule.effect == Effect::Allow && rule.name().is_some()).collect();
    if let Some(first) = allowed.first() {
        let rules = if allowed.len() == 1 { "rule" } else { "rules" };
        warnings.push(
            Diagnostic::new(
                Code::NamesNotResolved,
                first.target_span.clone(),
                format!(
                    "names are not resolved by this version: traffic to {} name {rules} stays denied",
                    allowed.len()
                ),
            )
            .help("allow the addresses with `cidr` where they are known and belong to nobody else"),
        );
    }
}

fn denies_by_name_only(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    let allowed = |rule: &&Rule| rule.effect == Effect::Allow && rule.net().is_some();
    for rule in valid.rules.iter().filter(|rule| rule.effect == Effect::Deny) {
        let Some(name) = rule.name() else { continue };
        let traffic = rule.traffic();
        let overlaps = |allow: &&Rule| allow.traffic().minus(&traffic) != allow.traffic();
        let Some(allow) = valid.rules.iter().filter(allowed).find(overlaps) else { continue };
        warnings.push(
            Diagnostic::new(
                Code::DenyByNameOnly,
                rule.target_span.clone(),
                format!(
                    "names are not resolved by this version: `{name}` is not denied at addresses that a \
                     `cidr` rule allows"
                ),
            )
            .related(allow.target_span.clone(), "allows addresses, whatever their names")
            .help("deny its addresses with `cidr` as well, or allow fewer"),
        );
    }
}
