//! The secrets of this host, exactly, in every form they are likely to leave in.
//!
//! Which ones there are is the operator's to say (environment, `.env`, `~/.aws/credentials`, canary tokens): they are
//! handed in, and nothing here reads a file or writes one down.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER};

/// Bytes a secret must have: shorter ones are found by chance.
pub const SHORTEST: usize = 12;
/// Bytes of a secret that are looked for: longer ones are known by their beginning.
const LONGEST: usize = 40;
/// Bytes of a pattern at most, so that one that is cut between two samples is found with what is kept of the first.
pub const PATTERN: usize = 2 * LONGEST + 8;
/// Secrets at most.
pub const MAX: usize = 512;

/// The secrets of this host.
pub struct HostSecrets {
    automaton: AhoCorasick,
    /// Name and form of each pattern.
    patterns: Vec<(usize, &'static str)>,
    names: Vec<String>,
}

/// How many there are: what they are is for no log.
impl std::fmt::Debug for HostSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostSecrets").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// One of them was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit<'h> {
    /// Its name.
    pub name: &'h str,
    /// How it was encoded.
    pub form: &'static str,
    /// Where.
    pub span: Range<usize>,
}

impl HostSecrets {
    /// Secrets by name. Those that are too short, or anything but random, are left out: values such as `production`
    /// leave a host all day.
    pub fn new<'s>(secrets: impl IntoIterator<Item = (&'s str, &'s [u8])>) -> Option<Self> {
        let (mut names, mut patterns, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for (name, secret) in secrets {
            let secret = secret.trim_ascii();
            if names.len() >= MAX || unfit(secret).is_some() {
                continue;
            }
            let secret = secret.get(..secret.len().min(LONGEST)).unwrap_or_default();
            for (form, text) in forms(secret) {
                if text.len() >= SHORTEST && !texts.contains(&text) {
                    patterns.push((names.len(), form));
                    texts.push(text);
                }
            }
            names.push(name.to_owned());
        }
        if texts.is_empty() {
            return None;
        }
        // Hexadecimal and base32 have two cases, and names are folded on their way.
        let automaton = AhoCorasickBuilder::new().ascii_case_insensitive(true).build(&texts).ok()?;
        Some(Self { automaton, patterns, names })
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Which of them are in `bytes`.
    pub fn find<'h>(&'h self, bytes: &[u8]) -> impl Iterator<Item = Hit<'h>> {
        self.automaton
            .find_iter(bytes)
            .take(32)
            .filter_map(|hit| {
                let (name, form) = self.patterns.get(hit.pattern().as_usize())?;
                Some(Hit { name: self.names.get(*name)?, form, span: hit.start()..hit.end() })
            })
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Why a value is not looked for, `None` if it is: what is short, or said by a host all day, would be found where it
/// is none.
pub(super) fn unfit(secret: &[u8]) -> Option<&'static str> {
    let secret = secret.trim_ascii();
    if secret.len() < SHORTEST {
        return Some("it is too short");
    }
    let mut kinds = [false; 4];
    for byte in secret {
        let kind = match byte {
            b'a'..=b'z' => 0,
            b'A'..=b'Z' => 1,
            b'0'..=b'9' => 2,
            _ => 3,
        };
        if let Some(kind) = kinds.get_mut(kind) {
            *kind = true;
        }
    }
    if kinds.iter().filter(|&&kind| kind).count() < 2 {
        return Some("all its characters are of one kind");
    }
    let path = secret.starts_with(b"/") || memchr::memmem::find(secret, b"://").is_some();
    let is_place = path || is_host(secret) || secret.contains(&b' ') && secret.len() < 24;
    is_place.then_some("it is a path, an address or a phrase")
}

