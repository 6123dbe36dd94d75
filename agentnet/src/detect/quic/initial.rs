//! Initial packets: their headers (RFC 9000, 17.2), their protection (RFC 9001, 5), their frames.

use aes::{
    Aes128,
    cipher::{BlockEncrypt as _, KeyInit as _},
};
use aes_gcm::{AeadInPlace as _, Aes128Gcm};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::detect::tls::Rest;

/// Packets of one datagram, or of several that leave at once.
const PACKETS: usize = 8;
/// Bytes of the longest connection identifier.
const CID: usize = 20;
/// Bytes of what protects a packet's integrity.
const TAG: usize = 16;

/// What differs between versions of QUIC.
#[derive(Debug)]
struct Version {
    number: u32,
    /// Type of Initial packets.
    initial: u8,
    salt: [u8; 20],
    labels: [&'static [u8]; 3],
}

/// QUIC 1 (RFC 9001, 5.2) and 2 (RFC 9369, 3).
const VERSIONS: &[Version] = &[
    Version {
        number: 1,
        initial: 0,
        salt: [
            0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
            0xcc, 0xbb, 0x7f, 0x0a,
        ],
        labels: [b"quic key", b"quic iv", b"quic hp"],
    },
    Version {
        number: 0x6b33_43cf,
        initial: 1,
        salt: [
            0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
            0xf9, 0xbd, 0x2e, 0xd9,
        ],
        labels: [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"],
    },
];

/// An Initial packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    version: &'static Version,
    destination: &'a [u8],
    /// The whole packet.
    bytes: &'a [u8],
    /// Bytes before its number.
    header: usize,
}

/// The Initial packets of a datagram.
pub(super) struct Packets<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Packets<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, left: PACKETS }
    }

    /// The next packet, which is an Initial one or of another type.
    fn next_packet(&mut self) -> Option<Option<Packet<'a>>> {
        let all = self.rest;
        let mut rest = Rest(all);
        let first = rest.byte().filter(|first| first & 0xc0 == 0xc0)?;
        let number = u32::from_be_bytes(rest.take(4)?.try_into().ok()?);
        let version = VERSIONS.iter().find(|version| version.number == number)?;
        let destination = rest.behind_byte().filter(|id| id.len() <= CID)?;
        rest.behind_byte().filter(|id| id.len() <= CID)?;
        let is_initial = first >> 4 & 3 == version.initial;
        if is_initial {
            let token = varint(&mut rest)?;
            rest.take(usize::try_from(token).ok()?)?;
        }
        let length = usize::try_from(varint(&mut rest)?).ok()?;
        let header = all.len() - rest.0.len();
        rest.take(length)?;
        let bytes = all.get(..header.checked_add(length)?)?;
        self.rest = rest.0;
        Some(is_initial.then_some(Packet { version, destination, bytes, header }))
    }
}

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            if let Some(packet) = self.next_packet()? {
                return Some(packet);
            }
        }
        None
    }
}

/// A number of variable length (RFC 9000, 16).
fn varint(rest: &mut Rest<'_>) -> Option<u64> {
    let first = rest.byte()?;
    let more = rest.take((1 << (first >> 6)) - 1)?;
    Some(more.iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
}

/// The client's keys for Initial packets.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    version: u32,
    key: [u8; 16],
    iv: [u8; 12],
    hp: [u8; 16],
}

impl Keys {
    /// Of the connection that `packet` begins.
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        let Version { number, salt, labels: [key_label, iv_label, hp_label], .. } = packet.version;
        let (mut client, mut key, mut iv, mut hp) = ([0; 32], [0; 16], [0; 12], [0; 16]);
        expand(&Hkdf::new(Some(salt), packet.destination), b"client in", &mut client);
        // What is expanded has the length that the hash gives.
        if let Ok(secret) = Hkdf::from_prk(&client) {
            expand(&secret, key_label, &mut key);
            expand(&secret, iv_label, &mut iv);
            expand(&secret, hp_label, &mut hp);
        }
        Self { version: *number, key, iv, hp }
    }

    /// The frames of `packet`; `None` if it is not protected with these keys.
    pub(super) fn open(&self, packet: &Packet<'_>) -> Option<Vec<u8>> {
        if packet.version.number != self.version {
            return None;
        }
        let (header, protected) = packet.bytes.split_at_checked(packet.header)?;
        // RFC 9001, 5.4.2: as if the number had four bytes.
        let mut mask = aes::Block::clone_from_slice(protected.get(4..4 + 16)?);
        Aes128::new(&self.hp.into()).encrypt_block(&mut mask);
        let [first_mask, number_mask @ ..] = <[u8; 16]>::from(mask);
        let mut header = header.to_vec();
        let first = header.first_mut()?;
        *first ^= first_mask & 0x0f;
        let length = usize::from(*first & 3) + 1;
        let (number, sealed) = protected.split_at_checked(length)?;
        header.extend(number.iter().zip(number_mask).map(|(byte, mask)| byte ^ mask));
        let mut nonce = self.iv;
        // The number is small, so that what of it is left out is zero (RFC 9000, 17.1).
        let number = header.get(packet.header..)?;
        for (place, byte) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *place ^= byte;
        }
        let (frames, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
        let mut frames = frames.to_vec();
        let aead = Aes128Gcm::new(&self.key.into());
        aead.decrypt_in_place_detached(&nonce.into(), &header, &mut frames, tag.into()).ok()?;
        Some(frames)
    }
}

