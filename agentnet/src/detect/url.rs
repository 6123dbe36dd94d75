//! D6: data in requests, to hosts that are not often visited.
//!
//! Addresses of ordinary requests are full of identifiers, so that what one of them says proves nothing. What counts
//! is what decodes to text or a known format, pieces of one length one after the other, and how much that is new a
//! host was told; identifiers of known form and whatever a popular host is told count for nothing alone.

use super::{
    decode::{self, Content},
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    ledger::{Entry, Lane, Span},
    lm::{Bits, Case, URLS},
    registry::Detector,
    scene::{Bytes, Request, Scene},
    secrets::percent,
};

mod form;

/// See the module.
#[derive(Debug)]
pub struct UrlChannel;

/// New information that a host may be told in addresses within 10 minutes, in bytes.
const BUDGET: u32 = 1024;
/// The same for hosts that are often visited.
const POPULAR: u32 = 64 << 10;
/// Pieces of one length within 2 minutes.
const PIECES: u32 = 20;
/// Bytes that a token must decode to.
const TEXT: usize = 18;
/// Characters of a token that is looked at: most are words.
const SHORTEST: usize = 6;
/// What language has for each character, in sixteenths of a bit: only what is above counts.
const USUAL: u32 = 40;
/// Tokens of one address.
const TOKENS: usize = 256;
/// Bytes of a body's piece in which data is looked for.
const BODY: usize = 8 << 10;

/// How what counts in a body begins in base64 and hexadecimal: gzip, zip, PEM, SQLite, keys of OpenSSH, OpenSSL.
const STARTS: &[&[u8]] = &[
    b"H4sI",
    b"UEsDB",
    b"LS0tLS1CRUdJTi",
    b"U1FMaXRl",
    b"b3BlbnNzaC1r",
    b"U2FsdGVkX1",
    b"N3q8rycc",
    b"/Td6WF",
    b"KLUv",
    b"QlpoO",
    b"f0VMR",
    b"1f8b08",
    b"504b0304",
    b"2d2d2d2d2d424547494e",
    b"1F8B08",
    b"2D2D2D2D2D424547494E",
];

/// A token of an address.
struct Token<'a> {
    part: &'static str,
    text: std::borrow::Cow<'a, [u8]>,
}

impl Detector for UrlChannel {
    fn id(&self) -> &'static str {
        "url"
    }

    fn weight(&self) -> f32 {
        0.3
    }

    fn on_request(&self, scene: &mut Scene<'_, '_>, request: &Request<'_>) {
        let now = scene.now();
        let before = scene
            .ledger
            .get(Lane::Http, request.key)
            .map_or(0, |account| account.sums.of(Span::Minutes10, now).in_bytes());
        let mut news = Entry { bits: Bits::default(), characters: 0, items: 0 };
        let mut piece = None;
        let mut decoded = None;
        for token in tokens(request.target) {
            let text = &*token.text;
            let number = piece.is_none() && text.len() >= SHORTEST && text.iter().all(u8::is_ascii_digit);
            // A number may be a piece where others of its length are.
            let among = number && scene.ledger.get(Lane::Http, &pieces_of(request.key, text.len())).is_some();
            if piece.is_none() && (among || is_piece(text)) && scene.ledger.is_new(Lane::Http, b"#", text) {
                piece = Some(text.len());
            }
            if text.len() < SHORTEST
                || form::is_identifier(text)
                || !scene.ledger.is_new(Lane::Http, request.key, text)
            {
                continue;
            }
            let said = excess(text);
            if said == Bits::default() {
                continue;
            }
            news.bits = news.bits.plus(said);
            news.items += 1;
            news.characters = news.characters.saturating_add(u32::try_from(text.len()).unwrap_or(u32::MAX));
            if decoded.is_none() && !request.popular {
                decoded = data(text).map(|data| (token.part, text.to_vec(), data));
            }
        }
        if news.items == 0 && piece.is_none() {
            return;
        }
        let account = scene.ledger.enter(Lane::Http, request.key, news, now);
        let told = account.sums.of(Span::Minutes10, now).in_bytes();
        let limit = if request.popular { POPULAR } else { BUDGET };
        let pieces = piece.map(|length| {
            let key = pieces_of(request.key, length);
            let one = Entry { bits: Bits::bytes(1), characters: 0, items: 1 };
            scene.ledger.enter(Lane::Http, &key, one, now).sums.of(Span::Minutes2, now).in_bytes()
        });
        // Digests name pictures and files of pages; other lengths name nothing.
        let most = if piece.is_some_and(form::is_digest_length) { 4 * PIECES } else { PIECES };
        let pieces = pieces.filter(|&pieces| pieces > most && !request.popular);
        let worth = match (&decoded, told >= limit, pieces) {
            (Some(_), true, _) | (_, true, Some(_)) => (Strength::Alert, 1.0),
            (_, true, None) | (None, false, Some(_)) => (Strength::Alert, 0.8),
            (Some(_), false, _) => (Strength::Alert, 0.7),
            (None, false, None) => return,
        };
        let what: &[u8] = if decoded.is_some() { b"decoded" } else { b"" };
        scene.findings.add(request.key, what, worth, || {
            let host = request.subject();
            let reason = match (&decoded, pieces) {
                (Some((part, _, data)), _) => format!(
                    "sent {host} {} bytes of {} in {} in the {part} of a request",
                    data.bytes.len(),
                    data.content.label(),
                    data.label()
                ),
                (None, Some(pieces)) => format!(
                    "sent {host} {pieces} pieces of one length within 2 minutes in addresses of requests, as a file \
                     that was cut up would be"
                ),
                (None, None) => format!(
                    "told {host} {told} bytes that were new in addresses of requests within 10 minutes, where {limit} \
                     is the limit"
                ),
            };
            Statement {
                reason,
                advice: "look at what the request says; if nobody knows the host, block it",
                evidence: Evidence::Url(evidence::Url {
                    part: decoded.as_ref().map_or("address", |(part, ..)| part).into(),
                    sample: decoded.as_ref().map_or_else(
                        || super::dns_query::sample(request.target.get(1..).unwrap_or_default()),
                        |(_, text, _)| super::dns_query::sample(text),
                    ),
                    decoded: decoded.as_ref().map(|(_, _, data)| tell(data)),
                    information_bytes: told,
                    limit_bytes: limit,
                    pieces,
                    bytes_before_block: before,
                    host: host.clone(),
                }),
                subject: host,
            }
        });
    }

    fn on_bytes(&self, scene: &mut Scene<'_, '_>, bytes: &Bytes<'_>) {
        // Of a list nobody knows whom it was sent to.
        if bytes.popular || bytes.key.is_empty() {
            return;
        }
        let new = bytes.bytes.get(bytes.shown..).unwrap_or_default();
        let start = new.get(..new.len().min(BODY)).unwrap_or_default();
        if !STARTS.iter().any(|mark| memchr::memmem::find(start, mark).is_some()) {
            return;
        }
        let found = start
            .split(|&byte| {
                !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'%'))
            })
            .filter(|token| token.len() >= 2 * SHORTEST && !form::is_identifier(token))
            .take(TOKENS)
            .find_map(|token| Some((token, data(&percent(token))?)));
        let Some((token, data)) = found else { return };
        let worth = match data.content {
            // Keys and databases are no part of an interface's messages.
            Content::Format("pem" | "openssh_key" | "sqlite" | "openssl") => (Strength::Alert, 0.8),
            Content::Format("gzip" | "zip" | "7z" | "xz" | "zstd" | "bzip2" | "elf") => (Strength::Hint, 0.5),
            // Pictures and texts in base64 are.
            _ => return,
        };
        scene.findings.add(bytes.key, b"body", worth, || Statement {
            subject: bytes.subject.to_owned(),
            reason: format!(
                "sent {} {} bytes of {} in {} in {}",
                bytes.subject,
                data.bytes.len(),
                data.content.label(),
                data.label(),
                bytes.what
            ),
            advice: "look at what was sent; if nobody knows the host, block it",
            evidence: Evidence::Url(evidence::Url {
                host: bytes.subject.to_owned(),
                part: "body".into(),
                sample: super::dns_query::sample(token),
                decoded: Some(tell(&data)),
                information_bytes: 0,
                limit_bytes: BUDGET,
                pieces: None,
                bytes_before_block: 0,
            }),
        });
    }
}

