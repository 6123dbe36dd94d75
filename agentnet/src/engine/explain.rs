//! The policy and what was done by hand, as alerts ask about them.

use std::sync::Arc;

use agentnet_common::{
    addr::{Addr, Endpoint, protocol},
    name::NameKey,
    verdict::{Reason, RuleId, Scope, Verdict, decide_name},
};

use crate::{
    act::{Act, InForce},
    alert::{
        explain::{Explain, Explained, RuleRef},
        resolved::Names,
    },
    kernel::opened::Resolved,
    policy::{Policy, compile::RuleInfo, explain::Lacks},
};

/// The port that rules with names are about unless they say otherwise.
const HTTPS: u16 = 443;

/// A policy that explains itself, with what was done by hand on top of it.
#[derive(Clone, Debug)]
pub struct Explainer {
    policy: Arc<Policy>,
    acts: InForce,
}

impl Explainer {
    /// Explains by `policy` and `acts`, all of which are the agent's. They may be over by the time that they are asked
    /// about.
    pub const fn new(policy: Arc<Policy>, acts: Vec<Act>) -> Self {
        Self { policy, acts: InForce::new(acts, 0) }
    }
}

impl Explain for Explainer {
    fn name(&self) -> &str {
        &self.policy.compiled.name
    }

    fn rule(&self, id: RuleId) -> Option<RuleRef> {
        self.policy.compiled.rules.iter().find(|rule| rule.id == id).map(reference)
    }

    fn explain(&self, endpoint: &Endpoint, reason: Reason) -> Option<Explained> {
        // Where the kernel decided that it is on this host, it is; else addresses say where.
        let scope = match reason {
            Reason::ForeignListener => Scope::ForeignListener,
            _ => Scope::Remote,
        };
        let explanation = self.policy.explain(endpoint, scope);
        Some(Explained {
            rule: explanation.deny_rule.map(reference),
            near: explanation
                .near
                .filter(|near| near.lacks == Lacks::Traffic)
                .map(|near| reference(near.rule)),
            special: explanation.special.map(str::to_owned),
            suggestion: explanation.suggestion,
        })
    }

    fn rule_of_name(&self, name: &str, endpoint: &Endpoint) -> Option<RuleId> {
        let key = NameKey::from_dotted(name).ok()?;
        match decide_name(&self.policy.compiled, 0, &key, endpoint.protocol, endpoint.port) {
            Verdict::Allow(rule) => Some(rule),
            Verdict::Deny(_) => None,
        }
    }

    fn refused_by_hand(&self, endpoint: &Endpoint, reason: Reason) -> Option<String> {
        let act = match reason {
            Reason::Blocked => self.acts.block(&endpoint.addr),
            Reason::Quarantined => self.acts.quarantine(),
            _ => None,
        };
        act.map(Act::to_string)
    }

    fn refused_name(&self, name: &str) -> Option<String> {
        self.acts.block_name(name).map(Act::to_string)
    }

    fn allowed_by_hand(&self, endpoint: &Endpoint) -> Option<String> {
        self.acts.grant(endpoint).map(Act::to_string)
    }

    fn explain_name(&self, name: &str) -> Option<Explained> {
        let search = &self.policy.compiled.resolution.search;
        let meant = search
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix.as_str())?.strip_suffix('.'))
            // Of a name of one label nobody knows whether it was meant.
            .find(|meant| meant.contains('.'));
        let explanation = self.policy.explain_name(meant.unwrap_or(name), protocol::TCP, HTTPS).ok()?;
        Some(Explained {
            rule: explanation.deny_rule.map(reference),
            near: None,
            special: None,
            suggestion: explanation.suggestion,
        })
    }
}

impl Names for Resolved {
    fn name(&self, hash: u64) -> Option<String> {
        self.named(hash)
    }

    fn names_of(&self, addr: &Addr) -> Vec<String> {
        self.at(addr)
    }
}

fn reference(rule: &RuleInfo) -> RuleRef {
    RuleRef { text: rule.text.clone(), file: rule.file.clone(), line: rule.line }
}
