//! Which name is meant by an address.

use std::{net::IpAddr, sync::Arc};

use agentnet_common::{
    addr::Endpoint,
    event::Hook,
    user::{Cause, VerdictRecord},
    verdict::{Reason, RuleId},
};

use super::{super::model::Destination, Pipeline};

impl Pipeline {
    /// The name by which the far end of `record` was, or was not, to be reached. Where the agent has resolved several to
    /// one address, nobody knows which it meant, unless one of them was blocked: that is then why it is refused.
    pub(super) fn domain(&self, record: &VerdictRecord) -> Option<Arc<str>> {
        let is_call = matches!(record.hook, Hook::Connect | Hook::Sendmsg | Hook::Egress);
        if !is_call || record.message.is_some() {
            return None;
        }
        let endpoint = &record.event.endpoint;
        match record.cause {
            Cause::Rule(rule) => self.opened_by(rule, endpoint),
            Cause::Reason(_) => {
                let names = self.names.names_of(&endpoint.addr);
                let blocked = names.iter().find(|name| self.policy.refused_name(name).is_some());
                blocked.map(|name| Arc::from(name.as_str())).or_else(|| only(names))
            }
        }
    }

    /// The name of an address that `rule` allows.
    pub(super) fn opened_by(&self, rule: RuleId, endpoint: &Endpoint) -> Option<Arc<str>> {
        let names = self.names.names_of(&endpoint.addr);
        only(names.into_iter().filter(|name| self.policy.rule_of_name(name, endpoint) == Some(rule)))
    }

    /// The name of an address, whatever it was about.
    pub(super) fn name_of(&self, ip: IpAddr) -> Option<Arc<str>> {
        only(self.names.names_of(&ip.to_canonical().into()))
    }

    /// Why nothing of that name is reached, where a block is what refuses `record`.
    pub(super) fn blocked_by_name(&self, reason: Reason, domain: Option<&str>) -> Option<String> {
        match reason {
            Reason::NoRule | Reason::PortOrProtocol | Reason::SpecialNetwork => {
                self.policy.refused_name(domain?)
            }
            _ => None,
        }
    }
}

/// With its name.
pub(super) fn named(destination: Option<Destination>, domain: Option<&str>) -> Option<Destination> {
    destination.map(|destination| Destination { domain: domain.map(str::to_owned), ..destination })
}

fn only(names: impl IntoIterator<Item = String>) -> Option<Arc<str>> {
    let mut names = names.into_iter();
    let first = names.next()?;
    names.next().is_none().then(|| first.into())
}
