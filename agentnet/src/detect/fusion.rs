//! What findings of different detectors about one destination are worth together.
//!
//! `1 - prod(1 - weight * score)` over the detectors, each with its highest score of the last hour, as if they
//! erred independently; times [`LINEAGE`] if the process tree had just read secrets or encoded something.
//! A detector alone says by itself what it is worth: fusion raises that only where two agree.

use super::{event::Time, finding::Strength, ledger::second, registry::Detector};

/// Raises the score of who read secrets or encoded something just before.
pub const LINEAGE: f32 = 1.5;
/// Together worth an alert.
pub const ALERT: f32 = 0.6;
/// Together worth stopping.
pub const BLOCK: f32 = 0.9;

/// Seconds after which a score counts no more.
const MEMORY: u32 = 3600;
/// Destinations remembered.
const SUBJECTS: usize = 24;
/// Detectors remembered for each.
const DETECTORS: usize = 8;

/// Scores of a workload's destinations.
#[derive(Clone, Debug, Default)]
pub struct Fusion {
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, Default)]
struct Subject {
    key: u64,
    last: u32,
    scores: [Score; DETECTORS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Score {
    detector: Option<&'static str>,
    weighted: f32,
    second: u32,
}

/// What all say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fused {
    /// From 0 to 1.
    pub score: f32,
    /// What it is worth; [`Strength::Hint`] where one detector speaks alone.
    pub strength: Strength,
}

impl Fusion {
    /// Bytes it takes at most.
    pub const BYTES: usize = SUBJECTS * size_of::<Subject>();

    /// Adds a score about a destination.
    pub fn add(
        &mut self,
        key: u64,
        detector: &'static dyn Detector,
        score: f32,
        suspicious: bool,
        now: Time,
    ) -> Fused {
        let now = second(now);
        let subject = self.subject(key, now);
        let mut weighted = score * detector.weight();
        if suspicious {
            weighted = (weighted * LINEAGE).min(1.0);
        }
        let id = Some(detector.id());
        let fresh = |one: &Score| one.detector.is_some() && now.saturating_sub(one.second) < MEMORY;
        let own = subject.scores.iter().position(|one| one.detector == id);
        // With more detectors than places the weakest gives way.
        let at = own.or_else(|| subject.scores.iter().position(|one| !fresh(one))).or_else(|| {
            let weakest = subject.scores.iter().enumerate();
            weakest.min_by(|(_, one), (_, two)| one.weighted.total_cmp(&two.weighted)).map(|(at, _)| at)
        });
        if let Some(place) = at.and_then(|at| subject.scores.get_mut(at)) {
            let kept = if own.is_some() && fresh(place) { place.weighted } else { 0.0 };
            *place = Score { detector: id, weighted: weighted.max(kept), second: now };
        }
        let scores = || subject.scores.iter().filter(|one| fresh(one));
        let score = 1.0 - scores().map(|one| 1.0 - one.weighted).product::<f32>();
        let strength = match score {
            _ if scores().filter(|one| one.weighted >= 0.1).count() < 2 => Strength::Hint,
            score if score >= BLOCK => Strength::Block,
            score if score >= ALERT => Strength::Alert,
            _ => Strength::Hint,
        };
        Fused { score, strength }
    }

    fn subject(&mut self, key: u64, now: u32) -> &mut Subject {
        let found = self.subjects.iter().position(|subject| subject.key == key);
        let at = found.unwrap_or_else(|| {
            let new = Subject { key, ..Subject::default() };
            if self.subjects.len() < SUBJECTS {
                self.subjects.push(new);
                return self.subjects.len() - 1;
            }
            let oldest = self.subjects.iter().enumerate().min_by_key(|(_, subject)| subject.last);
            let at = oldest.map_or(0, |(at, _)| at);
            self.subjects[at] = new;
            at
        });
        let subject = &mut self.subjects[at];
        subject.last = now;
        subject
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::{dns_answer::DnsAnswer, dns_budget::DnsBudget, dns_query::DnsQuery};

    const NOW: Time = Time::from_secs(1_700_000_000);

    #[test]
    fn one_alone_is_a_hint_and_two_are_more() {
        let mut fusion = Fusion::default();
        assert_eq!(fusion.add(1, &DnsBudget, 1.0, false, NOW).strength, Strength::Hint);
        assert_eq!(fusion.add(1, &DnsBudget, 1.0, false, NOW).strength, Strength::Hint);
        let both = fusion.add(1, &DnsAnswer, 0.8, false, NOW);
        assert_eq!(both.strength, Strength::Alert);
        assert!((both.score - (1.0 - 0.3 * 0.6)).abs() < 1e-6, "{}", both.score);
        assert_eq!(fusion.add(1, &DnsQuery, 1.0, false, NOW).strength, Strength::Block);
        assert_eq!(fusion.add(2, &DnsAnswer, 0.8, false, NOW).strength, Strength::Hint);
    }

    #[test]
    fn what_was_long_ago_counts_no_more_and_lineage_counts_more() {
        let mut fusion = Fusion::default();
        fusion.add(1, &DnsBudget, 1.0, false, NOW);
        let later = Time::from_secs(NOW.secs() + 7200);
        assert!((fusion.add(1, &DnsAnswer, 0.8, false, later).score - 0.4).abs() < 1e-6);
        assert!((fusion.add(2, &DnsAnswer, 0.8, true, later).score - 0.6).abs() < 1e-6);
    }

    #[test]
    fn destinations_are_bounded() {
        let mut fusion = Fusion::default();
        for key in 0..10_000 {
            fusion.add(key, &DnsBudget, 0.5, false, NOW);
        }
        assert!(fusion.subjects.len() <= SUBJECTS);
    }
}
