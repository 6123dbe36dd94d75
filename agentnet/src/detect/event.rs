//! What detectors look at: one [`Event`] for each thing an agent sent or got.
//!
//! The kernel's records ([`crate::kernel::ring`]) and captures ([`crate::replay`]) become the same type, so
//! that a detector cannot tell them apart. Everything is borrowed: an event lives as long as the buffer it
//! was read into.

use std::net::SocketAddr;

use crate::alert::model::Process;

/// A moment: nanoseconds since 1970-01-01 UTC. Detectors know no other clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `seconds` after 1970.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Whole seconds since 1970.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// Nanoseconds from `earlier` to this, 0 if that is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Something an agent sent or got.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When.
    pub time: Time,
    /// Whose it is.
    pub agent: Agent<'a>,
    /// Who did it, where that is known.
    pub process: Option<&'a Process>,
    /// What its process tree did shortly before.
    pub lineage: Lineage,
    /// The flow it belongs to.
    pub flow: Flow,
    /// What it is.
    pub body: Body<'a>,
}

/// A governed agent; in a capture, a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agent<'a> {
    /// Its number, never used again for another one.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
}

/// What a process tree did in the 60 seconds before, as far as the source of events watches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// It opened a file that holds secrets: `.env`, SSH and cloud keys, cookies, keychains.
    pub read_secret: bool,
    /// It ran a program that encodes or packs: base64, xxd, gzip, openssl, split.
    pub encoded: bool,
}

impl Lineage {
    /// Whether it did anything of the kind.
    pub const fn is_suspicious(self) -> bool {
        self.read_secret || self.encoded
    }
}

/// A flow, seen from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Number of the flow: a socket cookie, or a number of the capture.
    pub id: u64,
    /// IANA number of the protocol.
    pub protocol: u8,
    /// The agent's end.
    pub local: SocketAddr,
    /// The far end.
    pub remote: SocketAddr,
}

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Out of the agent.
    Egress,
    /// Into the agent.
    Ingress,
}

impl Event<'_> {
    /// Payload that had left this way when it was seen, with its own.
    pub fn bytes_left(&self) -> u64 {
        match &self.body {
            Body::Chunk(chunk) => chunk.offset.saturating_add(chunk.bytes.len() as u64),
            Body::Datagram(datagram) => datagram.len.into(),
            Body::Icmp(icmp) => icmp.len.into(),
            Body::Dns(dns) => match dns.message {
                Message::Wire(bytes) => bytes.len() as u64,
                Message::Logged(logged) => {
                    logged.query_bytes.max(logged.name.len().try_into().unwrap_or(u16::MAX)).into()
                }
            },
            Body::Request(request) => (request.target.len() + request.host.len()) as u64,
            Body::Payload(bytes) => bytes.len() as u64,
            Body::Start | Body::End(_) => 0,
        }
    }
}

/// What an [`Event`] is.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// A DNS message.
    Dns(Dns<'a>),
    /// A flow began.
    Start,
    /// A flow ended, or was not heard of for long.
    End(Counters),
    /// Bytes of a stream.
    Chunk(Chunk<'a>),
    /// A datagram that is no DNS message.
    Datagram(Datagram<'a>),
    /// An ICMP or ICMPv6 message.
    Icmp(Icmp<'a>),
    /// The address of an HTTP request that a list has.
    Request(Request<'a>),
    /// Bytes that a list has.
    Payload(&'a [u8]),
}

/// The address of an HTTP request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method, empty if not known.
    pub method: &'a str,
    /// The host, with its port if it has one.
    pub host: &'a [u8],
    /// Path and query.
    pub target: &'a [u8],
}

/// A DNS message.
#[derive(Clone, Copy, Debug)]
pub struct Dns<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// What carried it.
    pub transport: Transport,
    /// Its bytes, or what is known of it.
    pub message: Message<'a>,
}

/// What carries DNS messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, each message behind its length (RFC 1035, 4.2.2).
    Tcp,
    /// Something that was decrypted.
    Encrypted,
}

/// A DNS message, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// Its bytes.
    Wire(&'a [u8]),
    /// What a log says of a query and its answer.
    Logged(Logged<'a>),
}

/// A query and its answer in a log.
#[derive(Clone, Copy, Debug)]
pub struct Logged<'a> {
    /// The name in presentation format (RFC 1035, 5.1).
    pub name: &'a str,
    /// The type, 0 if not known.
    pub rtype: u16,
    /// The response code; `None` if there was no answer or nothing is known of one.
    pub rcode: Option<u8>,
    /// Records of the answer section.
    pub answers: u16,
    /// Bytes of their data.
    pub answer_bytes: u32,
    /// Bytes of the query's message, 0 if not known.
    pub query_bytes: u16,
}

/// What a flow carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes the agent sent, headers included.
    pub bytes_out: u64,
    /// Bytes the agent got.
    pub bytes_in: u64,
    /// Packets the agent sent.
    pub packets_out: u64,
    /// Packets the agent got.
    pub packets_in: u64,
    /// Nanoseconds from the first packet to the last.
    pub duration: u64,
}

/// Bytes of a stream, in order within each direction.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'a> {
    /// Which way they went.
    pub direction: Direction,
    /// Place of the first one in its direction of the stream, from 0, gaps included.
    pub offset: u64,
    /// Bytes missing just before it.
    pub gap: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// A datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of its payload, of which `bytes` may be the first.
    pub len: u32,
    /// Its payload, as far as it was sampled.
    pub bytes: &'a [u8],
}

/// An ICMP message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// What it is.
    pub message: IcmpMessage,
    /// Bytes behind the eight of the header, of which `payload` may be the first.
    pub len: u32,
    /// Bytes behind the eight of the header.
    pub payload: &'a [u8],
}

/// What an ICMP message is, in either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpMessage {
    /// An echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// An echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// Another message that carries data of its sender's choice: timestamp, information, unknown types.
    Other(u8),
    /// An error or a neighbour's message, whose content the protocol sets.
    Control(u8),
}
