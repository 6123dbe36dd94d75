//! What is read of QUIC, and what of hostile QUIC.

use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::{
    Flow, HELLO, Said,
    initial::{Keys, Packets},
};
use crate::detect::tls::{
    ClientHello,
    tests::{hello, names},
};

/// The client's Initial packet of RFC 9001, A.2.
pub(in crate::detect) fn of_rfc() -> Vec<u8> {
    let text: String = include_str!("rfc9001_a2.hex").split_whitespace().collect();
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

fn named(name: &str) -> Said {
    Said::Hello(ClientHello { server_name: Some(name.to_owned()), is_encrypted: false })
}

fn short(number: usize) -> [u8; 2] {
    (u16::try_from(number).unwrap() | 0x4000).to_be_bytes()
}

/// A CRYPTO frame.
fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    [&[6][..], &short(offset), &short(data.len()), data].concat()
}

/// An Initial packet with this ClientHello.
pub(in crate::detect) fn initial(id: &[u8], hello: &[u8]) -> Vec<u8> {
    Keys::seal(id, 0, &[crypto(0, hello), vec![0; 40]].concat())
}

fn for_name(name: &str) -> Vec<u8> {
    hello(&[(43, vec![2, 3, 4]), names(&[name.as_bytes()])])
}

#[test]
fn keys_and_name_are_those_of_the_standard() {
    let packet = of_rfc();
    let keys = Keys::of(&Packets::of(&packet).next().unwrap());
    let (key, iv, hp) = keys.parts();
    assert_eq!(HEXLOWER.encode(key), "1f369613dd76d5467730efcbe3b1a22d");
    assert_eq!(HEXLOWER.encode(iv), "fa044b2f42a3fd3b46fb255c");
    assert_eq!(HEXLOWER.encode(hp), "9f50449e04a0e810283a1e9933adedd2");
    assert_eq!(Flow::default().datagram(&packet), [named("example.com")]);
}

#[test]
fn a_changed_byte_is_no_packet_of_anybody() {
    let mut packet = of_rfc();
    packet[600] ^= 1;
    assert_eq!(Flow::default().datagram(&packet), [Said::Unreadable]);
}

#[test]
fn a_hello_in_pieces_is_put_together_in_any_order() {
    let whole = for_name("pieces.example");
    let (a, rest) = whole.split_at(9);
    let (b, c) = rest.split_at(20);
    let mut flow = Flow::default();
    let first = [crypto(29, c), vec![0; 40], crypto(0, a)].concat();
    assert_eq!(flow.datagram(&Keys::seal(b"original", 0, &first)), []);
    // Sent again it may not change.
    let changed = vec![0xff; a.len()];
    assert_eq!(flow.datagram(&Keys::seal(b"original", 1, &crypto(0, &changed))), []);
    let second = [vec![1], crypto(9, b), vec![0; 30]].concat();
    assert_eq!(flow.datagram(&Keys::seal(b"original", 2, &second)), [named("pieces.example")]);
    // What it says later is not asked.
    assert_eq!(flow.datagram(&Keys::seal(b"original", 3, &crypto(0, a))), []);
}

#[test]
fn each_connection_of_a_flow_is_read() {
    let mut flow = Flow::default();
    let initial = |id: &[u8], name| initial(id, &for_name(name));
    assert_eq!(flow.datagram(&initial(b"first-id", "a.example")), [named("a.example")]);
    assert_eq!(flow.datagram(&initial(b"other-id", "b.example")), [named("b.example")]);
    // Behind one another, as they leave with UDP segmentation.
    let both = [initial(b"third-id", "a.example"), initial(b"forth-id", "c.example")].concat();
    assert_eq!(Flow::default().datagram(&both), [named("a.example"), named("c.example")]);
    let hidden = [initial(b"first-id", "a.example"), initial(b"fifth-id", "d.example")].concat();
    assert_eq!(flow.datagram(&hidden), [named("d.example")]);
}

#[test]
fn what_no_hello_is_is_malformed_and_what_is_no_quic_unreadable() {
    let said = |frames: Vec<u8>| {
        Flow::default().datagram(&Keys::seal(b"original", 0, &[frames, vec![0; 40]].concat()))
    };
    // A STREAM frame, a hello beyond all bounds, one with two names, a message of another type.
    assert_eq!(said(vec![8, 0, 1, 1]), [Said::Malformed]);
    assert_eq!(said(crypto(HELLO, b"x")), [Said::Malformed]);
    assert_eq!(said(crypto(0, &hello(&[names(&[b"a.example", b"b.example"])]))), [Said::Malformed]);
    assert_eq!(said(crypto(0, &[2, 0, 0, 0])), [Said::Malformed]);
    let mut flow = Flow::default();
    assert_eq!(flow.datagram(b"\x40 not a long header"), [Said::Unreadable]);
    assert_eq!(flow.datagram(b"said once"), []);
    let later = initial(b"original", &for_name("a.example"));
    assert_eq!(flow.datagram(&later), [named("a.example")]);
}

proptest! {
    #[test]
    fn no_bytes_cause_harm(bytes: Vec<u8>, at: prop::sample::Index, byte: u8, frames: Vec<u8>) {
        let mut flow = Flow::default();
        flow.datagram(&bytes);
        let mut packet = of_rfc();
        *at.get_mut(&mut packet) = byte;
        flow.datagram(&packet);
        flow.datagram(&Keys::seal(b"original", 0, &[frames, vec![0; 40]].concat()));
    }
}
