//! Every parser of hostile bytes, to be fed anything: a body for each fuzz target in `fuzz/`, and seeds for it.
//!
//! `cargo xtask fuzz` feeds them what a coverage-guided fuzzer thinks of; the test `hostile` what changes to the seeds
//! make of them, on every run of the tests. A body panics where a parser is wrong, and where it takes or gives more than
//! it may.

#![expect(clippy::panic, reason = "a body ends where a parser is wrong")]

use std::{net::SocketAddr, sync::LazyLock};

use agentnet::{
    detect::{
        action::Actions,
        bank::Config,
        decode,
        dns::{Fault, View},
        domains::Base,
        event::{Agent, Direction, Flow, Lineage, Time},
        kept,
        ledger::{Keys, Ledger},
        live::{Live, Sample, Source},
        name::Name,
        secrets::{self, HostSecrets},
    },
    replay::{
        Replay,
        pcap::{Capture, CaptureError},
        scan::{List, Scanner},
    },
};

use crate::oracle;

/// What a parser is fed with.
pub struct Target {
    /// Its name, that of the file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Feeds it.
    pub feed: fn(&[u8]),
    /// What it understands.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "dns_message", feed: dns_message, seeds: messages },
    Target { name: "dns_question", feed: dns_question, seeds: messages },
    Target { name: "dns_stream", feed: dns_stream, seeds: dns_streams },
    Target { name: "http_stream", feed: http_stream, seeds: requests },
    Target { name: "datagram", feed: datagram, seeds: messages },
    Target { name: "secrets", feed: find_secrets, seeds: texts },
    Target { name: "decode", feed: decode_token, seeds: texts },
    Target { name: "capture", feed: capture, seeds: captures },
    Target { name: "packet", feed: packet, seeds: packets },
    Target { name: "quic", feed: quic, seeds: hellos },
    Target { name: "scan_names", feed: scan_names, seeds: lines },
    Target { name: "scan_urls", feed: scan_urls, seeds: lines },
    Target { name: "scan_payloads", feed: scan_payloads, seeds: lines },
    Target { name: "name", feed: name, seeds: lines },
    Target { name: "kept_ledger", feed: kept_ledger, seeds: ledgers },
];

/// A DNS message of a datagram or a stream.
pub fn dns_message(data: &[u8]) {
    for encrypted in [false, true] {
        let view = View::read(data, encrypted);
        assert!(view.name.len() <= 254 && view.unexplained as usize <= data.len());
        if let Some(answer) = view.answer {
            assert!(answer.opaque as usize <= data.len().saturating_mul(512));
        }
    }
}

/// The question of a DNS message, read by two libraries. Where both take it they agree, and what agentnet reads is the same.
///
/// Each refuses something that the other takes (types that dns-parser does not know, bytes above ASCII; names longer than
/// 255 bytes), which is no disagreement.
pub fn dns_question(data: &[u8]) {
    // Longer than datagrams of DNS are; dns-parser prints a name by a call for each pointer in it.
    let data = &data[..data.len().min(4096)];
    let (Ok(one), Some(other)) = (dns_parser::Packet::parse(data), oracle::questions(data)) else { return };
    assert_eq!(one.questions.len(), other.len(), "questions of {}", data.escape_ascii());
    for (one, other) in one.questions.iter().zip(&other) {
        // dns-parser joins labels by dots, whatever is in them.
        assert_eq!(one.qname.to_string().as_bytes(), other.labels.join(&b'.'), "{}", data.escape_ascii());
        assert_eq!(one.qtype as u16, other.kind, "type of {}", data.escape_ascii());
        let unicast = u16::from(one.prefer_unicast) << 15;
        assert_eq!(one.qclass as u16 | unicast, other.class, "class of {}", data.escape_ascii());
    }
    let view = View::read(data, false);
    if let ([first, ..], false) = (other.as_slice(), view.faults.has(Fault::Malformed)) {
        assert_eq!(view.rtype, first.kind);
        assert_eq!(view.name.len(), first.labels.join(&b'.').len(), "{}", data.escape_ascii());
        assert_eq!(view.is_query, one.header.query);
    }
}

/// DNS over TCP, cut in pieces.
pub fn dns_stream(data: &[u8]) {
    stream(53, data);
}

/// HTTP, and whatever else streams are, cut in pieces.
pub fn http_stream(data: &[u8]) {
    stream(80, data);
}

