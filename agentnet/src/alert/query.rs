//! What a refused DNS message asked for, as far as it can be read.

use domain::{
    base::{Header, ParsedName, iana::Rtype},
    dep::octseq::Parser,
};

use super::{
    model::Query,
    text::{MAX_SENTENCE, clean},
};

/// Bytes of a header (RFC 1035, 4.1.1).
const HEADER: usize = size_of::<Header>() + 8;

/// The first question of a message, whatever else is wrong with it; `None` where there is none that can be read.
pub fn read(message: &[u8]) -> Option<Query> {
    let mut parser = Parser::from_ref(message);
    parser.advance(HEADER).ok()?;
    let name = ParsedName::parse(&mut parser).ok()?;
    let kind = Rtype::from_int(parser.parse_u16_be().ok()?);
    // As people write it; the root is a dot.
    let text = name.to_string();
    let text = if text.is_empty() { "." } else { &text };
    Some(Query { name: clean(text, MAX_SENTENCE), kind: clean(&kind.to_string(), MAX_SENTENCE) })
}

#[cfg(test)]
mod tests {
    use super::read;

    fn message(question: &[u8]) -> Vec<u8> {
        [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], question].concat()
    }

    #[test]
    fn a_question_is_read_as_it_is_written() {
        for (question, name, kind) in [
            (&b"\x03api\x07example\x03com\x00\x00\x01\x00\x01"[..], "api.example.com", "A"),
            (b"\x03a.b\x03com\x00\x00\x1c\x00\x01", "a\\.b.com", "AAAA"),
            (b"\x02\xff\x00\x00\xff\x77\x00\x01", "\\255\\000", "TYPE65399"),
            (b"\x00\x00\x02\x00\x01", ".", "NS"),
        ] {
            let query = read(&message(question)).unwrap();
            assert_eq!((query.name.as_str(), query.kind.as_str()), (name, kind));
        }
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        for question in [&b""[..], b"\x40", b"\x03ab", b"\x03abc", b"\xc0\x0c", b"\x03abc\x00\x00"] {
            assert_eq!(read(&message(question)), None);
        }
        assert_eq!(read(b"\x00"), None);
    }
}
