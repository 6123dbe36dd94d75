//! A DNS message as detectors read it: one [`View`] from hostile bytes or from a log.
//!
//! What cannot be read is a [`Fault`], never silence: the view then has what could be read before it.

use domain::{
    base::{
        Message as WireMessage, ParsedName,
        iana::{Class as WireClass, Opcode, Rtype},
        opt::UnknownOptData,
    },
    dep::octseq::Parser,
};

use super::{
    event::{Direction, Dns, Logged, Message},
    name::Name,
};

pub mod framing;
mod grammar;

pub(super) use self::grammar::is_free;

/// Records of a message that are looked at: what is behind is a [`Fault::TooMany`].
const RECORDS: usize = 512;
/// Bytes of an option that no option in use needs.
const OPTION: usize = 16;

/// Types by number (IANA, "Resource Record (RR) TYPEs").
pub mod rtype {
    #![expect(missing_docs, reason = "they are the names of the registry")]
    pub const A: u16 = 1;
    pub const NS: u16 = 2;
    pub const CNAME: u16 = 5;
    pub const SOA: u16 = 6;
    pub const NULL: u16 = 10;
    pub const PTR: u16 = 12;
    pub const MX: u16 = 15;
    pub const TXT: u16 = 16;
    pub const KEY: u16 = 25;
    pub const AAAA: u16 = 28;
    pub const SRV: u16 = 33;
    pub const CERT: u16 = 37;
    pub const OPT: u16 = 41;
    pub const DS: u16 = 43;
    pub const DNSKEY: u16 = 48;
    pub const OPENPGPKEY: u16 = 61;
    pub const SVCB: u16 = 64;
    pub const HTTPS: u16 = 65;
    pub const SPF: u16 = 99;
    pub const ANY: u16 = 255;
    pub const CAA: u16 = 257;
    /// First of the types for private use (RFC 6895, 3.1).
    pub const PRIVATE: u16 = 65280;
}

/// What is wrong with a message, or unusual enough to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It ends too early, or points nowhere, or a name in it is too long.
    Malformed,
    /// It has more records than any message needs.
    TooMany,
    /// Not exactly one question.
    Questions,
    /// An operation other than a query.
    Opcode,
    /// The reserved bit is set (RFC 1035, 4.1.1).
    Reserved,
    /// A class other than IN.
    Class,
    /// Bytes in the name that no host name has.
    Bytes,
    /// More labels than names have.
    Labels,
    /// A name longer than names are.
    Long,
    /// A query that has answers in it.
    AnswersInQuery,
    /// Bytes behind the last record.
    Trailing,
    /// Padding where nothing is encrypted (RFC 7830, 6 forbids it).
    Padding,
    /// Padding that is not zero.
    PaddingData,
    /// An option of unknown kind that holds data.
    Option,
    /// A query larger than its name and options explain.
    Oversized,
}

impl Fault {
    /// Every fault, in the order of its bit.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::TooMany,
        Self::Questions,
        Self::Opcode,
        Self::Reserved,
        Self::Class,
        Self::Bytes,
        Self::Labels,
        Self::Long,
        Self::AnswersInQuery,
        Self::Trailing,
        Self::Padding,
        Self::PaddingData,
        Self::Option,
        Self::Oversized,
    ];

    /// The name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooMany => "too_many_records",
            Self::Questions => "question_count",
            Self::Opcode => "opcode",
            Self::Reserved => "reserved_bit",
            Self::Class => "class",
            Self::Bytes => "name_bytes",
            Self::Labels => "label_count",
            Self::Long => "long_name",
            Self::AnswersInQuery => "answers_in_query",
            Self::Trailing => "trailing_bytes",
            Self::Padding => "padding_in_clear",
            Self::PaddingData => "padding_not_zero",
            Self::Option => "unknown_option",
            Self::Oversized => "oversized_query",
        }
    }

    /// What people are told.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Malformed => "it is malformed",
            Self::TooMany => "it has far too many records",
            Self::Questions => "it has not exactly one question",
            Self::Opcode => "it is no query",
            Self::Reserved => "a reserved bit is set",
            Self::Class => "its class is not IN",
            Self::Bytes => "its name has bytes that no host name has",
            Self::Labels => "its name has more labels than names have",
            Self::Long => "its name is longer than names are",
            Self::AnswersInQuery => "it is a query with answers in it",
            Self::Trailing => "it has bytes behind its end",
            Self::Padding => "it is padded although nothing is encrypted",
            Self::PaddingData => "its padding holds data",
            Self::Option => "an option of unknown kind holds data",
            Self::Oversized => "it is larger than its name explains",
        }
    }
}

/// A set of faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults(u32);