/// Whether a value is the name of a host or of somebody there, with a port or not, as the public suffixes have it.
fn is_host(value: &[u8]) -> bool {
    let value = value.rsplit(|&byte| byte == b'@').next().unwrap_or_default();
    let (host, port) = match value.iter().rposition(|&byte| byte == b':') {
        Some(at) => value.split_at(at),
        None => (value, [].as_slice()),
    };
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let last = host.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    host.contains(&b'.')
        && host.iter().all(plain)
        && (last.iter().all(u8::is_ascii_alphabetic) || host.iter().all(|byte| !byte.is_ascii_alphabetic()))
        && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// The forms of a secret.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut forms = vec![("raw", secret.to_vec()), ("hex", HEXLOWER.encode(secret).into_bytes())];
    forms.push(("reversed", secret.iter().rev().copied().collect()));
    let escaped: Vec<u8> = secret.iter().flat_map(|&byte| percent(byte)).collect();
    forms.push(("url", escaped));
    if let Ok(json) = serde_json::to_string(&String::from_utf8_lossy(secret)) {
        forms.push(("json", json.trim_matches('"').as_bytes().to_vec()));
    }
    for offset in 0..3 {
        for encoding in [BASE64_NOPAD, BASE64URL_NOPAD] {
            forms.push(("base64", inner(&encoding, secret, offset, 3, 4)));
        }
    }
    for offset in 0..5 {
        forms.push(("base32", inner(&BASE32_NOPAD, secret, offset, 5, 8)));
    }
    forms
}

/// The characters of an encoding that depend on the secret alone, where it begins `offset` bytes into a group of
/// `bytes` bytes that become `characters`.
fn inner(
    encoding: &data_encoding::Encoding,
    secret: &[u8],
    offset: usize,
    bytes: usize,
    characters: usize,
) -> Vec<u8> {
    let mut padded = vec![0; offset];
    padded.extend_from_slice(secret);
    let encoded = encoding.encode(&padded).into_bytes();
    let first = (offset * characters).div_ceil(bytes);
    let last = padded.len() * characters / bytes;
    encoded.get(first..last).unwrap_or_default().to_vec()
}

/// A byte as a URL has it.
fn percent(byte: u8) -> Vec<u8> {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
        vec![byte]
    } else {
        format!("%{byte:02X}").into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"correct-Horse/battery+Staple=42";

    fn form(bytes: &[u8]) -> Option<&'static str> {
        let host = HostSecrets::new([("DB_PASSWORD", SECRET)]).unwrap();
        host.find(bytes).next().map(|hit| {
            assert_eq!(hit.name, "DB_PASSWORD");
            hit.form
        })
    }

    #[test]
    fn every_form_is_found_at_every_offset() {
        for offset in 0..7 {
            let mut text = vec![b'#'; offset];
            text.extend_from_slice(SECRET);
            text.extend_from_slice(b"; and more");
            assert_eq!(form(&text), Some("raw"));
            assert_eq!(form(HEXLOWER.encode(&text).as_bytes()), Some("hex"));
            assert_eq!(form(data_encoding::HEXUPPER.encode(&text).as_bytes()), Some("hex"));
            assert_eq!(form(BASE64_NOPAD.encode(&text).as_bytes()), Some("base64"), "{offset}");
            assert_eq!(form(BASE64URL_NOPAD.encode(&text).as_bytes()), Some("base64"), "{offset}");
            assert_eq!(form(BASE32_NOPAD.encode(&text).as_bytes()), Some("base32"), "{offset}");
            assert_eq!(
                form(BASE32_NOPAD.encode(&text).to_lowercase().as_bytes()),
                Some("base32"),
                "{offset}"
            );
        }
        let reversed: Vec<u8> = SECRET.iter().rev().copied().collect();
        assert_eq!(form(&reversed), Some("reversed"));
        assert_eq!(form(b"x=correct-Horse%2Fbattery%2BStaple%3D42"), Some("url"));
        assert_eq!(form(b"correct-Horse and a battery"), None);
    }

    #[test]
    fn values_of_every_day_are_left_out() {
        for value in [
            "production",
            "/usr/local/bin",
            "https://example.com/path",
            "short1!",
            "aaaaaaaaaaaaaaaa",
            "db-1.internal.corp",
            "db.internal:5432",
            "me.1@example.com",
            "192.168.101.250",
        ] {
            assert!(HostSecrets::new([("X", value.as_bytes())]).is_none(), "{value}");
        }
    }

    #[test]
    fn no_pattern_is_longer_than_what_is_kept_of_a_stream() {
        let long = [b'x', b'7', b'/'].repeat(100);
        for (form, text) in forms(&long[..LONGEST]) {
            assert!(form == "url" || text.len() <= PATTERN, "{form}: {}", text.len());
        }
    }
}
