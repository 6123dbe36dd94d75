//! Gaps in the numbering of records.

use std::collections::HashMap;

use agentnet_common::event::{Header, Outcome};

/// Streams that are watched. A stream is a CPU and a ring of one agent; the bound is far above what any
/// machine has.
const MAX_STREAMS: usize = 1 << 16;

/// The ring a record came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ring {
    /// Refusals.
    Alerts,
    /// Everything else.
    Samples,
}

impl Ring {
    /// The ring on which verdicts with this outcome come.
    pub const fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self::Samples,
            Outcome::Blocked | Outcome::Audited => Self::Alerts,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    next: u64,
    missing: u64,
}

/// Watches the numbers of one agent's records.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    streams: HashMap<(u32, u32, Ring), Stream>,
    /// Whether the first record of a stream may have any number: the engine that read the ones before it
    /// is gone.
    resumed: bool,
}

impl Sequences {
    /// For an agent whose earlier records another engine has read.
    pub fn resumed() -> Self {
        Self { resumed: true, ..Self::default() }
    }

    /// Takes the number of a record.
    ///
    /// A hook may be interrupted by another one on its CPU between taking its number and writing, so a
    /// record can be late; it then fills the gap it left.
    pub fn observe(&mut self, header: &Header, ring: Ring) {
        let key = (header.agent, header.cpu, ring);
        if !self.streams.contains_key(&key) && self.streams.len() >= MAX_STREAMS {
            return;
        }
        let first = if self.resumed { header.seq } else { 0 };
        let stream = self.streams.entry(key).or_insert(Stream { next: first, missing: 0 });
        if header.seq >= stream.next {
            stream.missing = stream.missing.saturating_add(header.seq - stream.next);
            stream.next = header.seq.saturating_add(1);
        } else {
            stream.missing = stream.missing.saturating_sub(1);
        }
    }

    /// How many numbers are missing.
    pub fn missing(&self) -> u64 {
        self.streams.values().fold(0, |sum, stream| sum.saturating_add(stream.missing))
    }
}

#[cfg(test)]
mod tests {
    use agentnet_common::{abi::ABI_VERSION, event::Header};

    use super::{Ring, Sequences};

    fn header(cpu: u32, seq: u64) -> Header {
        Header { abi: ABI_VERSION, kind: 1, len: 0, seq, time: 0, agent: 1, cpu, flow: 0 }
    }

    #[test]
    fn each_cpu_and_ring_counts_for_itself() {
        let mut sequences = Sequences::default();
        for (cpu, seq, ring) in
            [(0, 0, Ring::Alerts), (1, 0, Ring::Alerts), (0, 0, Ring::Samples), (0, 1, Ring::Alerts)]
        {
            sequences.observe(&header(cpu, seq), ring);
        }
        assert_eq!(sequences.missing(), 0);
        sequences.observe(&header(1, 5), Ring::Alerts);
        assert_eq!(sequences.missing(), 4);
    }

    #[test]
    fn a_late_record_fills_its_gap() {
        let mut sequences = Sequences::default();
        for seq in [0, 2, 1, 3] {
            sequences.observe(&header(0, seq), Ring::Alerts);
        }
        assert_eq!(sequences.missing(), 0);
    }

    #[test]
    fn only_a_resumed_engine_may_begin_in_the_middle() {
        let mut fresh = Sequences::default();
        let mut resumed = Sequences::resumed();
        for sequences in [&mut fresh, &mut resumed] {
            sequences.observe(&header(0, 7), Ring::Alerts);
        }
        assert_eq!((fresh.missing(), resumed.missing()), (7, 0));
    }
}
