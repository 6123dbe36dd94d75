//! What holds at a node of a trie: the rules of the node and its ancestors, denies taken out.
//!
//! A longest-prefix trie answers with one node only, so everything that ancestors say has to be written
//! into each node.

use std::rc::Rc;

use agentnet_common::{
    abi::{RULESET_ENTRIES, Ruleset},
    verdict::RuleId,
};

use crate::policy::{
    traffic::Traffic,
    validate::{Effect, Rule},
};

/// What can only be known once rules meet.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Rules that did not fit, with the place where.
    pub(super) too_many: Vec<(RuleId, String)>,
    /// Allow rules that denies leave nothing of.
    pub(super) unreachable: Vec<RuleId>,
    /// How many names there would be.
    pub(super) too_many_names: Option<usize>,
}

/// What is allowed and denied at a place. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    /// What each rule allows that no earlier one does and no deny takes away, in the order of the file.
    allowed: Rc<Vec<(RuleId, Traffic)>>,
    denied: Rc<Traffic>,
}

impl Grants {
    /// The same denies with nothing allowed: rules from outside stop here.
    pub(super) fn fenced(&self) -> Self {
        Self { allowed: Rc::default(), denied: Rc::clone(&self.denied) }
    }

    /// What holds one step further in, where `rules` speak too. Where there are more ranges than a ruleset
    /// can hold, later rules are left out and reported, with what `place` says.
    pub(super) fn with(
        &self,
        rules: &[(RuleId, &Rule)],
        findings: &mut Findings,
        place: impl Fn() -> String,
    ) -> Self {
        if rules.is_empty() {
            return self.clone();
        }
        let (allows, denies): (Vec<_>, Vec<_>) =
            rules.iter().partition(|(_, rule)| rule.effect == Effect::Allow);
        let denied = if denies.is_empty() {
            Rc::clone(&self.denied)
        } else {
            let mut denied: Vec<_> = denies.iter().map(|(_, rule)| rule.traffic()).collect();
            denied.push(Traffic::clone(&self.denied));
            Rc::new(Traffic::union_of(&denied))
        };
        let mut candidates = Vec::with_capacity(self.allowed.len() + allows.len());
        candidates.extend(self.allowed.iter().map(|(id, traffic)| (*id, traffic.minus(&denied))));
        for (id, rule) in allows {
            let left = rule.traffic().minus(&denied);
            if left.is_empty() {
                findings.unreachable.push(id);
            }
            candidates.push((id, left));
        }
        candidates.sort_by_key(|(id, _)| *id);

        let mut taken = Traffic::default();
        let mut allowed = Vec::new();
        let mut entries = 0;
        for (id, traffic) in candidates {
            let traffic = traffic.minus(&taken);
            if traffic.is_empty() {
                continue;
            }
            let more = traffic.entries(id).len();
            if entries + more > RULESET_ENTRIES {
                findings.too_many.push((id, place()));
                continue;
            }
            entries += more;
            taken = Traffic::union_of(&[taken, traffic.clone()]);
            allowed.push((id, traffic));
        }
        Self { allowed: Rc::new(allowed), denied }
    }

    /// Whether something is allowed here that is not denied `there`.
    pub(super) fn leave_something(&self, there: &Self) -> bool {
        self.allowed.iter().any(|(_, traffic)| !traffic.minus(&there.denied).is_empty())
    }

    /// As the kernel reads it, with `flags` (`RULESET_*`).
    pub(super) fn ruleset(&self, flags: u16) -> Ruleset {
        let mut ruleset = Ruleset { flags, ..Ruleset::default() };
        let entries = self.allowed.iter().flat_map(|(id, traffic)| traffic.entries(*id));
        // `with` keeps to the number of slots.
        for (slot, entry) in ruleset.rules.iter_mut().zip(entries) {
            *slot = entry;
            ruleset.len += 1;
        }
        ruleset
    }
}
