//! Attempts to decode a token: what comes out tells data from a random identifier.
//!
//! A token of random characters decodes as well, to random bytes. Only a result that is text or begins as a
//! known format counts: ten random bytes are printable once in 20,000 times.

use std::io::Read as _;

use data_encoding::{BASE32_NOPAD, BASE32HEX_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use flate2::read::{GzDecoder, ZlibDecoder};

/// Encodings within encodings that are followed.
const DEPTH: usize = 3;
/// Bytes of a token that are decoded: more of the same tells nothing new.
const MAX: usize = 16 << 10;
/// Bytes of text worth telling.
const TEXT: usize = 10;

/// How a token was encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 4648, 8, in either case.
    Hex,
    /// RFC 4648, 6, in either case.
    Base32,
    /// RFC 4648, 7, in either case.
    Base32Hex,
    /// RFC 4648, 4 and 5.
    Base64,
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
}

impl Encoding {
    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hex => "hex",
            Self::Base32 => "base32",
            Self::Base32Hex => "base32hex",
            Self::Base64 => "base64",
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
        }
    }
}

/// What a token decodes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Outermost first.
    pub encodings: Vec<Encoding>,
    /// The innermost bytes.
    pub bytes: Vec<u8>,
    /// What they are.
    pub content: Content,
}

impl Decoded {
    /// The names of its encodings, such as `base64+gzip`.
    pub fn label(&self) -> String {
        self.encodings.iter().map(|encoding| encoding.label()).collect::<Vec<_>>().join("+")
    }
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Printable text.
    Text,
    /// A known format, by its first bytes.
    Format(&'static str),
}

impl Content {
    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Format(name) => name,
        }
    }
}

/// What a token decodes to, if that is text or a known format. `min` is the least number of bytes of text.
pub fn decode(token: &[u8], min: usize) -> Option<Decoded> {
    let token = token.get(..token.len().min(MAX)).unwrap_or_default();
    let found = [Encoding::Hex, Encoding::Base32, Encoding::Base64, Encoding::Base32Hex]
        .into_iter()
        .filter_map(|encoding| Some((encoding, undo(encoding, token)?)))
        .find_map(|(encoding, bytes)| Some((encoding, content(&bytes, min)?, bytes)));
    let (encoding, content, bytes) = found?;
    let mut decoded = Decoded { encodings: vec![encoding], bytes, content };
    for _ in 1..DEPTH {
        let Some((encoding, content, bytes)) = deeper(&decoded, min) else { break };
        decoded.encodings.push(encoding);
        (decoded.content, decoded.bytes) = (content, bytes);
    }
    Some(decoded)
}

fn deeper(decoded: &Decoded, min: usize) -> Option<(Encoding, Content, Vec<u8>)> {
    let bytes = &decoded.bytes;
    match decoded.content {
        Content::Format("gzip") => {
            let bytes = unpack(GzDecoder::new(bytes.as_slice()))?;
            Some((Encoding::Gzip, content(&bytes, min)?, bytes))
        }
        Content::Format("zlib") => {
            let bytes = unpack(ZlibDecoder::new(bytes.as_slice()))?;
            Some((Encoding::Zlib, content(&bytes, min)?, bytes))
        }
        Content::Format(_) => None,
        Content::Text => {
            let text = bytes.trim_ascii();
            [Encoding::Hex, Encoding::Base64, Encoding::Base32]
                .into_iter()
                .filter_map(|encoding| Some((encoding, undo(encoding, text)?)))
                .find_map(|(encoding, bytes)| Some((encoding, content(&bytes, min)?, bytes)))
        }
    }
}

/// What can be unpacked, also of a packed stream that is cut.
pub(super) fn unpack(reader: impl std::io::Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(MAX as u64);
    // An error at the end of what is there: what came before it counts.
    let _ = limited.read_to_end(&mut bytes);
    (!bytes.is_empty()).then_some(bytes)
}

/// The bytes behind an encoding; a cut at the end of the token is forgiven.
pub fn undo(encoding: Encoding, token: &[u8]) -> Option<Vec<u8>> {
    let token = match token.iter().rposition(|&byte| byte != b'=') {
        Some(last) => token.get(..=last)?,
        None => return None,
    };
    match encoding {
        Encoding::Hex => {
            let even = token.len() & !1;
            HEXLOWER_PERMISSIVE.decode(token.get(..even)?).ok()
        }
        Encoding::Base32 | Encoding::Base32Hex => {
            let upper = token.to_ascii_uppercase();
            let spec = if encoding == Encoding::Base32 { BASE32_NOPAD } else { BASE32HEX_NOPAD };
            forgiving(&spec, upper, 8)
        }
        Encoding::Base64 => {
            let url = token.iter().any(|byte| matches!(byte, b'-' | b'_'));
            let spec = if url { BASE64URL_NOPAD } else { BASE64_NOPAD };
            forgiving(&spec, token.to_vec(), 4)
        }
        Encoding::Gzip => unpack(GzDecoder::new(token)),
        Encoding::Zlib => unpack(ZlibDecoder::new(token)),
    }
}