impl Faults {
    /// Adds one.
    pub const fn add(&mut self, fault: Fault) {
        self.0 |= 1 << fault as u32;
    }

    /// Whether one is in it.
    pub const fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u32) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// All in it.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |&fault| self.has(fault))
    }
}

/// What is known of the answer to a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub rcode: u8,
    /// Records of the answer section.
    pub records: u16,
    /// Bytes of their data that follow no known grammar: what a sender may have chosen freely.
    pub opaque: u32,
    /// Bytes of the largest of them.
    pub largest: u32,
    /// Bytes of data in all.
    pub bytes: u32,
}

/// NXDOMAIN (RFC 1035, 4.1.1).
pub const NXDOMAIN: u8 = 3;

/// A message.
#[derive(Clone, Copy, Debug, Default)]
pub struct View {
    /// The name asked for.
    pub name: Name,
    /// Whether there is a question.
    pub asked: bool,
    /// The type asked for, 0 if not known.
    pub rtype: u16,
    /// Whether it asks (and not only answers). A line of a log does both.
    pub is_query: bool,
    /// The answer, if it answers.
    pub answer: Option<Answer>,
    /// What is wrong with it.
    pub faults: Faults,
    /// A hash of the client's cookie (RFC 7873), 0 if there is none.
    pub cookie: u64,
    /// Bytes of the query that neither name nor known options explain.
    pub unexplained: u32,
    /// Bytes of the message, 0 if not known.
    pub bytes: u32,
}

impl View {
    /// What is known of a message.
    pub fn of(dns: &Dns<'_>) -> Self {
        match dns.message {
            Message::Wire(bytes) => Self::read(bytes, dns.transport == super::event::Transport::Encrypted),
            Message::Logged(logged) => Self::logged(&logged, dns.direction),
        }
    }

    fn logged(logged: &Logged<'_>, direction: Direction) -> Self {
        let mut view = Self {
            asked: true,
            rtype: logged.rtype,
            is_query: direction == Direction::Egress,
            bytes: u32::from(logged.query_bytes),
            ..Self::default()
        };
        let (name, is_whole) = Name::read(logged.name);
        view.name = name;
        if !is_whole {
            view.faults.add(Fault::Malformed);
        }
        view.look_at_name();
        view.answer = logged.rcode.map(|rcode| {
            let opaque = if grammar::is_free(logged.rtype) { logged.answer_bytes } else { 0 };
            let largest = opaque / u32::from(logged.answers.max(1));
            Answer { rcode, records: logged.answers, opaque, largest, bytes: logged.answer_bytes }
        });
        view
    }

    /// Reads a message.
    pub fn read(bytes: &[u8], encrypted: bool) -> Self {
        let mut view = Self { bytes: u32::try_from(bytes.len()).unwrap_or(u32::MAX), ..Self::default() };
        if view.fill(bytes, encrypted).is_none() {
            view.faults.add(Fault::Malformed);
        }
        view.look_at_name();
        view
    }

    /// `None` where it cannot be read further.
    fn fill(&mut self, bytes: &[u8], encrypted: bool) -> Option<()> {
        let message = WireMessage::from_octets(bytes).ok()?;
        let header = message.header();
        let counts = message.header_counts();
        self.is_query = !header.qr();
        if header.qr() {
            self.answer = Some(Answer { rcode: header.rcode().to_int(), ..Answer::default() });
        }
        if header.opcode() != Opcode::QUERY {
            self.faults.add(Fault::Opcode);
        }
        if header.z() {
            self.faults.add(Fault::Reserved);
        }
        if counts.qdcount() != 1 {
            self.faults.add(Fault::Questions);
        }
        if self.is_query && counts.ancount() > 0 && header.opcode() == Opcode::QUERY {
            self.faults.add(Fault::AnswersInQuery);
        }
        let mut questions = message.question();
        if let Some(question) = questions.next() {
            let question = question.ok()?;
            self.asked = true;
            self.rtype = question.qtype().to_int();
            if question.qclass() != WireClass::IN {
                self.faults.add(Fault::Class);
            }
            read_name(&mut self.name, question.qname())?;
        }
        self.fill_records(&message, encrypted)
    }

