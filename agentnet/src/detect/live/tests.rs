use super::*;
use crate::{
    alert::model::Kind,
    detect::{action::Setting, secrets::HostSecrets},
};

const START: u64 = 1_700_000_000;

pub(super) struct Lab {
    pub(super) live: Live,
    pub(super) actions: Actions,
    pub(super) seconds: u64,
    pub(super) remote: SocketAddr,
}

impl Lab {
    pub(super) fn new(config: Config, remote: &str) -> Self {
        let live = Live::new(config, Keys::new(3, 5));
        Self { live, actions: Actions::default(), seconds: START, remote: remote.parse().unwrap() }
    }

    pub(super) fn source(&self, flow: u64, protocol: u8) -> Source<'static> {
        Source {
            time: Time::from_secs(self.seconds),
            agent: Agent { id: 7, name: "demo" },
            process: None,
            lineage: Lineage::default(),
            flow: Flow { id: flow, protocol, local: "10.0.0.1:40000".parse().unwrap(), remote: self.remote },
        }
    }

    pub(super) fn send(&mut self, flow: u64, protocol: u8, offset: u64, bytes: &[u8]) -> Vec<Verdict> {
        self.seconds += 1;
        let payload = u32::try_from(bytes.len()).unwrap();
        let source = self.source(flow, protocol);
        let sample = Sample { source, direction: Direction::Egress, offset, payload, bytes, held: None };
        self.live.sample(&sample, &self.actions)
    }

    pub(super) fn ask(&mut self, number: u64, name: &str) -> Vec<Verdict> {
        self.send(1, UDP, number, &query(name))
    }
}

/// A query of type A.
pub(super) fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

fn coded(number: u64) -> String {
    format!("{:016x}{number:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn a_tunnels_domain_is_closed_and_stays_closed() {
    let mut lab = Lab::new(Config::default(), "10.0.0.53:53");
    let first = (0..400)
        .find(|&number| {
            let verdicts = lab.ask(number, &format!("{}.channel-7.net", coded(number)));
            verdicts.iter().any(|one| one.action == Action::Block)
        })
        .unwrap();
    // As often as it goes on, there is a verdict, told or not: a block that was lost is made again.
    let target = [Target::Name("channel-7.net".to_owned())];
    for number in first + 1..first + 50 {
        let verdicts = lab.ask(number, &format!("{}.channel-7.net", coded(number)));
        let block = verdicts.iter().find(|one| one.action == Action::Block).unwrap();
        assert_eq!(block.targets, target);
    }
    // Others go on.
    assert!(lab.ask(999, "www.example.com").is_empty());
}

#[test]
fn names_of_no_domain_close_the_resolver_they_go_to() {
    let mut lab = Lab::new(Config::default(), "192.0.2.9:53");
    let found = (0..400).find_map(|number| {
        let verdicts = lab.ask(number, &format!("dnscat.{}.{}", coded(number), coded(number + 1000)));
        verdicts.into_iter().find(|one| one.action == Action::Block)
    });
    let address = Target::Address("192.0.2.9".parse().unwrap());
    assert_eq!(found.unwrap().targets, [address, Target::Flow(1)]);
}

#[test]
fn a_resolver_that_is_not_the_policys_is_closed_itself() {
    let config = Config { resolvers: vec!["10.0.0.53".parse().unwrap()], ..Config::default() };
    let mut lab = Lab::new(config, "192.0.2.9:53");
    lab.actions.set(Kind::DnsAnomaly, Setting::Block);
    let verdicts = lab.ask(0, "www.example.com");
    assert_eq!(verdicts[0].targets, [Target::Address("192.0.2.9".parse().unwrap()), Target::Flow(1)]);
    lab.remote = "10.0.0.53:53".parse().unwrap();
    assert!(lab.ask(1, "www.example.com").is_empty());
}

#[test]
fn a_secret_closes_where_it_really_went_whatever_the_host_says() {
    let secret = "hX7-pQ2-wk9-vR4-mZ8";
    let secrets = HostSecrets::new([("DEPLOY_KEY", secret.as_bytes())]).map(std::sync::Arc::new);
    let request = format!("GET /?q={secret} HTTP/1.1\r\nHost: api.github.com\r\n\r\n");
    for size in [5, 4096] {
        let mut lab = Lab::new(Config { secrets: secrets.clone(), ..Config::default() }, "[2001:db8::9]:80");
        let mut found = Vec::new();
        for (number, chunk) in request.as_bytes().chunks(size).enumerate() {
            found.extend(lab.send(42, TCP, (number * size) as u64, chunk));
        }
        let block = found.iter().find(|one| one.action == Action::Block).unwrap();
        assert_eq!(block.finding.as_ref().unwrap().kind, Kind::Secret);
        let address = Target::Address("2001:db8::9".parse().unwrap());
        assert_eq!(block.targets, [address, Target::Flow(42)]);
    }
}

#[test]
fn bytes_that_came_before_are_not_shown_again_and_a_gap_ends_what_was_begun() {
    let sample = |offset, bytes| Sample {
        source: Lab::new(Config::default(), "10.0.0.2:80").source(1, TCP),
        direction: Direction::Egress,
        offset,
        payload: 0,
        bytes,
        held: None,
    };
    let mut state = State::default();
    let mut see = |offset, bytes: &'static [u8]| {
        state.chunk(&sample(offset, bytes)).map(|chunk| (chunk.offset, chunk.gap, chunk.bytes))
    };
    assert_eq!(see(0, b"abcd"), Some((0, 0, &b"abcd"[..])));
    assert_eq!(see(2, b"cdef"), Some((4, 0, &b"ef"[..])));
    assert_eq!(see(1, b"bcd"), None);
    assert_eq!(see(10, b"xyz"), Some((10, 4, &b"xyz"[..])));
    assert_eq!(see(u64::MAX, b"q"), Some((u64::MAX, u64::MAX - 13, &b"q"[..])));
    assert_eq!(see(0, b""), None);
}

