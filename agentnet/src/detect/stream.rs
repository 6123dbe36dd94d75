//! Streams that are not encrypted, request by request: what is needed of each to go on where the last chunk ended.

use std::{borrow::Cow, collections::HashMap};

use super::{
    domains::{Base, Class},
    event::{Chunk, Direction},
    http::{Part, Requests},
    registry::REGISTRY,
    scene::{Bytes, Request, Scene},
    secret::TAIL,
};

/// Streams at a time.
const STREAMS: usize = 512;

/// Streams of all workloads. What it takes is bounded for all of them together: 512 streams of 17 kB.
#[derive(Debug, Default)]
pub struct Streams {
    streams: HashMap<u64, (u64, Stream)>,
    number: u64,
}

/// A stream.
#[derive(Debug, Default)]
struct Stream {
    /// `None` until the first bytes said what it is.
    requests: Option<Option<Requests>>,
    host: Vec<u8>,
    tail: Vec<u8>,
}

impl Streams {
    /// Forgets a stream that ended.
    pub(super) fn end(&mut self, flow: u64) {
        self.streams.remove(&flow);
    }

    /// Shows a chunk to the detectors.
    pub(super) fn chunk(&mut self, scene: &mut Scene<'_, '_>, chunk: &Chunk<'_>) {
        if chunk.direction != Direction::Egress {
            return;
        }
        self.number += 1;
        let flow = scene.event.flow.id;
        if self.streams.len() >= STREAMS && !self.streams.contains_key(&flow) {
            let oldest = self.streams.iter().min_by_key(|(_, (last, _))| *last).map(|(id, _)| *id);
            oldest.and_then(|id| self.streams.remove(&id));
        }
        let (last, stream) = self.streams.entry(flow).or_default();
        *last = self.number;
        stream.chunk(scene, chunk);
    }
}

impl Stream {
    fn chunk(&mut self, scene: &mut Scene<'_, '_>, chunk: &Chunk<'_>) {
        let Self { requests, host, tail } = self;
        let requests = requests.get_or_insert_with(|| {
            let is_http = chunk.offset == 0 && super::http::is_request(chunk.bytes);
            is_http.then(Requests::default)
        });
        if chunk.gap > 0 {
            tail.clear();
        }
        match requests {
            Some(requests) => requests.push(chunk.bytes, chunk.gap, &mut |part| match part {
                Part::Head(head) => {
                    tail.clear();
                    let remote = scene.event.flow.remote;
                    *host = match super::http::header(head, "host") {
                        Some(host) => host.to_vec(),
                        None => remote.ip().to_string().into_bytes(),
                    };
                    let headers = head.headers.iter().map(|header| (header.name, header.value)).collect();
                    request(
                        scene,
                        head.method.unwrap_or_default(),
                        head.path.unwrap_or_default().as_bytes(),
                        host,
                        headers,
                    );
                }
                Part::Bytes(bytes) => send(scene, bytes, host, tail, "the body of a request"),
            }),
            None => send(scene, chunk.bytes, host, tail, "a stream that is not encrypted"),
        }
    }
}

/// Shows the head of a request to every detector.
pub(super) fn request(
    scene: &mut Scene<'_, '_>,
    method: &str,
    target: &[u8],
    host: &[u8],
    headers: Vec<(&str, &[u8])>,
) {
    let lower = host.to_ascii_lowercase();
    let name = name_of(&lower);
    let base = Base::of_text(name);
    let (classes, listed) = Class::of(name);
    let request = Request {
        method,
        target,
        host,
        key: base.name,
        headers,
        popular: base.is_popular(),
        classes,
        listed,
    };
    for row in REGISTRY {
        for detector in row.detectors {
            scene.findings.of = Some((row.kind, *detector));
            detector.on_request(scene, &request);
        }
    }
}

/// A host without its port.
pub(super) fn name_of(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|&byte| byte == b':') {
        Some(at) if host.get(at + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            host.get(..at).unwrap_or(host)
        }
        _ => host,
    }
}

/// Shows bytes that were sent to every detector, behind the end of what came before them.
pub(super) fn send(
    scene: &mut Scene<'_, '_>,
    bytes: &[u8],
    host: &[u8],
    tail: &mut Vec<u8>,
    what: &'static str,
) {
    let remote = scene.event.flow.remote.ip().to_string();
    let host = if host.is_empty() { remote.as_bytes() } else { host };
    let lower = host.to_ascii_lowercase();
    let name = name_of(&lower);
    let base = Base::of_text(name);
    let subject = crate::alert::text::clean(&String::from_utf8_lossy(host), 255);
    let joined: Cow<'_, [u8]> =
        if tail.is_empty() { bytes.into() } else { [tail.as_slice(), bytes].concat().into() };
    let sent = Bytes {
        bytes: &joined,
        shown: tail.len(),
        subject: &subject,
        key: base.name,
        popular: base.is_popular(),
        what,
    };
    show(scene, &sent);
    let keep = joined.get(joined.len().saturating_sub(TAIL)..).unwrap_or_default().to_vec();
    *tail = keep;
}

/// Shows bytes of a list, of which nobody knows whom they were sent to.
pub(super) fn unaddressed(scene: &mut Scene<'_, '_>, bytes: &[u8]) {
    let sent = Bytes {
        bytes,
        shown: 0,
        subject: "an unknown destination",
        key: b"",
        popular: false,
        what: "a payload",
    };
    show(scene, &sent);
}

fn show(scene: &mut Scene<'_, '_>, bytes: &Bytes<'_>) {
    for row in REGISTRY {
        for detector in row.detectors {
            scene.findings.of = Some((row.kind, *detector));
            detector.on_bytes(scene, bytes);
        }
    }
}
