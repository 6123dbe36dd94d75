//! From the kernel's clock to the wall clock.

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Turns nanoseconds of `CLOCK_MONOTONIC`, which records carry, into wall-clock time.
///
/// Holds the offset of the moment it was measured. The monotonic clock stands still while the machine is
/// suspended and the wall clock may be set, so a long-running owner measures again now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Wall-clock time when `CLOCK_MONOTONIC` was 0.
    epoch: Timestamp,
}

impl Clock {
    /// A clock whose monotonic zero was at `epoch`.
    pub const fn new(epoch: Timestamp) -> Self {
        Self { epoch }
    }

    /// Reads both clocks of this machine.
    pub fn measure() -> Self {
        let monotonic = clock_gettime(ClockId::Monotonic);
        // Nanoseconds of a timespec are below 1,000,000,000 and fit; seconds are 64 bits on every target.
        let since = SignedDuration::new(monotonic.tv_sec, i32::try_from(monotonic.tv_nsec).unwrap_or(0));
        Self { epoch: Timestamp::now().checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    /// The wall-clock time at `monotonic`, nanoseconds of `CLOCK_MONOTONIC`; the end of time (the year
    /// 9999) where it does not fit.
    pub fn wall(&self, monotonic: u64) -> Timestamp {
        let since = SignedDuration::from_nanos(i64::try_from(monotonic).unwrap_or(i64::MAX));
        self.epoch.checked_add(since).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use rustix::time::{ClockId, clock_gettime};

    use super::Clock;

    #[test]
    fn the_present_comes_out_as_the_present() {
        let before = Timestamp::now();
        let clock = Clock::measure();
        let monotonic = clock_gettime(ClockId::Monotonic);
        let nanoseconds = monotonic.tv_sec * 1_000_000_000 + monotonic.tv_nsec;
        let wall = clock.wall(u64::try_from(nanoseconds).unwrap());
        let tolerance = SignedDuration::from_secs(1);
        assert!(wall.duration_since(before).abs() < tolerance, "{wall} is not near {before}");
    }

    #[test]
    fn any_number_is_a_time() {
        let clock = Clock::new("2026-11-22T12:00:00Z".parse().unwrap());
        assert_eq!(clock.wall(1_500_000_000).to_string(), "2026-11-22T12:00:01.5Z");
        assert!(clock.wall(u64::MAX) > clock.wall(0));
    }
}
