//! What holds at a node of a trie: the rules of the node and its ancestors, denies taken out.
//!
//! A longest-prefix trie answers with one node only, so everything that ancestors say has to be written
//! into each node.

use std::{collections::BTreeSet, rc::Rc};

use agentnet_common::{
    abi::{PortRule, RULESET_ENTRIES, Ruleset},
    verdict::RuleId,
};

use crate::policy::{
    spoken::Spoken,
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
    /// Allow rules that ask for something else to be spoken than an earlier one at the same place, which decides: the
    /// later one, the earlier one.
    pub(super) shadowed: BTreeSet<(RuleId, RuleId)>,
    /// How many names there would be.
    pub(super) too_many_names: Option<usize>,
}

/// What one rule allows at a place.
#[derive(Clone, Debug)]
struct Allowed {
    id: RuleId,
    traffic: Traffic,
    spoken: Spoken,
}

impl Allowed {
    fn entries(&self) -> Vec<PortRule> {
        self.traffic.entries(self.id, &self.spoken)
    }

    /// Whether `other` asks for something else where both are about the same.
    fn differs(&self, other: &Self) -> bool {
        if self.spoken == other.spoken {
            return false;
        }
        let both = self.traffic.tcp().and(other.traffic.tcp());
        let asked = |spoken: &Spoken| {
            let mut parts = spoken.parts(&both);
            parts.retain(|(_, ports)| !ports.is_empty());
            parts
        };
        asked(&self.spoken) != asked(&other.spoken)
    }
}

/// What is allowed and denied at a place. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    /// What each rule allows that no earlier one does and no deny takes away, in the order of the file.
    allowed: Rc<Vec<Allowed>>,
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
        candidates.extend(
            self.allowed
                .iter()
                .map(|allowed| Allowed { traffic: allowed.traffic.minus(&denied), ..allowed.clone() }),
        );
        for (id, rule) in allows {
            let traffic = rule.traffic().minus(&denied);
            if traffic.is_empty() {
                findings.unreachable.push(id);
            }
            candidates.push(Allowed { id, traffic, spoken: rule.spoken });
        }
        candidates.sort_by_key(|candidate| candidate.id);

        let mut taken = Traffic::default();
        let mut allowed: Vec<Allowed> = Vec::new();
        let mut entries = 0;
        for mut candidate in candidates {
            let earlier = allowed.iter().filter(|earlier| candidate.differs(earlier));
            findings.shadowed.extend(earlier.map(|earlier| (candidate.id, earlier.id)));
            candidate.traffic = candidate.traffic.minus(&taken);
            if candidate.traffic.is_empty() {
                continue;
            }
            let more = candidate.entries().len();
            if entries + more > RULESET_ENTRIES {
                findings.too_many.push((candidate.id, place()));
                continue;
            }
            entries += more;
            taken = Traffic::union_of(&[taken, candidate.traffic.clone()]);
            allowed.push(candidate);
        }
        Self { allowed: Rc::new(allowed), denied }
    }

    /// Whether something is allowed here that is not denied `there`.
    pub(super) fn leave_something(&self, there: &Self) -> bool {
        self.allowed.iter().any(|allowed| !allowed.traffic.minus(&there.denied).is_empty())
    }

    /// As the kernel reads it, with `flags` (`RULESET_*`).
    pub(super) fn ruleset(&self, flags: u16) -> Ruleset {
        let mut ruleset = Ruleset { flags, ..Ruleset::default() };
        let entries = self.allowed.iter().flat_map(Allowed::entries);
        // `with` keeps to the number of slots.
        for (slot, entry) in ruleset.rules.iter_mut().zip(entries) {
            *slot = entry;
            ruleset.len += 1;
        }
        ruleset
    }
}
