//! What means something and does something else, or nothing: most of it can be used all the same.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::{
    diagnostic::{Code, Diagnostic},
    special,
    traffic::Traffic,
    validate::{Effect, Rule, Valid},
};

/// What a policy whose every part is right does differently than its author may think. Independent of the
/// host but for the directories of Unix sockets; what concerns only files that this one names is said of them.
pub fn of(valid: &Valid) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    duplicates(valid, &mut warnings);
    wide_wildcards(valid, &mut warnings);
    proxies(valid, &mut warnings);
    denies_by_name_only(valid, &mut warnings);
    warnings.extend(valid.unix.warnings());
    warnings
}

fn duplicates(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    let mut seen: HashMap<_, &Rule> = HashMap::new();
    for rule in &valid.rules {
        // The file's own rules come first: what is twice elsewhere is not its author's.
        match seen.entry((rule.effect, &rule.target, rule.traffic(), rule.spoken)) {
            Entry::Vacant(entry) => {
                entry.insert(rule);
            }
            Entry::Occupied(first) if !first.get().is_own() => {}
            Entry::Occupied(first) if rule.is_own() => warnings.push(
                Diagnostic::new(Code::Duplicate, rule.place.clone(), format!("`{rule}` is here twice"))
                    .related(first.get().place.clone(), "the same rule")
                    .help("remove one of them"),
            ),
            Entry::Occupied(first) => warnings.push(
                Diagnostic::new(
                    Code::Duplicate,
                    first.get().place.clone(),
                    format!("`{rule}` is in what the policy takes from elsewhere already"),
                )
                .related(rule.place.clone(), "the same rule")
                .help("remove it here"),
            ),
        }
    }
}

fn wide_wildcards(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    for rule in valid.rules.iter().filter(|rule| rule.effect == Effect::Allow && rule.is_own()) {
        let Some(name) = rule.name().filter(|name| name.is_wide()) else { continue };
        let message = match name.base() {
            "" => "`*` allows every name there is".to_owned(),
            base => format!("`*.{base}` allows every name below the top-level domain `{base}`"),
        };
        warnings.push(
            Diagnostic::new(Code::WideWildcard, rule.target_place.clone(), message)
                .help("anybody can have a name there: name the domains that are meant"),
        );
    }
}

/// Ports on which proxies usually listen: SOCKS (RFC 1928), Squid, Privoxy, Tor, and what others use by default.
const PROXY_PORTS: &[u16] = &[1080, 3128, 8080, 8118, 8888, 9050, 9150];

/// Rules for ports of proxies: a proxy asks whomever it is told to, whatever names the policy allows. A range that happens
/// to have such a port in it is not meant for one, and 8080 by name has to be HTTP to that name.
fn proxies(valid: &Valid, warnings: &mut Vec<Diagnostic>) {
    for rule in valid.rules.iter().filter(|rule| rule.effect == Effect::Allow && rule.is_own()) {
        let ports = rule.traffic();
        let written = |port: &u16| ports.tcp().ranges().contains(&(*port, *port));
        let anything = |port: &u16| rule.spoken.at(*port) == 0;
        let Some(port) = PROXY_PORTS.iter().find(|port| written(port) && anything(port)) else { continue };
        warnings.push(
            Diagnostic::new(
                Code::ProxyPort,
                rule.target_place.clone(),
                format!(
                    "port {port} is one of proxies: through a proxy at `{}` every name can be reached",
                    rule.target
                ),
            )
            .help("if it is one, what it may be asked for is its own allowlist's to say"),
        );
    }
}

/// Deny wins over allow, and a name that is denied is not, wherever its address is allowed: on the internet,
/// where anybody's names can have any address, the policy would promise what does not happen. The addresses
/// of special-purpose networks are the reader's own to know; a name of others that leads there is unlikely,
/// and possible.
fn denies_by_name_only(valid: &Valid, problems: &mut Vec<Diagnostic>) {
    let denies = valid.rules.iter().filter(|rule| rule.effect == Effect::Deny);
    let denies: Vec<_> = denies.filter_map(|rule| Some((rule, rule.name()?))).collect();
    if denies.is_empty() {
        return;
    }
    // Of the rules that allow the same, the first stands for all: files have thousands of them.
    let mut seen = HashSet::new();
    let mut allows: Vec<_> = valid
        .rules
        .iter()
        .filter(|rule| rule.effect == Effect::Allow)
        .filter_map(|rule| Some((rule, special::innermost(rule.net()?, &[]).is_some(), left_of(rule, valid))))
        .filter(|(_, special, left)| seen.insert((*special, left.clone())))
        .collect();
    // The worst first.
    allows.sort_by_key(|(_, special, _)| *special);
    for (rule, name) in denies {
        let traffic = rule.traffic();
        let Some((allow, special, _)) = allows.iter().find(|(_, _, left)| left.minus(&traffic) != *left)
        else {
            continue;
        };
        let (code, help) = if *special {
            (Code::DenyByNameOnly, "deny its addresses with `cidr` as well, or allow fewer")
        } else {
            (
                Code::DenyNotEnforced,
                "deny its addresses with `cidr` instead, or allow only networks that have no such name",
            )
        };
        problems.push(
            Diagnostic::new(
                code,
                rule.target_place.clone(),
                format!("`{name}` is not denied at addresses that a `cidr` rule allows"),
            )
            .related(allow.target_place.clone(), "allows addresses, whatever their names")
            .help(help),
        );
    }
}

/// What denies for all of its network leave of an allow rule.
fn left_of(allow: &Rule, valid: &Valid) -> Traffic {
    let denies = valid.rules.iter().filter(|deny| deny.effect == Effect::Deny && deny.speaks_of(allow));
    denies.fold(allow.traffic(), |left, deny| left.minus(&deny.traffic()))
}
