//! Forms of identifiers that requests are full of, and names of parameters that sign them.

/// Whether a token is an identifier of known form: a number, a date, a digest, a UUID, a file's name with a digest,
/// a version, a structure of OCSP.
pub(super) fn is_identifier(token: &[u8]) -> bool {
    let token = token.split(|byte| matches!(byte, b'.' | b'@')).next().unwrap_or_default();
    token.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b':' | b'T' | b'Z' | b'+'))
        || is_digest(token)
        || is_uuid(token)
        // DER of a request of OCSP (RFC 6960, A.1) in base64.
        || token.len() > 60 && (token.starts_with(b"MF") || token.starts_with(b"ME") || token.starts_with(b"MG"))
        || token.starts_with(b"sha256:")
        || token.starts_with(b"sha512-")
        || token.starts_with(b"sha1-")
        || is_named_digest(token)
}

/// Hexadecimal of the length of a digest (MD5, SHA-1, SHA-2, BLAKE2b of PyPI without its first four digits), or
/// base64 of SHA-256, SHA-384 and SHA-512.
fn is_digest(token: &[u8]) -> bool {
    let hex = token.iter().all(u8::is_ascii_hexdigit);
    match token.len() {
        32 | 40 | 56 | 60 | 64 | 96 | 128 => hex,
        7 | 8 | 10 | 12 | 16 | 20 | 24 => hex && token.iter().any(u8::is_ascii_digit),
        _ => false,
    }
}

/// Whether digests in hexadecimal have this length.
pub(super) const fn is_digest_length(length: usize) -> bool {
    matches!(length, 32 | 40 | 64)
}

/// A name, a mark and a digest: `main-d41d8cd9`, `chunk_2fd4e1c67a2d`.
fn is_named_digest(token: &[u8]) -> bool {
    let mut parts = token.rsplit(|byte| matches!(byte, b'-' | b'_'));
    let last = parts.next().unwrap_or_default();
    is_digest(last) && parts.next().is_some()
}

fn is_uuid(token: &[u8]) -> bool {
    token.len() == 36
        && token.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Names of parameters whose values sign a request or tell a session: `X-Amz-Signature`, `sig`, `token`.
pub(super) fn is_signature(name: &[u8]) -> bool {
    const ENDS: &[&[u8]] = &[
        b"signature",
        b"credential",
        b"security-token",
        b"sig",
        b"hmac",
        b"hash",
        b"checksum",
        b"policy",
        b"key-pair-id",
        b"jwt",
        b"nonce",
        b"state",
        b"samlrequest",
        b"samlresponse",
        b"relaystate",
        b"csrf",
        b"verify",
        b"hdnts",
        b"__gda__",
        b"se",
        b"skoid",
        b"sktid",
        b"response-content-disposition",
    ];
    let lower = name.to_ascii_lowercase();
    ENDS.iter().any(|end| lower.ends_with(end) && (end.len() > 3 || lower.len() == end.len()))
}

/// Whether decoded text is a name or an address: identifiers that are encoded say such things.
pub(super) fn is_name(text: &[u8]) -> bool {
    let address =
        text.starts_with(b"http://") || text.starts_with(b"https://") || text.starts_with(b"gid://");
    let spaces = text.iter().any(|byte| matches!(byte, b' ' | b'\n' | b'{' | b'=' | b'"'));
    let short = text.len() < 40
        && !spaces
        && text.iter().filter(|byte| byte.is_ascii_digit()).count() * 3 > text.len();
    address || short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_of_every_day_are_known() {
        for token in [
            "20261129",
            "550e8400-e29b-41d4-a716-446655440000",
            "d41d8cd98f00b204e9800998ecf8427e",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "main-2fd4e1c67a2d.js",
            "2024-01-01T00:00:00Z",
            "69391af5396c6aab723932240803f49e5f3de3dd7c57d32f02d237a0ce32",
        ] {
            assert!(is_identifier(token.as_bytes()), "{token}");
        }
        for token in ["index.html", "QUtJQVEzWDdaTDVUMk02V1ZCNEs", "secret"] {
            assert!(!is_identifier(token.as_bytes()), "{token}");
        }
    }

    #[test]
    fn what_signs_is_known_by_its_name() {
        for name in ["X-Amz-Signature", "sig", "Policy", "SAMLRequest", "X-Goog-Credential"] {
            assert!(is_signature(name.as_bytes()), "{name}");
        }
        for name in ["q", "data", "design", "id"] {
            assert!(!is_signature(name.as_bytes()), "{name}");
        }
    }
}
