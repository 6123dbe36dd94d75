//! What may leave and what an answer opens, said once more: by another library, for messages at hand, without a thought of
//! the kernel's limits. The kernel programs are compared with it.

use std::net::IpAddr;

use domain::{
    base::{Message, ParsedName, iana::Opcode},
    dep::octseq::Parser,
};

/// A question of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The labels of its name, without the root.
    pub labels: Vec<Vec<u8>>,
    /// Its type.
    pub kind: u16,
    /// Its class.
    pub class: u16,
    /// Whether its name is written out.
    pub is_plain: bool,
}

/// Bytes of a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;
const IN: u16 = 1;
const A: u16 = 1;
const AAAA: u16 = 28;
const OPT: u16 = 41;
/// Bytes of the longest query.
const LONGEST: usize = 512;
/// Addresses that one answer opens.
const ADDRESSES: usize = 64;
/// Types that may be asked for: A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, LOC, SRV, NAPTR, DS, SSHFP, DNSKEY, TLSA, CAA.
const TYPES: [u16; 16] = [1, 2, 5, 6, 12, 15, 16, 28, 29, 33, 35, 43, 44, 48, 52, 257];

/// The questions of a message; `None` if they cannot be read.
pub fn questions(message: &[u8]) -> Option<Vec<Question>> {
    let message = Message::from_octets(message).ok()?;
    let mut questions = Vec::new();
    for question in message.question() {
        let question = question.ok()?;
        let name = question.qname();
        let labels: Vec<Vec<u8>> =
            name.iter().filter(|label| !label.is_root()).map(|label| label.as_slice().to_vec()).collect();
        questions.push(Question {
            is_plain: !name.is_compressed(),
            labels,
            kind: question.qtype().to_int(),
            class: question.qclass().to_int(),
        });
    }
    Some(questions)
}

/// The one plain question of a message: a host name of lower-case letters, digits, hyphens and underscores.
fn plain_question(message: &[u8]) -> Option<Question> {
    let [question] = <[Question; 1]>::try_from(questions(message)?).ok()?;
    let host = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(byte);
    let named = !question.labels.is_empty() && question.labels.iter().flatten().all(host);
    (named && question.is_plain && question.class == IN).then_some(question)
}

/// Whether a message is a plain query for a name that may be asked for.
pub fn may_leave(message: &[u8], is_allowed: impl Fn(&[Vec<u8>]) -> bool) -> bool {
    query(message, is_allowed).is_some()
}

fn query(bytes: &[u8], is_allowed: impl Fn(&[Vec<u8>]) -> bool) -> Option<()> {
    let message = Message::from_octets(bytes).ok()?;
    let (header, counts) = (message.header(), message.header_counts());
    let odd = header.qr() || header.aa() || header.tc() || header.ra() || header.z();
    if odd || header.opcode() != Opcode::QUERY || header.rcode().to_int() != 0 || bytes.len() > LONGEST {
        return None;
    }
    if counts.qdcount() != 1 || counts.ancount() != 0 || counts.nscount() != 0 || counts.arcount() > 1 {
        return None;
    }
    let question = plain_question(bytes)?;
    if !TYPES.contains(&question.kind) || !is_allowed(&question.labels) {
        return None;
    }
    let mut rest = behind_question(bytes)?;
    if counts.arcount() == 1 {
        edns(&mut rest)?;
    }
    (rest.remaining() == 0).then_some(())
}

/// A reader behind the only question.
fn behind_question(bytes: &[u8]) -> Option<Parser<'_, [u8]>> {
    let mut parser = Parser::from_ref(bytes);
    parser.advance(HEADER).ok()?;
    ParsedName::skip(&mut parser).ok()?;
    parser.advance(4).ok()?;
    Some(parser)
}

/// A record of EDNS (RFC 6891, 6.1) with a cookie and padding at most.
fn edns(parser: &mut Parser<'_, [u8]>) -> Option<()> {
    let root = parser.parse_u8().ok()?;
    let kind = parser.parse_u16_be().ok()?;
    let _size = parser.parse_u16_be().ok()?;
    let (code, version) = (parser.parse_u8().ok()?, parser.parse_u8().ok()?);
    let flags = parser.parse_u16_be().ok()?;
    let length = parser.parse_u16_be().ok()?;
    if root != 0 || kind != OPT || code != 0 || version != 0 || flags & 0x7fff != 0 {
        return None;
    }
    let end = parser.pos() + usize::from(length);
    let (mut options, mut padded) = (0, false);
    while parser.pos() < end {
        let (code, length) = (parser.parse_u16_be().ok()?, parser.parse_u16_be().ok()?);
        let data = parser.parse_octets(length.into()).ok()?;
        options += 1;
        let sound = match code {
            10 => data.len() == 8 || (16..=40).contains(&data.len()),
            12 => {
                let first = !std::mem::replace(&mut padded, true);
                first && data.len() <= 128 && data.iter().all(|&byte| byte == 0)
            }
            _ => false,
        };
        if !sound || options > 3 {
            return None;
        }
    }
    (parser.pos() == end).then_some(())
}

/// What comes of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it reaches the application.
    pub comes: bool,
    /// What it opens.
    pub opens: Vec<IpAddr>,
}

/// What comes of `answer` to the plain query `query`. Names of records are not looked at: a resolver is believed.
pub fn outcome(query: &[u8], answer: &[u8]) -> Outcome {
    let opens = opened(query, answer);
    Outcome { comes: opens.is_some(), opens: opens.unwrap_or_default() }
}

fn opened(query: &[u8], bytes: &[u8]) -> Option<Vec<IpAddr>> {
    let message = Message::from_octets(bytes).ok()?;
    let (header, counts) = (message.header(), message.header_counts());
    let same = bytes.get(..2) == query.get(..2) && plain_question(bytes)? == plain_question(query)?;
    if !same || !header.qr() || header.opcode() != Opcode::QUERY {
        return None;
    }
    let mut addresses = Vec::new();
    if header.tc() || header.rcode().to_int() != 0 {
        return Some(addresses);
    }
    let mut rest = behind_question(bytes)?;
    for _ in 0..counts.ancount() {
        ParsedName::skip(&mut rest).ok()?;
        let (kind, class) = (rest.parse_u16_be().ok()?, rest.parse_u16_be().ok()?);
        rest.advance(4).ok()?;
        let length = rest.parse_u16_be().ok()?;
        let data = rest.parse_octets(length.into()).ok()?;
        if class == IN && (kind == A || kind == AAAA) {
            addresses.push(address(kind, data)?);
        }
    }
    addresses.truncate(ADDRESSES);
    Some(addresses)
}

fn address(kind: u16, data: &[u8]) -> Option<IpAddr> {
    if kind == A {
        <[u8; 4]>::try_from(data).ok().map(IpAddr::from)
    } else {
        <[u8; 16]>::try_from(data).ok().map(|octets| IpAddr::from(octets).to_canonical())
    }
}
