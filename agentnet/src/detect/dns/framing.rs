//! DNS over a stream: each message stands behind its length (RFC 1035, 4.2.2).

/// Cuts a direction of a stream into messages. Holds at most one message, 64 KiB.
#[derive(Clone, Debug, Default)]
pub struct Framer {
    held: Vec<u8>,
    /// After a gap nobody knows where a message begins.
    lost: bool,
}

impl Framer {
    /// Adds bytes, of which `gap` are missing just before, and hands each whole message to `see`.
    pub fn push(&mut self, mut bytes: &[u8], gap: u64, mut see: impl FnMut(&[u8])) {
        if gap > 0 {
            self.lost = true;
            self.held = Vec::new();
        }
        if self.lost {
            return;
        }
        while !bytes.is_empty() {
            let need = self.need();
            let (now, rest) = bytes.split_at(bytes.len().min(need - self.held.len()));
            self.held.extend_from_slice(now);
            bytes = rest;
            // The length itself is two bytes: what it asks for is known only then.
            if self.held.len() == need && self.need() == need {
                see(self.held.get(2..).unwrap_or_default());
                self.held.clear();
            }
        }
    }

    /// Whether messages were missed for good.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Bytes of the message and its length; of the length alone until that is there.
    fn need(&self) -> usize {
        match self.held.first_chunk() {
            Some(length) => 2 + usize::from(u16::from_be_bytes(*length)),
            None => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Framer;

    fn messages(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut framer, mut seen) = (Framer::default(), Vec::new());
        for part in parts {
            framer.push(part, 0, |message| seen.push(message.to_vec()));
        }
        seen
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let stream = b"\0\x03abc\0\x01d\0\0\0\x02ef";
        let expected = [b"abc".to_vec(), b"d".to_vec(), Vec::new(), b"ef".to_vec()];
        for size in 1..=stream.len() {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(messages(&parts), expected, "{size}");
        }
    }

    #[test]
    fn after_a_gap_there_is_nothing_more() {
        let mut framer = Framer::default();
        framer.push(b"\0\x01a", 7, |_| panic!("there is no message"));
        assert!(framer.is_lost());
    }
}
