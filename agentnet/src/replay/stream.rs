//! One direction of a TCP stream: segments in any order become bytes in order, and gaps.

use std::collections::VecDeque;

/// Bytes of all streams together that wait for what comes before them.
pub(super) const WAITING: usize = 16 << 20;
/// The same of one direction.
const OWN: usize = 128 << 10;
/// Segments of one direction that wait.
const SEGMENTS: usize = 64;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Sequence number of the next byte.
    next: Option<u32>,
    /// Its place, from 0.
    pub(super) offset: u64,
    /// What came too early, by sequence number.
    waiting: VecDeque<(u32, Vec<u8>)>,
    held: usize,
}

/// Bytes in order, with how many are missing before them and the place of the first one.
pub(super) type See<'s> = &'s mut dyn FnMut(u64, u64, &[u8]);

impl Stream {
    /// The first byte has the number after `sequence`.
    pub(super) fn begin(&mut self, sequence: u32) {
        if self.next.is_none() {
            self.next = Some(sequence.wrapping_add(1));
        }
    }

    /// Adds a segment. `total` counts what waits in all streams.
    pub(super) fn add(&mut self, sequence: u32, payload: &[u8], total: &mut usize, see: See<'_>) {
        if payload.is_empty() {
            return;
        }
        let next = *self.next.get_or_insert(sequence);
        let ahead = sequence.wrapping_sub(next);
        if is_before(ahead) {
            let known = usize::try_from(next.wrapping_sub(sequence)).unwrap_or(usize::MAX);
            // Sent again, perhaps with more behind it.
            if let Some(rest) = payload.get(known..).filter(|rest| !rest.is_empty()) {
                self.deliver(0, rest, see);
                self.drain(total, see);
            }
            return;
        }
        if ahead == 0 {
            self.deliver(0, payload, see);
            return self.drain(total, see);
        }
        let at = self.waiting.partition_point(|(one, _)| is_before(one.wrapping_sub(sequence)));
        self.waiting.insert(at, (sequence, payload.to_vec()));
        self.held += payload.len();
        *total += payload.len();
        while self.waiting.len() > SEGMENTS || self.held > OWN || *total > WAITING && self.held > 0 {
            self.skip(total, see);
        }
    }

    /// Gives up on what is missing everywhere.
    pub(super) fn end(&mut self, total: &mut usize, see: See<'_>) {
        while !self.waiting.is_empty() {
            self.skip(total, see);
        }
    }

    /// Gives up on what is missing before the first waiting segment.
    fn skip(&mut self, total: &mut usize, see: See<'_>) {
        let Some((sequence, payload)) = self.take(total) else { return };
        let next = self.next.unwrap_or(sequence);
        let ahead = sequence.wrapping_sub(next);
        if !is_before(ahead) {
            self.next = Some(sequence);
            self.offset += u64::from(ahead);
            self.deliver(u64::from(ahead), &payload, see);
        }
        self.drain(total, see);
    }

    /// Delivers what is no longer too early.
    fn drain(&mut self, total: &mut usize, see: See<'_>) {
        while let (Some((sequence, _)), Some(next)) = (self.waiting.front(), self.next) {
            let behind = next.wrapping_sub(*sequence);
            if is_before(behind) {
                return;
            }
            let Some((_, payload)) = self.take(total) else { return };
            let known = usize::try_from(behind).unwrap_or(usize::MAX);
            if let Some(rest) = payload.get(known..).filter(|rest| !rest.is_empty()) {
                self.deliver(0, rest, see);
            }
        }
    }

    fn take(&mut self, total: &mut usize) -> Option<(u32, Vec<u8>)> {
        let taken = self.waiting.pop_front()?;
        self.held = self.held.saturating_sub(taken.1.len());
        *total = total.saturating_sub(taken.1.len());
        Some(taken)
    }

    fn deliver(&mut self, gap: u64, payload: &[u8], see: See<'_>) {
        see(self.offset, gap, payload);
        self.offset += payload.len() as u64;
        // A segment has at most 64 KiB.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.next = self.next.map(|next| next.wrapping_add(length));
    }
}

/// Whether a difference of sequence numbers is negative (RFC 9293, 3.4).
const fn is_before(difference: u32) -> bool {
    difference > u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Got {
        bytes: Vec<u8>,
        gaps: u64,
    }

    fn replay(start: u32, segments: &[(u32, Vec<u8>)]) -> Got {
        let (mut stream, mut total, mut got) = (Stream::default(), 0, Got::default());
        stream.begin(start);
        let mut see = |_: u64, gap: u64, bytes: &[u8]| {
            got.gaps += gap;
            got.bytes.extend_from_slice(bytes);
        };
        for (sequence, payload) in segments {
            stream.add(*sequence, payload, &mut total, &mut see);
        }
        stream.end(&mut total, &mut see);
        assert_eq!(total, 0);
        got
    }

    proptest! {
        #[test]
        fn any_order_and_overlap_gives_the_same_bytes(
            start in any::<u32>(),
            cuts in prop::collection::vec((0_usize..300, 1_usize..80), 1..40),
            order in any::<u64>(),
        ) {
            let whole: Vec<u8> = (0..300_u16).map(|byte| byte.to_le_bytes()[0]).collect();
            let mut segments: Vec<(u32, Vec<u8>)> = whole
                .chunks(37)
                .enumerate()
                .map(|(part, bytes)| (37 * part, bytes.to_vec()))
                .chain(cuts.iter().map(|&(at, length)| (at, whole[at..(at + length).min(300)].to_vec())))
                .map(|(at, bytes)| (start.wrapping_add(1).wrapping_add(u32::try_from(at).unwrap()), bytes))
                .collect();
            let mut state = order;
            for at in (1..segments.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                segments.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
            }
            let got = replay(start, &segments);
            prop_assert_eq!(got.bytes, whole);
            prop_assert_eq!(got.gaps, 0);
        }
    }

    #[test]
    fn what_never_comes_is_a_gap() {
        let got = replay(9, &[(10, b"abc".to_vec()), (20, b"xyz".to_vec())]);
        assert_eq!((got.bytes.as_slice(), got.gaps), (&b"abcxyz"[..], 7));
    }

    #[test]
    fn what_waits_is_bounded() {
        let (mut stream, mut total, mut seen) = (Stream::default(), 0, 0);
        stream.begin(0);
        for number in 0..10_000_u32 {
            stream.add(1000 + number * 2000, &[0; 1000], &mut total, &mut |_, _, bytes| seen += bytes.len());
            assert!(total <= OWN + 1000 && stream.waiting.len() <= SEGMENTS + 1);
        }
        assert!(seen > 9_000_000);
    }
}