    fn fill_records(&mut self, message: &WireMessage<&[u8]>, encrypted: bool) -> Option<()> {
        let mut section = message.answer().ok()?;
        let mut looked_at = 0_usize;
        let mut number = 0;
        let mut explained = 12 + if self.asked { self.name.len() + 2 + 4 } else { 0 };
        loop {
            for record in section.by_ref() {
                let record = record.ok()?;
                looked_at += 1;
                if looked_at > RECORDS {
                    self.faults.add(Fault::TooMany);
                    return Some(());
                }
                if record.rtype() == Rtype::OPT {
                    explained += 11 + self.fill_options(&record, encrypted)?;
                } else if number == 0 {
                    self.fill_answer(&record)?;
                }
            }
            number += 1;
            match section.next_section().ok()? {
                Some(next) => section = next,
                None => break,
            }
        }
        if self.is_query {
            let length = message.as_slice().len();
            self.unexplained = u32::try_from(length.saturating_sub(explained)).unwrap_or(u32::MAX);
            // The signature of an update (TSIG) is explained by what it is.
            if self.unexplained > 64 && !self.faults.has(Fault::Opcode) {
                self.faults.add(Fault::Oversized);
            }
        }
        if has_trailing(message) {
            self.faults.add(Fault::Trailing);
        }
        Some(())
    }

    /// Bytes of options that are explained; `None` if they cannot be read.
    fn fill_options(
        &mut self,
        record: &domain::base::record::ParsedRecord<'_, &[u8]>,
        encrypted: bool,
    ) -> Option<usize> {
        let record = record.to_record::<domain::base::opt::Opt<_>>().ok()??;
        let mut explained = 0;
        for option in record.data().iter::<UnknownOptData<_>>() {
            let option = option.ok()?;
            let data = option.as_slice();
            let known = match option.code().to_int() {
                // LLQ, update lease, NSID, DAU, DHU, N3U, client subnet, expire, keep-alive, chain, key tag, error.
                1..=3 | 5..=9 | 11 | 13..=15 => data.len() <= 2 * OPTION,
                COOKIE => {
                    self.cookie = data.iter().take(8).fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
                    data.len() <= 40
                }
                PADDING => {
                    if !encrypted {
                        self.faults.add(Fault::Padding);
                    }
                    if data.iter().any(|&byte| byte != 0) {
                        self.faults.add(Fault::PaddingData);
                    }
                    true
                }
                _ => data.len() <= OPTION,
            };
            if known {
                explained += 4 + data.len();
            } else {
                self.faults.add(Fault::Option);
            }
        }
        Some(explained)
    }

    fn fill_answer(&mut self, record: &domain::base::record::ParsedRecord<'_, &[u8]>) -> Option<()> {
        let rtype = record.rtype().to_int();
        let record_data = record.to_record::<domain::base::rdata::UnknownRecordData<&[u8]>>().ok()??;
        let data: &[u8] = record_data.data().data();
        let free = grammar::opaque_bytes(rtype, data);
        if let Some(answer) = &mut self.answer {
            answer.records = answer.records.saturating_add(1);
            answer.bytes = answer.bytes.saturating_add(u32::from(record.rdlen()));
            answer.opaque = answer.opaque.saturating_add(free);
            answer.largest = answer.largest.max(free);
        }
        Some(())
    }

    fn look_at_name(&mut self) {
        let reverse = self.name.lower().ends_with(b".arpa");
        if self.name.is_odd() {
            self.faults.add(Fault::Bytes);
        }
        if self.name.labels() > 10 && !reverse {
            self.faults.add(Fault::Labels);
        }
        if self.name.len() > 150 {
            self.faults.add(Fault::Long);
        }
    }
}

/// Option codes (IANA, "DNS EDNS0 Option Codes").
const COOKIE: u16 = 10;
const PADDING: u16 = 12;

/// Whether there is anything behind the last record.
fn has_trailing(message: &WireMessage<&[u8]>) -> bool {
    let mut parser = Parser::from_ref(message.as_slice());
    let counts = message.header_counts();
    let records = u32::from(counts.ancount()) + u32::from(counts.nscount()) + u32::from(counts.arcount());
    let skip = |parser: &mut Parser<'_, [u8]>| -> Option<()> {
        parser.advance(12).ok()?;
        for _ in 0..counts.qdcount() {
            ParsedName::skip(parser).ok()?;
            parser.advance(4).ok()?;
        }
        for _ in 0..records {
            ParsedName::skip(parser).ok()?;
            parser.advance(8).ok()?;
            let length = parser.parse_u16_be().ok()?;
            parser.advance(usize::from(length)).ok()?;
        }
        Some(())
    };
    skip(&mut parser).is_some() && parser.remaining() > 0
}

fn read_name(name: &mut Name, read: &ParsedName<&[u8]>) -> Option<()> {
    for label in read.iter().filter(|label| !label.is_root()) {
        name.push(label.as_slice()).ok()?;
    }
    Some(())
}

impl Answer {
    /// Whether the name does not exist.
    pub const fn is_nxdomain(&self) -> bool {
        self.rcode == NXDOMAIN
    }
}

#[cfg(test)]
mod tests;
