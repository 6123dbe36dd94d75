//! Domain names as keys of a longest-prefix trie: the wire form (RFC 1035, 3.1) reversed byte for byte, the
//! length bytes marked.
//!
//! `www.example.com` is `3www7example3com` on the wire and `moc\x83elpmaxe\x87www\x83` as a key. The length
//! byte that ends a label keeps a prefix on label boundaries: `example.com` never matches
//! `badexample.com`, and a dot inside a label cannot be taken for a boundary. Its highest bit is set
//! ([`LABEL_END`]), because a length from 48 to 57 is the character `0` to `9`: without the mark the key of
//! a name whose first label has 48 characters would be a prefix of the key of `0` and that label.

/// Bytes of a key. The kernel's limit for a trie is 256 bytes of data; a name has at most 255 on the wire
/// (RFC 1035, 2.3.4), 254 without the root.
pub const KEY_BYTES: usize = 256;

/// Marks the length byte that ends a label in a key; no character of a name has this bit.
pub const LABEL_END: u8 = 0x80;

/// The length of the label that the byte `end` of a key ends.
#[inline(always)]
pub const fn label_length(end: u8) -> usize {
    (end & !LABEL_END) as usize
}

/// A hash of a name, over the bytes of its wire form with marked length bytes: FNV-1a (draft-eastlake-fnv), 64 bits.
///
/// Whoever owns a domain can make two names of one hash. That opens nothing: the name itself is kept with its hash
/// ([`crate::abi::Named`]), and a second one is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameHash(pub u64);

impl NameHash {
    /// Of no bytes.
    pub const EMPTY: Self = Self(0xcbf2_9ce4_8422_2325);

    /// With one byte more.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
    }

    /// Of a whole name.
    pub fn of(key: &NameKey) -> Self {
        key.as_bytes().iter().rev().fold(Self::EMPTY, |hash, &byte| hash.with(byte))
    }
}

/// A reversed wire name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct NameKey {
    /// Bytes used in `bytes`, at most 254.
    pub len: usize,
    /// The reversed name, then zeros.
    pub bytes: [u8; KEY_BYTES],
}

/// Why a text is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No label at all.
    Empty,
    /// An empty label, as in `a..b`.
    EmptyLabel,
    /// A label over 63 bytes (RFC 1035, 2.3.4).
    LongLabel,
    /// Over 253 characters.
    LongName,
    /// A byte other than a lower-case letter, a digit, `-` or `_`.
    Character(u8),
}

impl NameKey {
    /// The key of a lower-case ASCII name in dotted form, without a trailing dot.
    ///
    /// # Errors
    /// What is wrong with `name`, see [`NameError`].
    pub fn from_dotted(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        let mut key = Self { len: 0, bytes: [0; KEY_BYTES] };
        for label in name.rsplit('.') {
            let length = match u8::try_from(label.len()) {
                Ok(0) => return Err(NameError::EmptyLabel),
                Ok(length @ 1..=63) => length,
                _ => return Err(NameError::LongLabel),
            };
            for byte in label.bytes().rev() {
                if !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
                    return Err(NameError::Character(byte));
                }
                key.push(byte)?;
            }
            key.push(length | LABEL_END)?;
        }
        Ok(key)
    }

    fn push(&mut self, byte: u8) -> Result<(), NameError> {
        if self.len >= 254 {
            return Err(NameError::LongName);
        }
        let slot = self.bytes.get_mut(self.len).ok_or(NameError::LongName)?;
        *slot = byte;
        self.len += 1;
        Ok(())
    }

    /// The name in dotted form.
    #[cfg(any(test, feature = "user"))]
    pub fn dotted(&self) -> String {
        let mut text = String::new();
        let mut rest = self.as_bytes();
        // From the first label, which the key has last, each followed by its length.
        while let Some((end, before)) = rest.split_last() {
            let Some(label) = before.get(before.len().saturating_sub(label_length(*end))..) else { break };
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().rev().map(|&byte| char::from(byte)));
            rest = before.get(..before.len() - label.len()).unwrap_or_default();
        }
        text
    }

    /// The bytes used.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl core::fmt::Debug for NameKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "NameKey({:?})", self.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::{NameError, NameHash, NameKey};

    #[test]
    fn a_key_reads_as_the_name_it_was_made_from() {
        for name in ["com", "www.example.com", "a.b.c-d._e.f0"] {
            assert_eq!(NameKey::from_dotted(name).unwrap().dotted(), name);
        }
    }

    #[test]
    fn the_hash_is_over_the_wire_form() {
        let hash = b"\x83www\x87example\x83com".iter().fold(NameHash::EMPTY, |hash, &byte| hash.with(byte));
        assert_eq!(NameHash::of(&NameKey::from_dotted("www.example.com").unwrap()), hash);
    }

    #[test]
    fn a_key_is_the_reversed_wire_form() {
        assert_eq!(NameKey::from_dotted("www.example.com").unwrap().as_bytes(), b"moc\x83elpmaxe\x87www\x83");
    }

    #[test]
    fn a_parent_is_a_prefix_only_on_label_boundaries() {
        let parent = NameKey::from_dotted("example.com").unwrap();
        let child = NameKey::from_dotted("a.example.com").unwrap();
        let other = NameKey::from_dotted("badexample.com").unwrap();
        assert!(child.as_bytes().starts_with(parent.as_bytes()));
        assert!(!other.as_bytes().starts_with(parent.as_bytes()));
    }

    #[test]
    fn a_length_is_not_a_digit_of_a_longer_label() {
        let label = "a".repeat(usize::from(b'0'));
        let parent = NameKey::from_dotted(&format!("{label}.com")).unwrap();
        let other = NameKey::from_dotted(&format!("0{label}.com")).unwrap();
        assert!(!other.as_bytes().starts_with(parent.as_bytes()));
    }

    #[test]
    fn what_is_not_a_name_is_refused() {
        assert_eq!(NameKey::from_dotted(""), Err(NameError::Empty));
        assert_eq!(NameKey::from_dotted("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(NameKey::from_dotted("A.b"), Err(NameError::Character(b'A')));
        assert_eq!(NameKey::from_dotted(&"a".repeat(64)), Err(NameError::LongLabel));
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert_eq!(NameKey::from_dotted(&longest).unwrap().len, 254);
        let too_long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        assert_eq!(NameKey::from_dotted(&too_long), Err(NameError::LongName));
    }
}
