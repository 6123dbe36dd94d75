//! D12: ICMP that carries something. `ping` sends the same pattern again and again and gets it back.

use super::{
    event::{Event, Icmp, IcmpMessage, Time},
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    ledger::second,
    registry::Detector,
    scene::Scene,
};

/// See the module.
#[derive(Debug)]
pub struct IcmpTunnel;

/// Signs that are worth an alert together.
const SIGNS: usize = 2;
/// Replies that differ from their requests.
const MISMATCHES: u32 = 3;
/// Different sizes of payload.
const SIZES: usize = 3;
/// Payloads of no known pattern.
const UNKNOWN: u32 = 8;
/// Bytes of one payload.
const LARGE: u32 = 1024;
/// Bytes of payload within a minute.
const BYTES: u64 = 50 << 10;
/// Replies nobody asked for.
const UNASKED: u32 = 8;
const WINDOW: u32 = 60;

/// Peers remembered.
const PEERS: usize = 16;
/// Requests remembered of each.
const REQUESTS: usize = 16;

/// What was exchanged with peers lately.
#[derive(Clone, Debug, Default)]
pub struct State {
    peers: Vec<Peer>,
}

impl State {
    /// Bytes it takes at most.
    pub const BYTES: usize = PEERS * size_of::<Peer>();
}

#[derive(Clone, Debug)]
struct Peer {
    address: std::net::IpAddr,
    since: u32,
    last: u32,
    messages: u32,
    bytes: u64,
    mismatches: u32,
    unknown: u32,
    unasked: u32,
    large: u32,
    sizes: [u32; SIZES + 1],
    /// Identifier, sequence number and a sum of the payload of the last requests.
    requests: [(u32, u32); REQUESTS],
    next: usize,
}

impl Peer {
    fn new(address: std::net::IpAddr, now: u32) -> Self {
        Self {
            address,
            since: now,
            last: now,
            messages: 0,
            bytes: 0,
            mismatches: 0,
            unknown: 0,
            unasked: 0,
            large: 0,
            sizes: [u32::MAX; SIZES + 1],
            requests: [(0, 0); REQUESTS],
            next: 0,
        }
    }

    fn see(&mut self, icmp: &Icmp<'_>) {
        self.messages += 1;
        self.bytes += u64::from(icmp.len);
        self.large += u32::from(icmp.len > LARGE);
        if !self.sizes.contains(&icmp.len)
            && let Some(free) = self.sizes.iter_mut().find(|size| **size == u32::MAX)
        {
            *free = icmp.len;
        }
        if !is_pattern(icmp.payload) {
            self.unknown += 1;
        }
        let sum = crc32fast::hash(icmp.payload);
        match icmp.message {
            IcmpMessage::EchoRequest { id, sequence } => {
                let number = u32::from(id) << 16 | u32::from(sequence);
                if let Some(place) = self.requests.get_mut(self.next % REQUESTS) {
                    *place = (number, sum);
                }
                self.next = (self.next + 1) % REQUESTS;
            }
            IcmpMessage::EchoReply { id, sequence } => {
                let number = u32::from(id) << 16 | u32::from(sequence);
                // The same number may have been sent twice.
                let mut asked = self.requests.iter().filter(|(one, _)| *one == number).map(|(_, sum)| *sum);
                match asked.next() {
                    None => self.unasked += 1,
                    Some(first) if first != sum && asked.all(|one| one != sum) => self.mismatches += 1,
                    Some(_) => {}
                }
            }
            IcmpMessage::Other(_) | IcmpMessage::Control(_) => {}
        }
    }

    fn signs(&self) -> Vec<&'static str> {
        let sizes = self.sizes.iter().filter(|&&size| size != u32::MAX).count();
        let signs = [
            ("reply_differs", self.mismatches >= MISMATCHES),
            ("many_sizes", sizes > SIZES),
            ("unknown_payload", self.unknown >= UNKNOWN),
            ("large", self.large >= 2 || self.bytes > BYTES),
            ("unasked_reply", self.unasked >= UNASKED),
        ];
        signs.into_iter().filter(|(_, holds)| *holds).map(|(sign, _)| sign).collect()
    }
}