/// HKDF-Expand-Label without context (RFC 8446, 7.1).
fn expand(secret: &Hkdf<Sha256>, label: &[u8], out: &mut [u8]) {
    let [_, length] = u16::try_from(out.len()).unwrap_or_default().to_be_bytes();
    let [.., label_length] = (6 + label.len()).to_be_bytes();
    let info = [&[0, length, label_length][..], b"tls13 ", label, &[0]].concat();
    // An error is for more than 255 hashes.
    let _ = secret.expand(&info, out);
}

/// Calls `see` with each piece of the handshake. `None` if there is something that an Initial packet cannot have
/// (RFC 9000, 12.4), or `see` says so.
pub(super) fn crypto(frames: &[u8], mut see: impl FnMut(u64, &[u8]) -> Option<()>) -> Option<()> {
    let mut rest = Rest(frames);
    while let Some(kind) = rest.byte() {
        match kind {
            // PADDING, PING.
            0 | 1 => {}
            // ACK.
            2 | 3 => {
                let (_largest, _delay) = (varint(&mut rest)?, varint(&mut rest)?);
                let (ranges, _first) = (varint(&mut rest)?, varint(&mut rest)?);
                let counts = if kind == 3 { 3 } else { 0 };
                for _ in 0..ranges.checked_mul(2)?.checked_add(counts)? {
                    varint(&mut rest)?;
                }
            }
            // CRYPTO.
            6 => {
                let (offset, length) = (varint(&mut rest)?, varint(&mut rest)?);
                see(offset, rest.take(usize::try_from(length).ok()?)?)?;
            }
            // CONNECTION_CLOSE of the transport.
            0x1c => {
                let (_error, _frame, reason) = (varint(&mut rest)?, varint(&mut rest)?, varint(&mut rest)?);
                rest.take(usize::try_from(reason).ok()?)?;
            }
            _ => return None,
        }
    }
    Some(())
}

#[cfg(test)]
impl Keys {
    /// The connection's keys, for comparison.
    pub(super) const fn parts(&self) -> (&[u8; 16], &[u8; 12], &[u8; 16]) {
        (&self.key, &self.iv, &self.hp)
    }

    /// An Initial packet of QUIC 1 to `destination` with these frames.
    pub(super) fn seal(destination: &[u8], number: u8, frames: &[u8]) -> Vec<u8> {
        let length = u16::try_from(1 + frames.len() + TAG).unwrap() | 0x4000;
        let id = u8::try_from(destination.len()).unwrap();
        let mut header = [&[0xc0, 0, 0, 0, 1, id][..], destination, &[0, 0], &length.to_be_bytes()].concat();
        let at = header.len();
        let packet = Packet { version: &VERSIONS[0], destination, bytes: &[], header: at };
        let keys = Self::of(&packet);
        header.push(number);
        let mut nonce = keys.iv;
        nonce[11] ^= number;
        let mut frames = frames.to_vec();
        let tag = Aes128Gcm::new(&keys.key.into())
            .encrypt_in_place_detached(&nonce.into(), &header, &mut frames)
            .unwrap();
        frames.extend(tag);
        let mut mask = aes::Block::clone_from_slice(&frames[3..3 + 16]);
        Aes128::new(&keys.hp.into()).encrypt_block(&mut mask);
        header[0] ^= mask[0] & 0x0f;
        header[at] ^= mask[1];
        header.extend(frames);
        header
    }
}
