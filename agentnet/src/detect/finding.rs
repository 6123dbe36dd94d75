//! What detectors answer.

use super::{
    event::Time,
    evidence::Evidence,
    ledger::{Keys, second},
    registry::Detector,
};
use crate::alert::model::Kind;

/// How much a finding is worth by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strength {
    /// Counts together with others only.
    Hint,
    /// Somebody should look.
    Alert,
    /// Certain, or dear enough to be stopped at once.
    Block,
}

/// Something a detector found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What kind of thing it is.
    pub kind: Kind,
    /// Who found it, see [`Detector::id`].
    pub detector: &'static str,
    /// How much it is worth by itself.
    pub strength: Strength,
    /// How sure the detector is, from 0 to 1.
    pub score: f32,
    /// What all detectors together make of the destination, from 0 to 1; see [`super::fusion`].
    pub fused: f32,
    /// The destination it is about, for people: a registrable domain, a host, an address.
    pub subject: String,
    /// What stands for it in the ledger, see [`Repeat::about`].
    pub about: Box<[u8]>,
    /// What was done, as the end of a sentence that begins with who did it.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
    /// The numbers behind it.
    pub evidence: Evidence,
    /// Times the same was found since it was last told, this one included.
    pub count: u64,
}

/// Something that was found again and not told again: what is done about it must not end because of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// What kind of thing it is.
    pub kind: Kind,
    /// How much it is worth.
    pub strength: Strength,
    /// What stands for the destination in the ledger: a registrable domain in lower case, an address, a mark for
    /// what is neither.
    pub about: Box<[u8]>,
}

/// What a detector says of something it found, when somebody wants to hear it.
#[derive(Debug)]
pub struct Statement {
    /// The destination it is about.
    pub subject: String,
    /// What was done, as the end of a sentence that begins with who did it.
    pub reason: String,
    /// What to do about it.
    pub advice: &'static str,
    /// The numbers behind it.
    pub evidence: Evidence,
}

/// Whether the same is said again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeats {
    /// Every time: each line of a list wants a verdict of its own.
    Said,
    /// Once in [`QUIET`] seconds, unless it grew stronger.
    Counted,
}

/// Seconds in which the same is said once.
pub const QUIET: u32 = 600;

/// Things told lately: bounded, the oldest is forgotten and told again.
#[derive(Clone, Debug, Default)]
pub struct Told {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: u64,
    strength: Strength,
    second: u32,
    held: u64,
}

impl Told {
    /// Most entries.
    pub const MAX: usize = 128;
    /// Bytes it takes at most.
    pub const BYTES: usize = Self::MAX * size_of::<Entry>();

    /// How many it stands for, if it is to be told.
    pub(super) fn tell(&mut self, key: u64, strength: Strength, now: Time) -> Option<u64> {
        let now = second(now);
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.key == key) {
            entry.held += 1;
            if strength <= entry.strength && now.saturating_sub(entry.second) < QUIET {
                return None;
            }
            let held = std::mem::take(&mut entry.held);
            (entry.strength, entry.second) = (strength, now);
            return Some(held);
        }
        if self.entries.len() >= Self::MAX {
            let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.second);
            if let Some((at, _)) = oldest {
                self.entries.swap_remove(at);
            }
        }
        self.entries.push(Entry { key, strength, second: now, held: 0 });
        Some(1)
    }
}

/// Where findings go.
#[derive(Debug)]
pub struct Findings<'a> {
    /// Those that are said.
    pub said: Vec<Finding>,
    /// The strongest of all, said or not.
    pub strongest: Option<Strength>,
    /// Those that are not said again, if they are worth more than a hint.
    pub again: Vec<Repeat>,
    pub(super) told: &'a mut Told,
    pub(super) fusion: &'a mut super::fusion::Fusion,
    pub(super) keys: Keys,
    pub(super) repeats: Repeats,
    pub(super) now: Time,
    /// The process tree did something suspicious before.
    pub(super) suspicious: bool,
    /// Who is asked now.
    pub(super) of: Option<(Kind, &'static dyn Detector)>,
}

impl Findings<'_> {
    /// Adds what was found about `subject`. `what` tells repeats apart within one subject.
    pub fn add(
        &mut self,
        subject: &[u8],
        what: &[u8],
        (mut strength, score): (Strength, f32),
        statement: impl FnOnce() -> Statement,
    ) {
        use std::hash::Hasher as _;
        let Some((kind, detector)) = self.of else { return };
        let about = self.keys.hash(|hasher| hasher.write(subject));
        let score = score.clamp(0.0, 1.0);
        let fused = self.fusion.add(about, detector, score, self.suspicious, self.now);
        strength = strength.max(fused.strength);
        self.strongest = self.strongest.max(Some(strength));
        let key = self.keys.hash(|hasher| {
            hasher.write(subject);
            hasher.write(detector.id().as_bytes());
            hasher.write(what);
        });
        let told = self.told.tell(key, strength, self.now);
        let count = match self.repeats {
            Repeats::Said => Some(1),
            Repeats::Counted => told,
        };
        if count.is_none() && strength > Strength::Hint {
            self.again.push(Repeat { kind, strength, about: subject.into() });
        }
        if let Some(count) = count {
            let Statement { subject: text, reason, advice, evidence } = statement();
            self.said.push(Finding {
                kind,
                detector: detector.id(),
                strength,
                score,
                fused: fused.score,
                subject: text,
                about: subject.into(),
                reason,
                advice,
                evidence,
                count,
            });
        }
    }
}