/// What stands in the ledger for pieces of one length.
fn pieces_of(key: &[u8], length: usize) -> Vec<u8> {
    [key, b"#", &length.to_le_bytes()].concat()
}

fn tell(data: &decode::Decoded) -> evidence::Decoded {
    evidence::Decoded {
        encoding: data.label(),
        content: data.content.label().into(),
        bytes: data.bytes.len(),
        sample: super::dns_query::sample(&data.bytes),
    }
}

/// What a token decodes to, if it is data and no name.
fn data(token: &[u8]) -> Option<decode::Decoded> {
    let decoded = decode::decode(token, TEXT)?;
    // A name in base64 is how many services make identifiers: `gid://shop/Product/1`, `user:4711`.
    (decoded.content != Content::Text || !form::is_name(&decoded.bytes)).then_some(decoded)
}

/// Segments of the path, names and values of the query.
fn tokens(target: &[u8]) -> impl Iterator<Item = Token<'_>> {
    let mut halves = target.splitn(2, |&byte| byte == b'?');
    let path = halves.next().unwrap_or_default();
    let query = halves.next().unwrap_or_default();
    let path = path.split(|byte| matches!(byte, b'/' | b';')).map(|text| ("path", text));
    let query = query.split(|byte| matches!(byte, b'&' | b';')).flat_map(|pair| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let name = halves.next().unwrap_or_default();
        let value = halves.next().filter(|_| !form::is_signature(name));
        [Some(("query", name)), value.map(|value| ("query", value))].into_iter().flatten()
    });
    path.chain(query).take(TOKENS).map(|(part, text)| {
        let text = if text.contains(&b'%') { percent(text).into() } else { text.into() };
        Token { part, text }
    })
}

/// What a token says beyond what language has.
fn excess(token: &[u8]) -> Bits {
    let said = URLS.token(token, Case::Kept);
    let usual = u32::try_from(token.len()).unwrap_or(u32::MAX).saturating_mul(USUAL);
    said.minus(Bits(usual))
}

/// Whether a token may be a piece of something that was encoded: no word, no number, no name of a file.
fn is_piece(token: &[u8]) -> bool {
    if token.len() < SHORTEST {
        return false;
    }
    let plain =
        token.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=' | b'+'));
    let digits = token.iter().filter(|byte| byte.is_ascii_digit()).count();
    plain
        && digits > 0
        && digits < token.len()
        && URLS.compound(token, Case::Kept).whole() as usize >= 3 * token.len()
}
