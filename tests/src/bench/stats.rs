//! Medians and their uncertainty.

use serde::Serialize;

/// Samples drawn for an interval.
const RESAMPLES: usize = 10_000;

/// A median with its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The 2.5th percentile of resampled medians.
    pub low: f64,
    /// The 97.5th.
    pub high: f64,
}

/// The median; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle), middle.checked_sub(1).and_then(|below| sorted.get(below))) {
        (Some(high), Some(low)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (Some(value), _) => *value,
        (None, _) => 0.0,
    }
}

/// The median and the interval of it, the same for the same values: the generator has a fixed seed.
pub fn estimate(values: &[f64]) -> Estimate {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<f64> =
                values.iter().filter_map(|_| values.get(random.below(values.len())).copied()).collect();
            median(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |thousandth: usize| medians.get(RESAMPLES * thousandth / 1000).copied().unwrap_or(0.0);
    Estimate { median: median(values), low: at(25), high: at(975) }
}

/// xorshift64 (Marsaglia 2003): good enough to draw indices.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap_or(0) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{estimate, median};

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let spread = estimate(&[0.8, 0.9, 1.0, 1.1, 1.2]);
        assert!(spread.low < spread.median && spread.median < spread.high, "{spread:?}");
        let equal = estimate(&[1.0; 30]);
        assert!((equal.high - equal.low).abs() < f64::EPSILON, "{equal:?}");
    }
}