impl Detector for IcmpTunnel {
    fn id(&self) -> &'static str {
        "icmp_tunnel"
    }

    fn weight(&self) -> f32 {
        0.6
    }

    fn on_icmp(&self, scene: &mut Scene<'_, '_>, icmp: &Icmp<'_>) {
        if matches!(icmp.message, IcmpMessage::Control(_)) {
            return;
        }
        let Event { flow, time, .. } = *scene.event;
        let address = flow.remote.ip();
        let peer = peer(scene.icmp, address, time);
        peer.see(icmp);
        let signs = peer.signs();
        if signs.len() < SIGNS {
            return;
        }
        let (messages, bytes) = (peer.messages, peer.bytes);
        let score = if signs.len() > SIGNS { 1.0 } else { 0.8 };
        let subject = address.to_string();
        scene.findings.add(subject.as_bytes(), &[], (Strength::Alert, score), || Statement {
            reason: format!(
                "exchanged {messages} ICMP messages of {bytes} bytes with {address} that are no pings: {}",
                signs.iter().map(|sign| what(sign)).collect::<Vec<_>>().join(", "),
            ),
            advice: "if it is no test of a network, block ICMP to the address and look at the process",
            evidence: Evidence::Icmp(evidence::Icmp {
                signs: signs.iter().map(|&sign| sign.into()).collect(),
                messages,
                payload_bytes: bytes,
                window_seconds: WINDOW,
            }),
            subject: subject.clone(),
        });
    }
}

fn what(sign: &str) -> &'static str {
    match sign {
        "reply_differs" => "replies have other contents than requests",
        "many_sizes" => "sizes vary",
        "unknown_payload" => "contents follow no pattern",
        "large" => "they are large or many",
        _ => "replies come without requests",
    }
}

/// The peer, anew once its minute is over.
fn peer(state: &mut State, address: std::net::IpAddr, time: Time) -> &mut Peer {
    let now = second(time);
    let at = match state.peers.iter().position(|peer| peer.address == address) {
        Some(at) => at,
        None if state.peers.len() < PEERS => {
            state.peers.push(Peer::new(address, now));
            state.peers.len() - 1
        }
        None => {
            let oldest = state.peers.iter().enumerate().min_by_key(|(_, peer)| peer.last);
            let at = oldest.map_or(0, |(at, _)| at);
            state.peers[at] = Peer::new(address, now);
            at
        }
    };
    let peer = &mut state.peers[at];
    if now.saturating_sub(peer.since) >= WINDOW {
        // Requests go on to be answered.
        let (requests, next) = (peer.requests, peer.next);
        *peer = Peer { requests, next, ..Peer::new(address, now) };
    }
    peer.last = now;
    peer
}

/// Whether a payload is what programs fill pings with: bytes that count up, one byte again and again, an alphabet,
/// at the beginning perhaps a time.
fn is_pattern(payload: &[u8]) -> bool {
    let counts = |bytes: &[u8]| bytes.windows(2).all(|two| matches!(two, [a, b] if *b == a.wrapping_add(1)));
    let constant = |bytes: &[u8]| bytes.windows(2).all(|two| matches!(two, [a, b] if a == b));
    let alphabet = |bytes: &[u8]| {
        bytes.windows(2).all(|two| matches!(two, [a, b] if *b == a.wrapping_add(1) || (*b == b'a' && (b'p'..=b'z').contains(a))))
    };
    // A time takes up to 16 bytes, and some programs write a counter behind it.
    [0, 4, 8, 12, 16, 20, 24].iter().any(|&start| {
        let rest = payload.get(start.min(payload.len())..).unwrap_or_default();
        (rest.len() >= 8 || payload.len() <= 24) && (counts(rest) || constant(rest) || alphabet(rest))
    }) || is_repeated(payload)
}

/// Whether the same few bytes are there again and again (`ping -p`).
fn is_repeated(payload: &[u8]) -> bool {
    let rest = payload.get(16..).unwrap_or_default();
    rest.len() >= 16
        && (1..=16).any(|period| {
            rest.len() >= 2 * period && rest.iter().zip(rest.iter().skip(period)).all(|(one, two)| one == two)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_of_every_kind_are_patterns() {
        let linux: Vec<u8> =
            [1, 2, 3, 4, 5, 6, 7, 9, 8, 3, 2, 1, 0, 0, 0, 0].into_iter().chain(0x10..0x38).collect();
        let windows = b"abcdefghijklmnopqrstuvwabcdefghi";
        for payload in [&linux[..], windows, &[0; 56], b"", &[7; 4]] {
            assert!(is_pattern(payload), "{payload:?}");
        }
        let pattern: Vec<u8> = std::iter::repeat_n(*b"\xde\xad\xbe\xef", 14).flatten().collect();
        assert!(is_pattern(&pattern));
        for payload in [
            &b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"[..],
            &[
                0x45, 0, 0, 0x54, 1, 2, 3, 9, 9, 7, 1, 4, 2, 8, 5, 7, 1, 4, 2, 8, 9, 1, 1, 3, 2, 9, 4, 4, 7,
                0, 1, 6, 5,
            ],
        ] {
            assert!(!is_pattern(payload), "{payload:?}");
        }
    }
}
