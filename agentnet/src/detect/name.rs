//! A domain name as detectors read it: its labels in the case they were sent in and in lower case, and what
//! is odd about them. Nothing is allocated; no name is longer than [`MAX`].

use std::fmt::Write as _;

/// Longest name in characters, dots between labels included (RFC 1035, 2.3.4: 255 octets on the wire).
pub const MAX: usize = 254;

/// Stands for a byte that a label must not be cut at: a dot inside it.
const INNER_DOT: u8 = 0x1f;

/// A domain name without the dot at its end.
#[derive(Clone, Copy)]
pub struct Name {
    sent: [u8; MAX],
    lower: [u8; MAX],
    len: usize,
    labels: usize,
    odd: bool,
}

impl Default for Name {
    fn default() -> Self {
        Self { sent: [0; MAX], lower: [0; MAX], len: 0, labels: 0, odd: false }
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.display())
    }
}

/// A name is longer than names may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// What is wrong with a name in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It or one of its labels is too long, or a label is empty.
    #[error(
        "it is empty, or a label of it is empty or longer than 63 characters, or all of it longer than 253"
    )]
    Length,
    /// It has a backslash that escapes nothing.
    #[error("a backslash in it is followed neither by three digits up to 255 nor by another character")]
    Escape,
}

impl Name {
    /// Adds a label.
    ///
    /// # Errors
    /// If there is no room for it.
    pub fn push(&mut self, label: &[u8]) -> Result<(), TooLong> {
        let dot = usize::from(self.labels > 0);
        let start = self.len + dot;
        let end = start.checked_add(label.len()).ok_or(TooLong)?;
        if end > MAX {
            return Err(TooLong);
        }
        if dot == 1 {
            for text in [&mut self.sent, &mut self.lower] {
                if let Some(place) = text.get_mut(self.len) {
                    *place = b'.';
                }
            }
        }
        if let (Some(sent), Some(lower)) = (self.sent.get_mut(start..end), self.lower.get_mut(start..end)) {
            sent.copy_from_slice(label);
            let plain = |&byte: &u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if !label.iter().all(plain) {
                self.odd = true;
                sent.iter_mut().filter(|byte| **byte == b'.').for_each(|byte| *byte = INNER_DOT);
            }
            lower.copy_from_slice(sent);
            lower.make_ascii_lowercase();
        }
        self.len = end;
        self.labels += 1;
        Ok(())
    }

    /// A name in presentation format (RFC 1035, 5.1): `\.` and `\228` are characters of a label, other
    /// characters than ASCII are taken as the bytes of UTF-8.
    ///
    /// # Errors
    /// If it is none, or too long.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let mut name = Self::default();
        let mut label = Vec::with_capacity(64);
        let mut bytes = text.bytes();
        loop {
            let byte = match bytes.next() {
                Some(b'\\') => unescape(&mut bytes).ok_or(NameError::Escape)?,
                Some(b'.') | None => {
                    let ended = bytes.len() == 0;
                    if label.is_empty() || label.len() > 63 {
                        return Err(NameError::Length);
                    }
                    name.push(&label).map_err(|TooLong| NameError::Length)?;
                    label.clear();
                    if ended {
                        return Ok(name);
                    }
                    continue;
                }
                Some(byte) => byte,
            };
            label.push(byte);
        }
    }

    /// What can be read of a name that a log has, and whether it is a name at all: tunnels send bytes that loggers
    /// leave out or write in their own way, and what is wrong with a name says more than that it is missing.
    pub fn read(text: &str) -> (Self, bool) {
        if let Ok(name) = Self::parse(text) {
            return (name, true);
        }
        let mut name = Self::default();
        for label in text.as_bytes().split(|&byte| byte == b'.').filter(|label| !label.is_empty()) {
            if name.push(label).is_err() {
                break;
            }
        }
        (name, false)
    }

    /// Its characters in the case they were sent in; a dot inside a label is the byte 0x1f.
    pub fn sent(&self) -> &[u8] {
        self.sent.get(..self.len).unwrap_or_default()
    }

    /// Its characters in lower case; a dot inside a label is the byte 0x1f.
    pub fn lower(&self) -> &[u8] {
        self.lower.get(..self.len).unwrap_or_default()
    }

    /// Characters, dots between labels included.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it is the root.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Labels.
    pub const fn labels(&self) -> usize {
        self.labels
    }

    /// Whether it has bytes that no host name has.
    pub const fn is_odd(&self) -> bool {
        self.odd
    }

    /// For people and JSON: escaped as in presentation format.
    pub fn display(&self) -> String {
        display(self.sent())
    }
}

/// Characters of a name, or of part of one, as people read them.
pub fn display(text: &[u8]) -> String {
    let mut shown = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            INNER_DOT => shown.push_str("\\."),
            b'\\' => shown.push_str("\\\\"),
            b'!'..=b'~' => shown.push(char::from(byte)),
            // Writing to a string does not fail.
            _ => drop(write!(shown, "\\{byte:03}")),
        }
    }
    shown
}

/// The byte behind a backslash.
fn unescape(bytes: &mut std::str::Bytes<'_>) -> Option<u8> {
    let first = bytes.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, bytes.next()?, bytes.next()?];
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown_as_they_were_sent() {
        for text in
            ["www.Example.com", r"J\228germeister.pirate.sea", r"a\.b.example", "x", "_dmarc.example.com"]
        {
            assert_eq!(Name::parse(text).unwrap().display(), text);
        }
        assert_eq!(Name::parse("example.com.").unwrap().display(), "example.com");
        let name = Name::parse("API.GitHub.com").unwrap();
        assert_eq!((name.lower(), name.labels(), name.is_odd()), (&b"api.github.com"[..], 3, false));
    }

    #[test]
    fn a_dot_inside_a_label_is_no_border() {
        let name = Name::parse(r"api\.github\.com.evil.example").unwrap();
        assert_eq!(name.labels(), 3);
        assert!(name.is_odd());
        assert_eq!(name.lower().split(|&byte| byte == b'.').count(), 3);
    }

    #[test]
    fn what_a_log_spoilt_is_read_as_far_as_it_goes() {
        let (name, whole) = Name::read("ray..evil.example");
        assert_eq!((name.display().as_str(), whole), ("ray.evil.example", false));
        assert!(Name::read("a.example").1);
        assert_eq!(Name::read(&"abcdefg.".repeat(100)).0.labels(), 31);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", ".", "a..b", ".a", &"a".repeat(64), &"abc.".repeat(64), r"a\25", r"a\256", r"a\"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
    }
}