/// Decodes all of it, else its whole groups.
fn forgiving(spec: &data_encoding::Encoding, mut token: Vec<u8>, group: usize) -> Option<Vec<u8>> {
    if let Ok(bytes) = spec.decode(&token) {
        return Some(bytes);
    }
    token.truncate(token.len() / group * group);
    spec.decode(&token).ok().filter(|bytes| !bytes.is_empty())
}

/// What bytes are, if that can be told.
pub fn content(bytes: &[u8], min: usize) -> Option<Content> {
    if let Some(format) = format(bytes) {
        return Some(Content::Format(format));
    }
    if bytes.len() < min.max(TEXT) {
        return None;
    }
    let printable = bytes.iter().filter(|&&byte| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')).count();
    // Text in other scripts is UTF-8, which random bytes are not.
    let text = printable == bytes.len()
        || bytes.len() >= 16 && printable * 10 >= bytes.len() * 9
        || bytes.len() >= 16 && printable * 2 >= bytes.len() && is_letters(bytes);
    text.then_some(Content::Text)
}

fn is_letters(bytes: &[u8]) -> bool {
    let whole = std::str::from_utf8(bytes)
        .or_else(|error| std::str::from_utf8(bytes.get(..error.valid_up_to()).unwrap_or_default()));
    whole.is_ok_and(|text| {
        text.len() + 4 > bytes.len() && !text.chars().any(|one| one.is_control() && one != '\n')
    })
}

/// The format that bytes begin with.
fn format(bytes: &[u8]) -> Option<&'static str> {
    const FORMATS: &[(&[u8], &str)] = &[
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"\x7fELF", "elf"),
        (b"-----BEGIN ", "pem"),
        (b"SQLite format 3\0", "sqlite"),
        (b"\x89PNG\r\n", "png"),
        (b"%PDF-", "pdf"),
        (b"openssh-key-v1\0", "openssh_key"),
        (b"Salted__", "openssl"),
    ];
    // Three letters of text are no format.
    let known = FORMATS.iter().find(|(start, name)| {
        bytes.starts_with(start)
            && (*name != "bzip2" || bytes.get(3).is_some_and(u8::is_ascii_digit) && bytes.len() > 9)
    });
    if let Some((_, name)) = known {
        return Some(name);
    }
    // Two bytes say little: zlib counts if something comes out.
    let zlib = matches!(bytes, [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..])
        && unpack(ZlibDecoder::new(bytes)).is_some_and(|bytes| bytes.len() >= TEXT);
    zlib.then_some("zlib")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const SECRET: &[u8] = b"sk-ant-api03-abcDEF0123456789";

    fn decoded(token: &str) -> Option<(String, Vec<u8>)> {
        decode(token.as_bytes(), TEXT).map(|decoded| (decoded.label(), decoded.bytes))
    }

    #[test]
    fn every_encoding_is_undone_in_either_case_and_cut() {
        for (label, token) in [
            ("hex", data_encoding::HEXLOWER.encode(SECRET)),
            ("hex", data_encoding::HEXUPPER.encode(SECRET)),
            ("base32", BASE32_NOPAD.encode(SECRET)),
            ("base32", BASE32_NOPAD.encode(SECRET).to_lowercase()),
            ("base32hex", BASE32HEX_NOPAD.encode(SECRET).to_lowercase()),
            ("base64", BASE64_NOPAD.encode(SECRET)),
            ("base64", BASE64URL_NOPAD.encode(SECRET)),
            ("base64", data_encoding::BASE64.encode(SECRET)),
            ("base64+base64", data_encoding::BASE64.encode(data_encoding::BASE64.encode(SECRET).as_bytes())),
        ] {
            assert_eq!(decoded(&token), Some((label.to_owned(), SECRET.to_vec())), "{token}");
            let (_, cut) = decoded(&token[..token.len() - 1]).unwrap();
            assert!(SECRET.starts_with(&cut[..8]), "{token}");
        }
    }

    #[test]
    fn packed_text_is_unpacked() {
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(SECRET).unwrap();
        let token = data_encoding::BASE64.encode(&packer.finish().unwrap());
        assert_eq!(decoded(&token), Some(("base64+gzip".to_owned(), SECRET.to_vec())));
    }

    #[test]
    fn identifiers_are_no_data() {
        for token in [
            "d41d8cd98f00b204e9800998ecf8427e",
            "2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
            "550e8400e29b41d4a716446655440000",
            "documentation",
            "example-service-production",
            "x7Qk2LmZ09vRtYpW",
        ] {
            assert_eq!(decoded(token), None, "{token}");
        }
    }

    #[test]
    fn random_tokens_seldom_decode() {
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[5]
        };
        let hits = (0..20_000)
            .filter(|_| {
                let bytes: Vec<u8> = (0..20).map(|_| random()).collect();
                decode(data_encoding::HEXLOWER.encode(&bytes).as_bytes(), TEXT).is_some()
            })
            .count();
        assert!(hits <= 2, "{hits}");
    }
}