/// Bytes are cut where the first byte of each piece says; some pieces are lost or come again.
fn stream(port: u16, data: &[u8]) {
    let mut live = Live::new(config(), Keys::new(7, 9));
    let (mut rest, mut offset, mut second) = (data, 0_u64, 0);
    while let [cut, bytes @ ..] = rest {
        let (piece, after) = bytes.split_at(bytes.len().min(usize::from(cut >> 2) * 8 + 1));
        let direction = if cut & 3 == 3 { Direction::Ingress } else { Direction::Egress };
        second += 1;
        let sample = Sample {
            source: source(6, port, second),
            direction,
            offset,
            payload: 0,
            bytes: piece,
            held: None,
        };
        check(live.sample(&sample, &Actions::default()).len());
        if cut & 3 == 2 {
            check(live.sample(&sample, &Actions::default()).len());
        }
        offset += piece.len() as u64 + if cut & 3 == 1 { u64::from(*cut) } else { 0 };
        rest = after;
    }
    live.ended(&source(6, port, second), agentnet::detect::event::Counters::default(), &Actions::default());
    let kept = live.keep(1).unwrap_or_else(|error| panic!("a ledger cannot be kept: {error}"));
    assert!(kept.is_none_or(|kept| kept.len() <= kept::MAX_BYTES));
}

/// As many as all detectors can say of what one piece completes.
fn check(verdicts: usize) {
    assert!(verdicts <= 4096, "{verdicts} verdicts on one sample");
}

/// A datagram to each port that is read, and ICMP.
pub fn datagram(data: &[u8]) {
    let mut live = Live::new(config(), Keys::new(7, 9));
    for (number, (protocol, port)) in
        [(17, 53), (17, 5353), (17, 443), (17, 9), (1, 0), (58, 0), (132, 9)].into_iter().enumerate()
    {
        for direction in [Direction::Egress, Direction::Ingress] {
            let source = source(protocol, port, number as u64);
            let sample = Sample {
                source,
                direction,
                offset: number as u64,
                payload: u32::MAX,
                bytes: data,
                held: None,
            };
            check(live.sample(&sample, &Actions::default()).len());
        }
    }
}

/// Secrets by their form and this host's own.
pub fn find_secrets(data: &[u8]) {
    let config = config();
    for found in secrets::find(data, config.secrets.as_deref()) {
        assert!(!found.encoding.is_empty());
    }
    // What is said to be a secret may be anything as well.
    if let Some(own) = HostSecrets::new([("OWN", data)]) {
        let hit = secrets::find(&[b"x=", data, b" "].concat(), Some(&own));
        assert!(data.len() > 256 || hit.iter().any(|found| found.own), "a secret is not found in itself");
    }
}

/// A token in some encoding.
pub fn decode_token(data: &[u8]) {
    if let Some(decoded) = decode::decode(data, 10) {
        assert!(!decoded.encodings.is_empty() && !decoded.bytes.is_empty());
    }
}

/// A capture, packed or not.
pub fn capture(data: &[u8]) {
    let mut replay = Replay::new("fuzz".into(), "none".into(), Actions::default(), config());
    let mut frames = 0_u64;
    let read = Capture::new(data).and_then(|mut capture| {
        capture.each(|frame| {
            frames += 1;
            assert_eq!(frame.number, frames);
            replay.frame(&frame).for_each(drop);
            // Packed, a few bytes are many packets.
            if frames > 5000 { Err(CaptureError::Format) } else { Ok(()) }
        })
    });
    if let Err(CaptureError::Cut(packet) | CaptureError::Corrupt { packet, .. }) = read {
        assert_eq!(packet, frames + 1, "the error names another packet");
    }
    replay.end().for_each(drop);
}

