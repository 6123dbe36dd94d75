//! Secrets in bytes: by their format, and those of this host exactly, however they are encoded.

use std::borrow::Cow;

use super::decode::{self, Encoding};

mod example;
pub mod host;
mod rules;
pub mod source;
mod table;

pub use host::HostSecrets;
pub use rules::Tier;

/// Encodings within encodings that are followed.
const DEPTH: usize = 3;
/// Characters of a token that is worth decoding.
const SHORTEST: usize = 20;
/// Characters of a token that may begin within a group of characters.
const SHIFTED: usize = 512;
/// Bytes looked at in all, copies included, for each byte given, and some more.
const WORK: usize = 6;
const SOME_MORE: usize = 64 << 10;

/// A secret that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The rule, or the name of the host's secret.
    pub rule: Cow<'static, str>,
    /// How sure it is.
    pub tier: Tier,
    /// How it was encoded, outermost first: `raw`, `base64`, `url+hex`, ...
    pub encoding: String,
    /// The secret, as far as the rule knows where it begins and ends.
    pub secret: Vec<u8>,
    /// Where it belongs.
    pub hosts: &'static [&'static str],
    /// Whether it is one of this host's.
    pub own: bool,
    /// What stands before it, for rules about places.
    pub before: Vec<u8>,
}

/// Looks for secrets.
#[derive(Debug)]
struct Search<'h> {
    host: Option<&'h HostSecrets>,
    found: Vec<Found>,
    /// Bytes that may still be looked at.
    work: usize,
}

/// Every secret in `bytes`, the surest first.
pub fn find(bytes: &[u8], host: Option<&HostSecrets>) -> Vec<Found> {
    let work = bytes.len().saturating_mul(WORK).saturating_add(SOME_MORE);
    let mut search = Search { host, found: Vec::new(), work };
    search.look(bytes, &mut Vec::new());
    search.found.sort_by_key(|found| std::cmp::Reverse((found.own, found.tier)));
    search.found
}

impl Search<'_> {
    /// Looks at bytes that came out of `path`.
    fn look(&mut self, bytes: &[u8], path: &mut Vec<&'static str>) {
        if bytes.len() < 8 || self.work < bytes.len() {
            return;
        }
        self.work -= bytes.len();
        self.match_all(bytes, path);
        if path.len() >= DEPTH {
            return;
        }
        let last = path.last().copied();
        if last != Some("url") && has_escapes(bytes, b'%') {
            self.deeper(&percent(bytes), "url", path);
        }
        if last != Some("json") && memchr::memchr(b'\\', bytes).is_some() {
            self.deeper(&unescape(bytes), "json", path);
        }
        if bytes.starts_with(b"\x1f\x8b")
            && let Some(plain) = decode::undo(Encoding::Gzip, bytes)
        {
            return self.deeper(&plain, "gzip", path);
        }
        if matches!(bytes, [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..])
            && let Some(plain) = decode::undo(Encoding::Zlib, bytes)
        {
            return self.deeper(&plain, "zlib", path);
        }
        tokens(bytes, |token| self.token(token, path));
    }

    fn deeper(&mut self, bytes: &[u8], step: &'static str, path: &mut Vec<&'static str>) {
        path.push(step);
        self.look(bytes, path);
        path.pop();
    }

    /// Decodes a token in every way that it may be encoded.
    fn token(&mut self, token: &[u8], path: &mut Vec<&'static str>) {
        for encoding in [Encoding::Hex, Encoding::Base32, Encoding::Base64] {
            if !may_be(encoding, token) {
                continue;
            }
            let group = match encoding {
                Encoding::Hex => 2,
                Encoding::Base32 => 8,
                _ => 4,
            };
            let shifts = if token.len() <= SHIFTED { group } else { 1 };
            for shift in 0..shifts {
                let Some(part) = token.get(shift..) else { break };
                let Some(bytes) = decode::undo(encoding, part) else { continue };
                // Pictures and what is encrypted have no text in them; this host's own secrets are known in base64 as well.
                if encoding == Encoding::Base64 && !has_text(&bytes) {
                    continue;
                }
                let before = self.found.len();
                self.deeper(&bytes, encoding.label(), path);
                if self.found.len() > before {
                    break;
                }
            }
        }
    }

    fn match_all(&mut self, bytes: &[u8], path: &[&'static str]) {
        let encoding = || if path.is_empty() { "raw".to_owned() } else { path.join("+") };
        if let Some(host) = self.host {
            for hit in host.find(bytes) {
                let inner = match (path.is_empty(), hit.form) {
                    (true, form) => form.to_owned(),
                    (false, "raw") => encoding(),
                    (false, form) => format!("{}+{form}", encoding()),
                };
                self.add(Found {
                    rule: Cow::Owned(hit.name.to_owned()),
                    tier: Tier::Certain,
                    encoding: inner,
                    secret: bytes.get(hit.span).unwrap_or_default().to_vec(),
                    hosts: &[],
                    own: true,
                    before: Vec::new(),
                });
            }
        }
        for one in rules::find(bytes) {
            let before = bytes.get(one.span.start.saturating_sub(24)..one.span.start).unwrap_or_default();
            self.add(Found {
                rule: Cow::Borrowed(one.rule),
                tier: one.tier,
                encoding: encoding(),
                before: before.to_vec(),
                secret: bytes.get(one.span).unwrap_or_default().to_vec(),
                hosts: one.hosts,
                own: false,
            });
        }
    }

    /// Adds what is not there yet: the same in a copy of the bytes is the same.
    fn add(&mut self, found: Found) {
        let same = |one: &Found| one.rule == found.rule && (one.own || one.secret == found.secret);
        if self.found.len() < 32 && !self.found.iter().any(same) {
            self.found.push(found);
        }
    }
}