#[test]
fn a_policy_says_what_is_done() {
    let find = |setting| {
        let mut lab = Lab::new(Config::default(), "10.0.0.53:53");
        lab.actions.set(Kind::DestinationClass, setting);
        lab.ask(0, "abc.oast.fun").into_iter().map(|one| (one.action, one.targets)).collect::<Vec<_>>()
    };
    let target = || vec![Target::Name("oast.fun".to_owned())];
    assert_eq!(find(Setting::Default), [(Action::Block, target())]);
    assert_eq!(find(Setting::Alert), [(Action::Alert, Vec::new())]);
    assert_eq!(find(Setting::Quarantine), [(Action::Quarantine, target())]);
    assert_eq!(find(Setting::Off), []);
}

#[test]
fn dns_over_tcp_is_judged_message_by_message() {
    let mut lab = Lab::new(Config::default(), "10.0.0.53:53");
    let message = query("abc.oast.fun");
    let stream = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    let mut found = Vec::new();
    for (number, chunk) in stream.chunks(7).enumerate() {
        found.extend(lab.send(9, TCP, number as u64 * 7, chunk));
    }
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].targets, [Target::Name("oast.fun".to_owned())]);
}

#[test]
fn ping_is_quiet_and_a_tunnel_in_it_is_not() {
    for (size, expected) in [(0_u64, false), (17, true)] {
        let mut lab = Lab::new(Config::default(), "192.0.2.1:0");
        let mut found = false;
        for number in 0..60_u64 {
            let bytes: Vec<u8> = (0..56 + number * size % 300)
                .map(|at| {
                    if expected {
                        (at * 31 + number * 7).to_le_bytes()[0] ^ 0x5a
                    } else {
                        at.to_le_bytes()[0]
                    }
                })
                .collect();
            found |= !lab.send(1, ICMP, number, &bytes).is_empty();
            let back = Sample {
                source: lab.source(1, ICMP),
                direction: Direction::Ingress,
                offset: number,
                payload: 56,
                bytes: &bytes[..56],
                held: None,
            };
            found |= !lab.live.sample(&back, &lab.actions).is_empty();
        }
        assert_eq!(found, expected);
    }
}

#[test]
fn what_was_told_counts_after_a_restart_and_not_after_an_agent_is_forgotten() {
    let name = |number| format!("{}.channel-7.net", coded(number));
    let needed = |lab: &mut Lab| (100..500).position(|number| !lab.ask(number, &name(number)).is_empty());
    let mut before = Lab::new(Config::default(), "10.0.0.53:53");
    assert!(before.live.keep(7).unwrap().is_none());
    for number in 0..20 {
        before.ask(number, &name(number));
    }
    let kept = before.live.keep(7).unwrap().unwrap();
    let mut after = Lab::new(Config::default(), "10.0.0.53:53");
    after.seconds = before.seconds;
    after.live.restore(7, &kept).unwrap();
    let fresh = needed(&mut Lab::new(Config::default(), "10.0.0.53:53"));
    assert!(needed(&mut after) < fresh);
    assert!(after.live.restore(7, &kept[..100]).is_err());
    after.live.forget(7);
    assert_eq!(needed(&mut after), fresh);
}

#[test]
fn no_number_of_flows_takes_more_than_its_room() {
    let mut lab = Lab::new(Config::default(), "192.0.2.7:9");
    for flow in 0..FLOWS as u64 + 5000 {
        lab.send(flow, UDP, 0, b"x");
    }
    assert!(lab.live.flows.len() <= FLOWS);
    let source = lab.source(3, UDP);
    lab.live.ended(&source, Counters::default(), &Actions::default());
}