/// A ClientHello, the frames of an Initial packet, and payloads of datagrams of one flow, each behind its length: what
/// is protected, few changes get past.
pub fn quic(data: &[u8]) {
    let _ = agentnet::detect::tls::client_hello(data);
    let _ = agentnet::detect::quic::of_frames(data);
    let (mut flow, mut rest) = (agentnet::detect::quic::Flow::default(), data);
    while let Some((&[high, low], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (payload, left) = behind.split_at(length.min(behind.len()));
        flow.datagram(payload);
        rest = left;
    }
}

/// One packet, whose first byte says what its first header is.
pub fn packet(data: &[u8]) {
    const LINKS: [u32; 9] = [1, 0, 101, 113, 276, 228, 229, 9, 12];
    let Some((&link, bytes)) = data.split_first() else { return };
    capture(&pcap(LINKS[usize::from(link) % LINKS.len()], &[bytes]));
}

/// A line of a list of names.
pub fn scan_names(data: &[u8]) {
    scan(List::Names, data);
}

/// A line of a list of URLs.
pub fn scan_urls(data: &[u8]) {
    scan(List::Urls, data);
}

/// A line of a list of payloads.
pub fn scan_payloads(data: &[u8]) {
    scan(List::Payloads, data);
}

fn scan(list: List, data: &[u8]) {
    let mut scanner = Scanner::new(list, Actions::default(), config());
    for line in String::from_utf8_lossy(data).lines() {
        if let Ok(Some(verdict)) = scanner.line(line) {
            let json = serde_json::to_string(&verdict).unwrap_or_else(|error| panic!("no JSON: {error}"));
            assert!(!json.contains('\n') && verdict.input == line);
        }
    }
}

/// A name in presentation format, and any bytes as one.
pub fn name(data: &[u8]) {
    for text in [data.to_ascii_lowercase(), Name::read(&String::from_utf8_lossy(data)).0.lower().to_vec()] {
        let base = Base::of_text(&text);
        assert!(base.name.len() <= text.len() && base.sub_of(&text).len() <= text.len());
        let _ = (base.icann(), base.is_popular(), base.display());
    }
}

/// A ledger that was kept.
pub fn kept_ledger(data: &[u8]) {
    // The checksum keeps out all but what was written: what is behind it is to be safe by itself.
    let summed = [format!("agentnet-ledger 1 {:08x}\n", crc32fast::hash(data)).as_bytes(), data].concat();
    for kept in [data, &summed] {
        if let Ok(ledger) = kept::decode(kept) {
            let again = kept::encode(&ledger).unwrap_or_else(|error| panic!("it cannot be kept: {error}"));
            let mut live = Live::new(Config::default(), Keys::new(1, 2));
            assert!(live.restore(1, &again).is_ok());
            let query = messages().remove(0);
            let sample = Sample {
                source: source(17, 53, 5),
                direction: Direction::Egress,
                offset: 0,
                payload: 0,
                bytes: &query,
                held: None,
            };
            check(live.sample(&sample, &Actions::default()).len());
        }
    }
}

fn config() -> Config {
    static SECRETS: LazyLock<Option<std::sync::Arc<HostSecrets>>> = LazyLock::new(|| {
        HostSecrets::new([("DEPLOY_KEY", &b"hX7-pQ2-wk9-vR4-mZ8"[..])]).map(std::sync::Arc::new)
    });
    Config { secrets: SECRETS.clone(), ..Config::default() }
}

fn source(protocol: u8, port: u16, second: u64) -> Source<'static> {
    let end = |last, port| SocketAddr::from(([10, 0, 0, last], port));
    Source {
        time: Time::from_secs(1_700_000_000 + second),
        agent: Agent { id: 1, name: "fuzz" },
        process: None,
        lineage: Lineage::default(),
        flow: Flow { id: 1, protocol, local: end(1, 40_000), remote: end(2, port) },
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label.as_bytes());
    }
    // A, IN; EDNS with a cookie and padding.
    message.extend([0, 0, 1, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 20]);
    message.extend([0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 12, 0, 4, 0, 0, 0, 0]);
    message
}

fn messages() -> Vec<Vec<u8>> {
    let mut answer = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    answer.extend(b"\x03www\x07example\x03com\x00\x00\x10\x00\x01");
    answer.extend(b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c\x00\x09\x08v=spf1 -");
    answer.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03cdn\xc0\x10");
    vec![query("www.example.com"), query("68656c6c6f20776f726c64207365637265740a.channel-7.net"), answer]
}

fn dns_streams() -> Vec<Vec<u8>> {
    let framed = |message: &Vec<u8>| {
        let length = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[0x28][..], &length, message].concat()
    };
    messages().iter().map(framed).collect()
}

fn requests() -> Vec<Vec<u8>> {
    [
        "GET /a/b?q=aGVsbG8gd29ybGQgc2VjcmV0Cg HTTP/1.1\r\nHost: h.example\r\nCookie: a=b; c=d\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h.example:8080\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 21\r\n\r\nk=hX7-pQ2-wk9-vR4-mZ8GET / HTTP/1.0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 9\r\n\r\n--x\r\n\r\n--x--",
    ]
    .iter()
    .map(|text| text.as_bytes().chunks(121).flat_map(|piece| [&[0x3c][..], piece].concat()).collect())
    .collect()
}

fn texts() -> Vec<Vec<u8>> {
    let list: [&[u8]; 6] = [
        b"glpat-x7Rk2mPq9LzT4vNb8sWd",
        b"hX7-pQ2-wk9-vR4-mZ8",
        b"aFg3LXBRMi13azktdlI0LW1aOA==",
        b"6858372d7051322d776b392d7652342d6d5a38",
        b"{\"key\": \"hX7-pQ2\\u002dwk9-vR4-mZ8\", \"x\": \"%68%58\"}",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00",
    ];
    list.map(<[u8]>::to_vec).to_vec()
}

