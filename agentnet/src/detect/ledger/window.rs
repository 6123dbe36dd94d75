//! Sums over sliding windows.

use serde::{Deserialize, Serialize};

use super::super::{event::Time, lm::Bits};

/// A window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// 2 minutes.
    Minutes2,
    /// 10 minutes.
    Minutes10,
    /// 1 hour.
    Hour,
    /// 24 hours.
    Day,
}

impl Span {
    /// Its length in seconds.
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Minutes2 => 120,
            Self::Minutes10 => 600,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

/// Parts of a window. One more is kept, so that the sum covers the whole window at any moment and up to a
/// quarter more: what is near the edge counts twice rather than never.
const PARTS: u32 = 4;
const KEPT: u32 = PARTS + 1;

/// A sum over one window.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Sum {
    parts: [u32; KEPT as usize],
    /// Number of the newest part since 1970.
    newest: u32,
}

impl Sum {
    fn add(&mut self, amount: u32, part: u32) {
        // A clock set back must not empty the window.
        let part = part.max(self.newest);
        let passed = part - self.newest;
        for step in 1..=passed.min(KEPT) {
            self.parts[(self.newest.wrapping_add(step)) as usize % KEPT as usize] = 0;
        }
        self.newest = part;
        let now = &mut self.parts[part as usize % KEPT as usize];
        *now = now.saturating_add(amount);
    }

    fn total(&self, part: u32) -> u32 {
        let passed = part.saturating_sub(self.newest);
        let live = (KEPT).saturating_sub(passed);
        (0..live.min(KEPT))
            .map(|back| self.parts[self.newest.wrapping_sub(back) as usize % KEPT as usize])
            .fold(0, u32::saturating_add)
    }
}

/// Sums over every [`Span`].
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Sums([Sum; 4]);

const SPANS: [Span; 4] = [Span::Minutes2, Span::Minutes10, Span::Hour, Span::Day];

impl Sums {
    /// Adds to every window.
    pub fn add(&mut self, bits: Bits, now: Time) {
        for (sum, span) in self.0.iter_mut().zip(SPANS) {
            sum.add(bits.0, part(span, now));
        }
    }

    /// The sum over a window, and over up to a quarter more.
    pub fn of(&self, span: Span, now: Time) -> Bits {
        let sum = self.0.iter().zip(SPANS).find(|(_, one)| *one == span);
        Bits(sum.map_or(0, |(sum, _)| sum.total(part(span, now))))
    }
}

fn part(span: Span, now: Time) -> u32 {
    super::second(now) / (span.seconds() / PARTS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_700_000_000;

    proptest! {
        /// Compared with the list of all that was added.
        #[test]
        fn no_window_forgets_and_none_remembers_much_longer(
            steps in prop::collection::vec((0_u64..2000, 0_u32..1000), 1..60)
        ) {
            let mut sums = Sums::default();
            let mut all = Vec::new();
            let mut now = START;
            for (wait, amount) in steps {
                now += wait;
                sums.add(Bits(amount), Time::from_secs(now));
                all.push((now, amount));
                for span in SPANS {
                    let length = u64::from(span.seconds());
                    let within = |length: u64| -> u32 {
                        all.iter().filter(|(at, _)| at + length > now).map(|(_, amount)| amount).sum()
                    };
                    let sum = sums.of(span, Time::from_secs(now)).0;
                    prop_assert!(sum >= within(length), "{span:?}: {sum} < {}", within(length));
                    prop_assert!(sum <= within(length + length / 4 + 1));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_empties_nothing() {
        let mut sums = Sums::default();
        sums.add(Bits(5), Time::from_secs(START));
        sums.add(Bits(5), Time::from_secs(START - 100_000));
        assert_eq!(sums.of(Span::Minutes2, Time::from_secs(START)), Bits(10));
        assert_eq!(sums.of(Span::Minutes2, Time::from_secs(START + 1000)), Bits(0));
    }
}
