//! The policy, as alerts ask it.

use std::sync::Arc;

use agentnet_common::{
    addr::Endpoint,
    verdict::{Reason, RuleId, Scope},
};

use crate::{
    alert::explain::{Explain, Explained, RuleRef},
    policy::{Policy, compile::RuleInfo, explain::Lacks},
};

/// A policy that explains itself.
#[derive(Clone, Debug)]
pub struct Explainer(pub Arc<Policy>);

impl Explain for Explainer {
    fn name(&self) -> &str {
        &self.0.compiled.name
    }

    fn rule(&self, id: RuleId) -> Option<RuleRef> {
        self.0.compiled.rules.iter().find(|rule| rule.id == id).map(reference)
    }

    fn explain(&self, endpoint: &Endpoint, reason: Reason) -> Option<Explained> {
        // Where the kernel decided that it is on this host, it is; else addresses say where.
        let scope = match reason {
            Reason::ForeignListener => Scope::ForeignListener,
            _ => Scope::Remote,
        };
        let explanation = self.0.explain(endpoint, scope);
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
}

fn reference(rule: &RuleInfo) -> RuleRef {
    RuleRef { text: rule.text.clone(), file: rule.file.clone(), line: rule.line }
}
