//! `[dns]`: who is asked for names.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use crate::policy::{
    diagnostic::{Code, Diagnostic, quote},
    name::Name,
    parse::{Document, Field},
    resolvers::{MOST, Resolution, SYSTEM, is_unicast},
};

/// `[dns]`; what is not written is `None`.
#[derive(Clone, Debug, Default)]
pub struct Dns {
    /// `resolvers`; `None` in the list is [`SYSTEM`].
    resolvers: Option<Vec<Option<IpAddr>>>,
    /// `search`; `None` in the list is [`SYSTEM`].
    search: Option<Vec<Option<Name>>>,
}

impl Dns {
    pub(super) fn check(document: &Document, problems: &mut Vec<Diagnostic>) -> Self {
        Self {
            resolvers: list(&document.resolvers, "resolvers", problems, check_resolver),
            search: list(&document.search, "search domains", problems, check_suffix),
        }
    }

    /// This, and where it says nothing what `other` says.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self { resolvers: self.resolvers.or(other.resolvers), search: self.search.or(other.search) }
    }

    /// Who is asked where `system` is what the host says.
    pub fn on(&self, system: &Resolution) -> Resolution {
        Resolution {
            servers: expand(self.resolvers.as_deref(), &system.servers),
            search: expand(self.search.as_deref(), &system.search),
        }
    }
}

/// The items of a list in its order, each once; [`SYSTEM`] is `system`, and so is no list.
fn expand<T: Clone + PartialEq>(written: Option<&[Option<T>]>, system: &[T]) -> Vec<T> {
    let Some(written) = written else { return system.to_vec() };
    let mut all: Vec<T> = Vec::new();
    for item in written {
        let items = item.as_ref().map_or(system, std::slice::from_ref);
        for item in items {
            if !all.contains(item) {
                all.push(item.clone());
            }
        }
    }
    all
}

fn list<T>(
    field: &Field<Vec<Spanned<String>>>,
    what: &str,
    problems: &mut Vec<Diagnostic>,
    check: impl Fn(&str) -> Result<T, (Code, String, Option<String>)>,
) -> Option<Vec<Option<T>>> {
    let written = field.value()?.get_ref();
    if let Some(item) = written.get(MOST) {
        problems.push(
            Diagnostic::new(
                Code::TooManyResolvers,
                item.span(),
                format!("{} {what} are more than the {MOST} that a policy can have", written.len()),
            )
            .label("the first one too many"),
        );
    }
    let mut items = Vec::new();
    for item in written {
        let text = item.get_ref();
        if text == SYSTEM {
            items.push(None);
            continue;
        }
        match check(text) {
            Ok(item) => items.push(Some(item)),
            Err((code, message, help)) => {
                let problem = Diagnostic::new(code, item.span(), message);
                problems.push(Diagnostic { help, ..problem });
            }
        }
    }
    Some(items)
}

fn check_resolver(text: &str) -> Result<IpAddr, (Code, String, Option<String>)> {
    let wrong = |why: &str, help: String| {
        Err((Code::Resolver, format!("{} is not a resolver: {why}", quote(text)), Some(help)))
    };
    let ip: IpAddr = match text.parse() {
        Ok(ip) => ip,
        Err(_) => {
            if let Ok(address) = text.parse::<SocketAddr>() {
                return wrong(
                    "it has a port",
                    format!(
                        "write \"{}\": whatever is sent to a resolver has to be a plain query, on every port",
                        address.ip()
                    ),
                );
            }
            if let Some((ip, _)) = text.split_once('%')
                && ip.parse::<IpAddr>().is_ok()
            {
                return wrong(
                    "it has an interface",
                    format!("write \"{ip}\": that address at every interface"),
                );
            }
            return wrong(
                "it is not an address",
                format!("write an address, such as \"192.0.2.53\", or \"{SYSTEM}\" for those of the host"),
            );
        }
    };
    let canonical = ip.to_canonical();
    if canonical != ip {
        return wrong("IPv4 addresses are written as such", format!("write \"{canonical}\""));
    }
    if ip.is_unspecified() || !is_unicast(ip) {
        return wrong("no single host has this address", "write the address of one host".to_owned());
    }
    Ok(ip)
}

fn check_suffix(text: &str) -> Result<Name, (Code, String, Option<String>)> {
    Name::parse(text).map_err(|error| {
        let help = "write a domain that is tried behind names, such as \"corp.example\"".to_owned();
        (Code::Domain, format!("{} is not a domain name: {error}", quote(text)), Some(help))
    })
}