fn lines() -> Vec<Vec<u8>> {
    let list: [&[u8]; 7] = [
        b"www.example.com",
        b"1.5 10.0.0.1 16 a\\.b.\\255.example.co.uk 0 2 120 60",
        b"# comment\n\nxn--bcher-kva.example.github.io.",
        b"https://user:pw@h.example:8080/a/%41/b?x=68656c6c6f20776f726c64&y=#f",
        b"POST http://[2001:db8::1]:80/x",
        b"\"a\\u0041\\n\\x00 token=ghp_16C7e42F292c6912E7710c838347Ae178B4a\"",
        b"4.3.2.1.in-addr.arpa",
    ];
    list.map(<[u8]>::to_vec).to_vec()
}

/// A capture of packets behind headers of the kind `link`.
fn pcap(link: u32, packets: &[&[u8]]) -> Vec<u8> {
    let mut file: Vec<u8> =
        [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65535, link].into_iter().flat_map(u32::to_le_bytes).collect();
    for packet in packets {
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        file.extend([1_700_000_000, 0, length, length].into_iter().flat_map(u32::to_le_bytes));
        file.extend(*packet);
    }
    file
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&head[..], payload].concat()
}

fn datagrams() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for message in messages() {
        let length = u16::try_from(8 + message.len()).unwrap_or(u16::MAX).to_be_bytes();
        let head = [0x9c, 0x40, 0, 53, length[0], length[1], 0, 0];
        all.push(ipv4(17, &[&head[..], &message].concat()));
    }
    let tcp = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0];
    all.push(ipv4(6, &[&tcp[..], b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"].concat()));
    all.push(ipv4(1, b"\x08\x00\x00\x00\x00\x01\x00\x02abcdefgh"));
    all
}

/// A ClientHello as it is, in a frame, in two frames the wrong way round, and in a datagram (RFC 9001, A.2).
fn hellos() -> Vec<Vec<u8>> {
    let hello = crate::lab::hello::Hello::to("api.example.com").message();
    let frame = |offset: usize, data: &[u8]| {
        let number = |number: usize| (u16::try_from(number).unwrap_or(0) | 0x4000).to_be_bytes();
        [&[6][..], &number(offset), &number(data.len()), data].concat()
    };
    let (begin, end) = hello.split_at(hello.len() / 2);
    let cut = [frame(begin.len(), end), vec![0; 8], frame(0, begin)].concat();
    let digits: String =
        include_str!("../../agentnet/src/detect/quic/rfc9001_a2.hex").split_whitespace().collect();
    let initial: Vec<u8> = digits
        .as_bytes()
        .chunks(2)
        .filter_map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .collect();
    let length = u16::try_from(initial.len()).unwrap_or(0).to_be_bytes();
    vec![hello.clone(), frame(0, &hello), cut, [&length[..], &initial].concat()]
}

fn packets() -> Vec<Vec<u8>> {
    // The third kind of header is none.
    datagrams().into_iter().map(|packet| [&[2][..], &packet].concat()).collect()
}

fn captures() -> Vec<Vec<u8>> {
    let packets = datagrams();
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let mut next = Vec::new();
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    for (kind, body) in [
        (0x0a0d_0d0a_u32, section),
        (1, vec![101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]),
        (6, [&[0; 12][..], &[60, 0, 0, 0, 60, 0, 0, 0], &packets[0][..60]].concat()),
    ] {
        let length = u32::try_from(12 + body.len()).unwrap_or(u32::MAX).to_le_bytes();
        next.extend([&kind.to_le_bytes()[..], &length, &body, &length].concat());
    }
    vec![pcap(101, &packets), next]
}

fn ledgers() -> Vec<Vec<u8>> {
    let mut live = Live::new(Config::default(), Keys::new(3, 4));
    for message in messages() {
        let sample = Sample {
            source: source(17, 53, 1),
            direction: Direction::Egress,
            offset: 0,
            payload: 0,
            bytes: &message,
            held: None,
        };
        live.sample(&sample, &Actions::default());
    }
    let kept = live.keep(1).ok().flatten().unwrap_or_default();
    let json = kept.iter().position(|&byte| byte == b'\n').map(|at| kept[at + 1..].to_vec());
    let empty = serde_json::to_vec(&Ledger::new(Keys::new(5, 6))).ok();
    [Some(kept), json, empty].into_iter().flatten().collect()
}
