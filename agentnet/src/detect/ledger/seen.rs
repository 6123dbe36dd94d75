//! Which of many things were said lately, in a table that does not grow.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Buckets, a power of two.
const BUCKETS: usize = 1024;
/// Entries of a bucket.
const WAYS: usize = 7;

/// A set of hashes that forgets the ones not seen for longest.
///
/// A bucket keeps 32 bits of each hash, newest first. Two of a bucket are the same by chance once in 2^32:
/// whoever does not know the keys cannot make it happen. What was forgotten counts as new.
#[derive(Clone, Debug)]
pub struct Seen {
    buckets: Box<[[u32; WAYS]]>,
}

impl Seen {
    /// Bytes it takes.
    pub const BYTES: usize = BUCKETS * WAYS * 4;

    /// An empty one.
    pub fn new() -> Self {
        Self { buckets: vec![[0; WAYS]; BUCKETS].into_boxed_slice() }
    }

    /// Whether `hash` was not in it; it is now.
    pub fn insert(&mut self, hash: u64) -> bool {
        let [h0, h1, h2, h3, rest @ ..] = hash.to_le_bytes();
        // Zero is an empty place.
        let print = u32::from_le_bytes([h0, h1, h2, h3]).max(1);
        let at = u32::from_le_bytes(rest) as usize % BUCKETS;
        let Some(bucket) = self.buckets.get_mut(at) else { return true };
        let found = bucket.iter().position(|&one| one == print);
        let upto = found.map_or(WAYS, |place| place + 1);
        if let Some(moved) = bucket.get_mut(..upto) {
            moved.rotate_right(1);
        }
        bucket[0] = print;
        found.is_none()
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::new()
    }
}

impl Serialize for Seen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.buckets.iter().flatten().flat_map(|print| print.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?;
        if bytes.len() != Self::BYTES {
            return Err(D::Error::custom(format!("{} bytes of hashes, not {}", bytes.len(), Self::BYTES)));
        }
        let mut seen = Self::new();
        let prints = seen.buckets.iter_mut().flatten();
        for (print, bytes) in prints.zip(bytes.as_chunks().0) {
            *print = u32::from_le_bytes(*bytes);
        }
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn a_thousand_are_remembered_and_the_oldest_forgotten() {
        let mut seen = Seen::new();
        for number in 0..1000 {
            assert!(seen.insert(hash(number)), "{number}");
        }
        let again = (0..1000).filter(|&number| !seen.insert(hash(number))).count();
        assert!(again > 990, "{again}");
        for number in 1000..200_000 {
            seen.insert(hash(number));
        }
        let kept = (0..1000).filter(|&number| !seen.insert(hash(number))).count();
        assert!(kept < 10, "{kept}");
    }

    #[test]
    fn what_is_asked_for_again_and_again_stays() {
        let mut seen = Seen::new();
        seen.insert(hash(7));
        for number in 1000..200_000 {
            seen.insert(hash(number));
            assert!(!seen.insert(hash(7)));
        }
    }
}
