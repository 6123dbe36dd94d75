//! Names that are said to other names' addresses.

use std::net::SocketAddr;

use super::{Held, HeldTo, Names};
use crate::detect::{
    action::Action,
    event::{Agent, Direction, Flow, Lineage, Time},
    live::{Sample, Source, Target, Verdict},
    quic::tests::{initial, of_rfc},
    tls::tests::{hello, names},
};

const QUIC: HeldTo = HeldTo::Quic { may_be_unnamed: false, may_be_encrypted: false };

fn far() -> SocketAddr {
    "198.51.100.7:443".parse().unwrap()
}

/// What is done about these datagrams, or pieces of a stream, of one flow.
fn judged(to: HeldTo, sent: &[&[u8]]) -> Vec<Verdict> {
    judged_from(0, to, sent)
}

/// The same of what is seen after `first` others.
fn judged_from(first: u64, to: HeldTo, sent: &[&[u8]]) -> Vec<Verdict> {
    let mut names = Names::new();
    let (local, remote) = ("192.0.2.2:4000".parse().unwrap(), far());
    let flow = Flow { id: 7, protocol: 17, local, remote };
    let agent = Agent { id: 1, name: "a" };
    let source = Source { time: Time(1), agent, process: None, lineage: Lineage::default(), flow };
    let allows = |name: &str| matches!(name, "api.example" | "example.com");
    let held = Held { rule: &"`api.example tcp 443` (p.toml:8)", allows: &allows, to };
    let judge = |(offset, bytes): (u64, &&[u8])| {
        let sample =
            Sample { source, direction: Direction::Egress, offset, payload: 0, bytes, held: Some(held) };
        names.judge(1, &sample, bytes, 0)
    };
    (first..).zip(sent).flat_map(judge).collect()
}

fn reasons(verdicts: &[Verdict]) -> Vec<(Action, String)> {
    let told = verdicts.iter().filter_map(|one| Some((one.action, one.finding.as_ref()?.reason.clone())));
    told.collect()
}

#[test]
fn quic_for_another_name_is_cut_and_for_an_allowed_one_is_not() {
    assert!(judged(QUIC, &[&of_rfc()]).is_empty());
    assert!(judged(QUIC, &[&initial(b"original", &hello(&[names(&[b"Api.Example"])]))]).is_empty());
    let evil = initial(b"original", &hello(&[names(&[b"evil.example"])]));
    let verdicts = judged(QUIC, &[&evil]);
    let said =
        "spoke evil.example in QUIC to 198.51.100.7:443, which `api.example tcp 443` (p.toml:8) opened";
    assert_eq!(reasons(&verdicts), [(Action::Block, said.to_owned())]);
    assert_eq!(verdicts[0].targets, [Target::Address(far().ip()), Target::Flow(7)]);
    assert_eq!(verdicts[0].finding.as_ref().unwrap().subject, "evil.example");
}

#[test]
fn quic_without_a_name_or_with_a_hidden_one_is_cut_unless_the_rule_says_so() {
    let unnamed = initial(b"original", &hello(&[]));
    let hidden = initial(b"original", &hello(&[names(&[b"api.example"]), (0xfe0d, vec![0])]));
    for packet in [&unnamed, &hidden] {
        assert_eq!(reasons(&judged(QUIC, &[packet]))[0].0, Action::Block);
        let lenient = HeldTo::Quic { may_be_unnamed: true, may_be_encrypted: true };
        assert!(judged(lenient, &[packet]).is_empty());
    }
    // A name is held to the rules whatever else is allowed.
    let outer = initial(b"original", &hello(&[names(&[b"evil.example"]), (0xfe0d, vec![0])]));
    let lenient = HeldTo::Quic { may_be_unnamed: true, may_be_encrypted: true };
    assert_eq!(reasons(&judged(lenient, &[&outer]))[0].0, Action::Block);
}

#[test]
fn what_cannot_be_read_is_told_and_not_cut() {
    let verdicts = judged(QUIC, &[b"no QUIC at all", b"nor this"]);
    assert_eq!(reasons(&verdicts).iter().map(|(action, _)| *action).collect::<Vec<_>>(), [Action::Alert]);
    assert!(verdicts[0].targets.is_empty());
    // Of a flow whose beginning was not seen that is no wonder; a name in it is read all the same.
    assert!(judged_from(20, QUIC, &[b"no QUIC at all"]).is_empty());
    let evil = initial(b"original", &hello(&[names(&[b"evil.example"])]));
    assert_eq!(judged_from(20, QUIC, &[&evil]).len(), 1);
}

#[test]
fn hosts_of_requests_are_held_to_the_rules() {
    let told = |sent: &[&[u8]]| reasons(&judged(HeldTo::Http, sent));
    assert!(told(&[b"GET / HTTP/1.1\r\nHost: API.example:80\r\n\r\n"]).is_empty());
    assert!(told(&[b"GET http://api.example/x HTTP/1.1\r\nHost: api.example.\r\n\r\n"]).is_empty());
    // The second request of a connection, in two pieces.
    let first = b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\nGET / HTTP/1.1\r\nHo".as_slice();
    let told_of = told(&[first, b"st: evil.example\r\n\r\n"]);
    assert_eq!(told_of.len(), 1);
    assert_eq!(told_of[0].0, Action::Alert);
    assert!(told_of[0].1.starts_with("sent an HTTP request for evil.example to 198.51.100.7:443"));
    for request in [
        "GET http://evil.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "GET http://api.example@evil.example/ HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: api.example\r\nHost: evil.example\r\n\r\n",
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 203.0.113.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(told(&[request.as_bytes()]).len(), 1, "{request}");
    }
}

#[test]
fn the_same_is_told_once_and_cut_each_time() {
    let (a, b) = (b"original", b"another.");
    let evil = |id: &[u8]| initial(id, &hello(&[names(&[b"evil.example"])]));
    let verdicts = judged(QUIC, &[&evil(a), &evil(b)]);
    assert_eq!(verdicts.iter().map(|one| one.finding.is_some()).collect::<Vec<_>>(), [true, false]);
    assert!(verdicts.iter().all(|one| one.action == Action::Block && one.targets.len() == 2));
}
