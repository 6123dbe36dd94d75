//! `skb_answer`: an address is open because this agent has resolved an allowed name to it, and for no other reason.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, DENIED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, CNAME, Record, Resolver, answer, query, wire_name},
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

/// What a resolver sends that is no answer to what was asked reaches nobody and opens nothing; the right answer behind it
/// does.
#[rstest]
fn only_the_answer_to_the_question_counts(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let record = move |number| Record::address(family.named(number), 60);
    let good = move |query: &[u8]| answer(query, &[record(1)], 0);
    let forged = move |query: &[u8]| -> Option<Vec<Vec<u8>>> {
        let evil = answer(query, &[record(2)], 0)?;
        let with = |at: usize, byte: u8| {
            let mut message = evil.clone();
            message[at] ^= byte;
            message
        };
        let mut other_name = query.to_vec();
        other_name[13] ^= 1;
        Some(vec![
            with(0, 1), // another identifier
            with(1, 1),
            answer(&other_name, &[record(2)], 0)?, // another question
            with(query.len() - 3, 4),              // another type
            with(5, 3),                            // two questions
            evil[..evil.len() - 1].to_vec(),       // the last record is cut off
            evil[..query.len()].to_vec(),          // there is none
            evil[..5].to_vec(),
            with(2, 0x80), // a query
            b"not DNS at all".to_vec(),
            good(query)?,
            answer(query, &[record(3)], 0)?, // another answer behind it
        ])
    };
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| forged(query).unwrap_or_default()),
    )?;
    let watched = Watched::new(&lab, &policy())?;
    let at = |number| SocketAddr::from((family.named(number), ALLOWED_PORT));
    let message = query(0x1234, "api.example.com", kind(family));
    let mut steps = vec![Step::Ask { to: resolver(family), message: message.clone() }];
    steps.extend((1..=3).map(|number| connect(at(number))));
    // Nothing else is there to be read.
    steps.push(Step::Ask { to: family.allowed_endpoint(), message: b"echo".to_vec() });
    let came = watched.script(&steps)?;
    ensure!(came[0].is_ok() && came[0].back == good(&message).unwrap_or_default(), "{:?}", came[0]);
    ensure!(came[1].is_ok(), "{:?}", came[1]);
    ensure!(refused(&came[2]) && refused(&came[3]), "{came:?}");
    ensure!(came[4].back == b"echo", "something else was delivered: {:?}", came[4]);
    Ok(())
}

/// What only a rule with the address can open stays closed, whatever an allowed name resolves to.
#[rstest]
fn names_do_not_open_what_is_special(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let special = [
        family.metadata(),
        family.loopback(),
        match family {
            Family::V4 => "10.1.2.3".parse()?,
            Family::V6 => "fd00::1".parse()?,
        },
        match family {
            Family::V4 => "192.168.1.1".parse()?,
            Family::V6 => "fe80::1".parse()?,
        },
    ];
    let mut addresses = special.to_vec();
    addresses.push(family.named(1));
    let zone = [("api.example.com", addresses)];
    let _resolver = Resolver::of_zone(&lab.server, &[resolver(family)], &zone)?;
    let watched = Watched::new(&lab, &policy())?;
    let mut steps =
        vec![Step::Ask { to: resolver(family), message: query(1, "api.example.com", kind(family)) }];
    steps.extend(special.iter().map(|ip| connect((*ip, ALLOWED_PORT).into())));
    steps.push(connect((family.named(1), ALLOWED_PORT).into()));
    let came = watched.script(&steps)?;
    for (ip, came) in special.iter().zip(&came[1..]) {
        ensure!(refused(came), "{ip}: {came:?}");
    }
    ensure!(came.last().is_some_and(Came::is_ok), "{came:?}");
    Ok(())
}

/// Aliases on the way to an address, and records of other types, are passed over.
#[rstest]
fn aliases_are_followed(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let chain = move |query: &[u8]| {
        let mut records = Vec::new();
        let mut owner = Vec::new();
        for number in 0..16 {
            let next = wire_name(&format!("edge-{number}.cdn.example.net"));
            records.push(Record { owner, kind: CNAME, ttl: 1, data: next.clone() });
            owner = next;
        }
        records.push(Record { owner, ..Record::address(family.named(1), 1) });
        records.push(Record { owner: Vec::new(), kind: 16, ttl: 1, data: b"\x04text".to_vec() });
        answer(query, &records, 0)
    };
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| chain(query).into_iter().collect()),
    )?;
    let watched = Watched::new(&lab, &policy())?;
    let came = watched.script(&[
        Step::Ask { to: resolver(family), message: query(1, "api.example.com", kind(family)) },
        connect((family.named(1), ALLOWED_PORT).into()),
    ])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    Ok(())
}
