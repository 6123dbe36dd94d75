//! The ClientHello in QUIC (RFC 9000, 9001, 9369): Initial packets are protected with keys that everybody knows who has
//! seen the first of them, so that the name of the server can be read.

mod initial;

use std::collections::VecDeque;

use self::initial::{Keys, Packets};
use super::tls::{self, ClientHello};

/// Connections of a flow of which something is remembered: each Retry begins another one.
const CONNECTIONS: usize = 4;
/// Bytes of a ClientHello that are put together: with post-quantum keys it has less than 2 KiB.
const HELLO: usize = 8192;
/// Pieces of a ClientHello: clients cut it up so that nobody relies on its form.
const PIECES: usize = 64;

/// What a flow said, when it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A ClientHello.
    Hello(ClientHello),
    /// An Initial packet that is protected rightly and has in it what no ClientHello is.
    Malformed,
    /// Something else than QUIC of a version that can be read, before any ClientHello.
    Unreadable,
}

/// What is known of a flow out of an agent. At most four unfinished hellos, 8 KiB each.
#[derive(Debug, Default)]
pub struct Flow {
    connections: VecDeque<Connection>,
    /// Something was said of it already.
    has_said: bool,
}

#[derive(Debug)]
struct Connection {
    keys: Keys,
    /// `None` once it was read.
    hello: Option<Hello>,
}

/// A ClientHello that comes in pieces, in any order.
#[derive(Debug, Default)]
struct Hello {
    bytes: Vec<u8>,
    /// First and last place of what is there, not included, in order and apart from each other.
    there: Vec<(usize, usize)>,
}

impl Flow {
    /// Takes the payload of a datagram that left, or of several that leave at once (UDP segmentation).
    pub fn datagram(&mut self, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        let mut is_readable = false;
        for packet in Packets::of(bytes) {
            let known = self.connections.iter_mut().find_map(|connection| {
                let frames = connection.keys.open(&packet)?;
                Some((frames, &mut connection.hello))
            });
            let (frames, hello) = match known {
                Some(known) => known,
                None => {
                    let keys = Keys::of(&packet);
                    let Some(frames) = keys.open(&packet) else { continue };
                    if self.connections.len() >= CONNECTIONS {
                        self.connections.pop_front();
                    }
                    self.connections.push_back(Connection { keys, hello: Some(Hello::default()) });
                    let Some(Connection { hello, .. }) = self.connections.back_mut() else { continue };
                    (frames, hello)
                }
            };
            is_readable = true;
            let Some(unfinished) = hello else { continue };
            if let Some(found) = unfinished.take(&frames) {
                *hello = None;
                said.push(found);
            }
        }
        if !is_readable && !self.has_said && self.connections.is_empty() {
            said.push(Said::Unreadable);
        }
        self.has_said |= !said.is_empty();
        said
    }
}

/// What the frames of one Initial packet say by themselves.
pub fn of_frames(frames: &[u8]) -> Option<Said> {
    Hello::default().take(frames)
}

impl Hello {
    /// Takes the frames of a packet; what the hello says, once that is known.
    fn take(&mut self, frames: &[u8]) -> Option<Said> {
        match initial::crypto(frames, |offset, data| self.put(offset, data)) {
            Some(()) => self.read(),
            None => Some(Said::Malformed),
        }
    }

    /// `None` if it does not fit.
    fn put(&mut self, offset: u64, data: &[u8]) -> Option<()> {
        let first = usize::try_from(offset).ok()?;
        let last = first.checked_add(data.len()).filter(|last| *last <= HELLO)?;
        if self.bytes.len() < last {
            self.bytes.resize(last, 0);
        }
        // What came first stays: servers ignore what is sent again (RFC 9000, 2.2).
        let mut free = vec![(first, last)];
        for &(from, to) in &self.there {
            free = free
                .into_iter()
                .flat_map(|(first, last)| [(first, last.min(from)), (first.max(to), last)])
                .filter(|(first, last)| first < last)
                .collect();
        }
        for &(from, to) in &free {
            let new = data.get(from - first..to - first)?;
            self.bytes.get_mut(from..to)?.copy_from_slice(new);
        }
        self.there.extend(free);
        self.there.sort_unstable();
        self.there.dedup_by(|after, before| {
            let touches = after.0 == before.1;
            if touches {
                before.1 = after.1;
            }
            touches
        });
        (self.there.len() <= PIECES).then_some(())
    }

    /// What it says, once it is there.
    fn read(&self) -> Option<Said> {
        let &(0, there) = self.there.first()? else { return None };
        let there = self.bytes.get(..there)?;
        let length = tls::length(there)?;
        if length > HELLO {
            return Some(Said::Malformed);
        }
        let hello = tls::client_hello(there.get(..length)?);
        Some(hello.map_or(Said::Malformed, Said::Hello))
    }
}

#[cfg(test)]
pub(super) mod tests;
