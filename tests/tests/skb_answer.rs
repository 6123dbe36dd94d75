//! `skb_answer`: an address is open because this agent has resolved an allowed name to it, and for no other reason.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, DENIED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
        server::Transport,
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;

fn resolver(family: Family) -> SocketAddr {
    SocketAddr::from((family.allowed(), DNS_PORT))
}

fn policy() -> Policy {
    Policy::standard()
        .allow_hosts(&[DNS_PORT], &["udp", "tcp"])
        .allow_name("api.example.com", &[ALLOWED_PORT])
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn connect(to: SocketAddr) -> Step {
    Step::Connect { to, text: "by name".to_owned() }
}

fn refused(came: &Came) -> bool {
    came.step == "connect" && came.errno == libc::EPERM
}

/// Before the answer the address is closed, with the answer it is open at once, for the ports of the rule.
#[rstest]
fn an_answer_opens_its_addresses(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let zone = [("api.example.com", vec![family.named(1), family.named(2)])];
    let _resolver = Resolver::of_zone(&lab.server, &[resolver(family)], &zone)?;
    let watched = Watched::new(&lab, &policy())?;
    let at = |number, port| SocketAddr::from((family.named(number), port));
    let came = watched.script(&[
        connect(at(1, ALLOWED_PORT)),
        Step::Ask { to: resolver(family), message: query(9, "api.example.com", kind(family)) },
        connect(at(1, ALLOWED_PORT)),
        connect(at(2, ALLOWED_PORT)),
        connect(at(1, DENIED_PORT)),
        connect(at(3, ALLOWED_PORT)),
    ])?;
    ensure!(refused(&came[0]), "{:?}", came[0]);
    ensure!(came[1].is_ok(), "{:?}", came[1]);
    for came in &came[2..4] {
        ensure!(came.is_ok() && came.back == b"by name", "{came:?}");
    }
    for came in &came[4..] {
        ensure!(refused(came), "{came:?}");
    }
    ensure!(lab.servers.tally(at(1, ALLOWED_PORT), Transport::Tcp).bytes == 7, "the twin");
    ensure!(lab.servers.tally(at(1, DENIED_PORT), Transport::Tcp).connections == 0, "another port");
    ensure!(lab.servers.tally(at(3, ALLOWED_PORT), Transport::Tcp).connections == 0, "another address");
    Ok(())
}

/// The same over TCP: the answer may come in any number of segments.
#[rstest]
fn an_answer_over_tcp_opens_its_addresses(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 40)] answers: usize,
) -> Result<()> {
    let lab = Lab::new()?;
    let mut addresses = vec![family.named(1)];
    // So many that they fill more than one segment: the last of them is one that is there.
    addresses.extend((0..answers).map(|number| {
        let number = u16::try_from(number).unwrap_or(0);
        family.named(100 + number)
    }));
    addresses.push(family.named(2));
    let size = if family == Family::V4 { 16 } else { 28 };
    let zone = [("api.example.com", addresses.clone())];
    let _resolver = Resolver::of_zone(&lab.server, &[resolver(family)], &zone)?;
    let watched = Watched::new(&lab, &policy())?;
    let message = query(9, "api.example.com", kind(family));
    let length = u16::try_from(message.len())?.to_be_bytes();
    let at = |number, port| SocketAddr::from((family.named(number), port));
    let came = watched.script(&[
        Step::Stream {
            to: resolver(family),
            parts: vec![[&length[..], &message].concat()],
            expect: 2 + message.len() + addresses.len() * size,
        },
        connect(at(1, ALLOWED_PORT)),
        connect(at(2, ALLOWED_PORT)),
        connect(at(3, ALLOWED_PORT)),
    ])?;
    for came in &came[..3] {
        ensure!(came.is_ok(), "{came:?}");
    }
    ensure!(refused(&came[3]), "{:?}", came[3]);
    Ok(())
}
