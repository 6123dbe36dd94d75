//! Identifiers of alerts.

use jiff::Timestamp;
use uuid::Builder;

/// Makes UUIDs of version 7 (RFC 9562, 5.7): unique, and in text order the order in which they were made.
///
/// The 12 bits after the millisecond hold its fraction (method 3 of section 6.2), then come 30 bits of a
/// counter and 32 bits that tell this source from others.
#[derive(Clone, Debug)]
pub struct IdSource {
    source: u32,
    counter: u32,
    /// Newest time used, microseconds since 1970: a clock that is set back must not break the order.
    newest: u64,
}

impl IdSource {
    /// A source of its own; two with the same `source` number may make the same identifier.
    pub const fn new(source: u32) -> Self {
        Self { source, counter: 0, newest: 0 }
    }

    /// The identifier of something that happened `now`.
    pub fn next(&mut self, now: Timestamp) -> String {
        self.newest = self.newest.max(u64::try_from(now.as_microsecond()).unwrap_or(0));
        self.counter = self.counter.wrapping_add(1) & 0x3fff_ffff;
        let (millis, micros) = (self.newest / 1000, self.newest % 1000);
        // 0..1000 microseconds spread over the 12 bits; the version overwrites the 4 above them.
        let fraction = u16::try_from(micros * 4096 / 1000).unwrap_or(0).to_be_bytes();
        let tail = ((u64::from(self.counter) << 32) | u64::from(self.source)).to_be_bytes();
        let [f0, f1] = fraction;
        let [t0, t1, t2, t3, t4, t5, t6, t7] = tail;
        let bytes = [f0, f1, t0, t1, t2, t3, t4, t5, t6, t7];
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid().to_string()
    }
}

impl Default for IdSource {
    /// A source whose number nobody else is likely to have.
    fn default() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        // The standard library's hasher is keyed with random numbers of the system.
        let random = RandomState::new().hash_one(std::process::id());
        Self::new(u32::try_from(random & 0xffff_ffff).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::IdSource;

    #[test]
    fn text_order_is_the_order_of_making_whatever_the_clock_does() {
        let mut ids = IdSource::new(7);
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let mut made = Vec::new();
        for step in [0, 0, 1, 1, 999, 1000, 1001, -5_000_000, 2000, 3_000_000] {
            made.push(ids.next(start + SignedDuration::from_micros(step)));
        }
        let mut sorted = made.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(made, sorted);
    }

    #[test]
    fn two_sources_do_not_collide() {
        let now = Timestamp::UNIX_EPOCH;
        assert_ne!(IdSource::default().next(now), IdSource::default().next(now));
    }

    #[test]
    fn it_is_a_uuid_of_version_7() {
        let id = IdSource::new(1).next("2026-11-22T12:00:00.000500Z".parse().unwrap());
        let parsed = uuid::Uuid::parse_str(&id).unwrap();
        assert_eq!(parsed.get_version_num(), 7);
        assert_eq!(parsed.get_variant(), uuid::Variant::RFC4122);
    }
}