/// Whether bytes may have text among them. Of random bytes 37 % are printable.
fn has_text(bytes: &[u8]) -> bool {
    let start = bytes.get(..bytes.len().min(1024)).unwrap_or_default();
    let printable = start.iter().filter(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t')).count();
    start.len() < 64 || printable * 100 >= start.len() * 45 || decode::content(bytes, usize::MAX).is_some()
}

/// Whether all characters of a token are of an encoding, and it is one that is worth an attempt.
fn may_be(encoding: Encoding, token: &[u8]) -> bool {
    let body = || token.iter().filter(|&&byte| byte != b'=');
    match encoding {
        Encoding::Hex => token.len() >= 2 * 8 && body().all(u8::is_ascii_hexdigit),
        Encoding::Base32 => {
            let upper = body().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'));
            upper || body().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
        }
        // A word of one case is no base64.
        _ => body().any(u8::is_ascii_uppercase) && body().any(u8::is_ascii_lowercase),
    }
}

/// Hands each run of characters of base64 to `see`; lines of one encoded text are put together.
fn tokens(bytes: &[u8], mut see: impl FnMut(&[u8])) {
    let mut at = 0;
    let mut joined = Vec::new();
    while let Some(start) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| is_encoded(byte))) {
        let start = at + start;
        let mut end = run(bytes, start);
        let mut line = end - start;
        joined.clear();
        // `base64` and MIME break lines after 76 characters, PEM after 64.
        while line >= 56 {
            let Some(next) = next_line(bytes, end) else { break };
            if joined.is_empty() {
                joined.extend_from_slice(bytes.get(start..end).unwrap_or_default());
            }
            let stop = run(bytes, next);
            joined.extend_from_slice(bytes.get(next..stop).unwrap_or_default());
            line = stop - next;
            end = stop;
        }
        let token = if joined.is_empty() { bytes.get(start..end).unwrap_or_default() } else { &joined };
        if token.len() >= SHORTEST {
            see(token);
        }
        at = end.max(start + 1);
    }
}

const fn is_encoded(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// Where the run that begins at `start` ends.
fn run(bytes: &[u8], start: usize) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    start + rest.iter().position(|&byte| !is_encoded(byte)).unwrap_or(rest.len())
}

/// Where the next line begins, if `end` is the end of one and the next one goes on with encoded characters.
fn next_line(bytes: &[u8], end: usize) -> Option<usize> {
    let rest = bytes.get(end..)?;
    let skip = if rest.starts_with(b"\r\n") { 2 } else { usize::from(rest.starts_with(b"\n")) };
    (skip > 0 && rest.get(skip).is_some_and(|&byte| is_encoded(byte))).then_some(end + skip)
}

/// Whether there is `%` with two hexadecimal digits.
fn has_escapes(bytes: &[u8], mark: u8) -> bool {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(mark, rest) {
        rest = rest.get(at + 1..).unwrap_or_default();
        if matches!(rest, [h, l, ..] if h.is_ascii_hexdigit() && l.is_ascii_hexdigit()) {
            return true;
        }
    }
    false
}

/// Undoes percent-encoding (RFC 3986, 2.1); `+` is left alone: keys have it.
pub(super) fn percent(bytes: &[u8]) -> Vec<u8> {
    escaped(bytes, b'%', 0)
}

fn escaped(bytes: &[u8], mark: u8, skip: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = (byte == mark).then(|| after.get(skip..skip + 2)).flatten();
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match value {
            Some(value) => {
                plain.push(value);
                rest = after.get(skip + 2..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

/// Undoes escapes of JSON and of C: `\n`, `\"`, `\/`, `\x41`, `\u0041`.
pub fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let hex = |digits: Option<&[u8]>| u32::from_str_radix(std::str::from_utf8(digits?).ok()?, 16).ok();
    while let Some((&byte, after)) = rest.split_first() {
        let (value, used): (Option<u32>, usize) = match (byte, after.first()) {
            (b'\\', Some(b'n')) => (Some(10), 1),
            (b'\\', Some(b'r')) => (Some(13), 1),
            (b'\\', Some(b't')) => (Some(9), 1),
            (b'\\', Some(b'x')) => (hex(after.get(1..3)), 3),
            (b'\\', Some(b'u')) => (hex(after.get(1..5)), 5),
            (b'\\', Some(&other @ (b'"' | b'\'' | b'\\' | b'/'))) => (Some(other.into()), 1),
            _ => (None, 0),
        };
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                plain.push(value);
                rest = after.get(used..).unwrap_or_default();
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests;
