//! `dns_clients`: what ordinary resolvers' clients do is not in their way: many names, many queries at once, names that
//! share an address, large answers.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, DENIED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Record, Resolver, answer, query},
        watched::Watched,
    },
    probe::{
        dns::Attack,
        script::{Came, Step},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn at(family: Family) -> SocketAddr {
    (family.allowed(), DNS_PORT).into()
}

fn policy(family: Family) -> Policy {
    Policy::closed().allow_name("*.wild.example", &[ALLOWED_PORT]).resolver(family.allowed())
}

/// Every name has the first or the second address.
fn everything(lab: &Lab, family: Family) -> Result<Resolver> {
    let mut turn = 0;
    Resolver::start(
        &lab.server,
        &[at(family)],
        Box::new(move |query, _| {
            turn ^= 1;
            answer(query, &[Record::address(family.named(1 + turn), 1)], 0).into_iter().collect()
        }),
    )
}

fn connect(to: SocketAddr) -> Step {
    Step::Connect { to, text: "x".to_owned() }
}

/// As many names as nothing keeps: each is open when it is connected to at once.
#[rstest]
fn four_thousand_names_are_resolved_and_connected_to(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    const ROUNDS: u16 = 4000;
    let lab = Lab::new()?;
    let _resolver = everything(&lab, family)?;
    let watched = Watched::new(&lab, &policy(family))?;
    let mut steps = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("n{round}.wild.example");
        steps.push(Step::Ask { to: at(family), message: query(round, &name, kind(family)) });
        // The resolver takes turns.
        steps.push(connect((family.named(1 + (round + 1) % 2), ALLOWED_PORT).into()));
    }
    let came = watched.script(&steps)?;
    let failed: Vec<&Came> = came.iter().filter(|came| !came.is_ok()).collect();
    ensure!(failed.is_empty(), "{} of {} steps failed: {:?}", failed.len(), steps.len(), failed.first());
    let denied: u64 = watched.counters()?.denied.iter().sum();
    ensure!(denied == 0, "{denied} refusals");
    Ok(())
}

/// c-ares asks everything from one socket.
#[rstest]
fn many_queries_are_open_at_once(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    const QUERIES: u16 = 60;
    let lab = Lab::new()?;
    let _resolver = everything(&lab, family)?;
    let watched = Watched::new(&lab, &policy(family))?;
    let messages = (0..QUERIES)
        .map(|number| {
            let kind = if number % 2 == 0 { A } else { AAAA };
            query(number, &format!("n{}.wild.example", number / 2), kind)
        })
        .collect();
    let came = watched.script(&[Step::Attack(Attack::All { to: at(family), messages })])?;
    ensure!(came[0].is_ok() && came[0].back == QUERIES.to_be_bytes(), "{came:?}");
    Ok(())
}

/// A name that is denied does not close the address for one that is allowed, nor does the latter open its ports to it.
#[rstest]
fn names_share_an_address(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = everything(&lab, family)?;
    let policy = policy(family).deny_name("bad.wild.example").allow_name("other.example", &[DENIED_PORT]);
    let watched = Watched::new(&lab, &policy)?;
    let ask = |id, name| Step::Ask { to: at(family), message: query(id, name, kind(family)) };
    let first = |port| connect((family.named(1), port).into());
    let came = watched.script(&[
        ask(1, "a.wild.example"), // the second address
        ask(2, "a.wild.example"), // the first
        ask(3, "bad.wild.example"),
        first(ALLOWED_PORT),
        first(DENIED_PORT),
        ask(4, "other.example"), // the second
        first(DENIED_PORT),
        ask(5, "other.example"), // the first
        first(DENIED_PORT),
        first(ALLOWED_PORT),
    ])?;
    let ok: Vec<bool> = came.iter().map(Came::is_ok).collect();
    ensure!(ok == [true, true, false, true, false, true, false, true, true, true], "{came:?}");
    Ok(())
}

/// A large answer comes whole and opens what it says, over UDP, in fragments where it has to, and over TCP.
#[rstest]
fn large_answers_are_read(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(500, 1400, 4000, 8000)] text: usize,
    #[values(false, true)] tcp: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let records = move |query: &[u8]| {
        let mut records = vec![Record::address(family.named(2), 60)];
        // Records of other types fill it, up to an address at its end.
        records.extend((0..text / 250).map(|_| Record {
            owner: Vec::new(),
            kind: 16,
            ttl: 1,
            data: vec![b'x'; 250],
        }));
        records.push(Record::address(family.named(1), 60));
        answer(query, &records, 0)
    };
    let _resolver = Resolver::start(
        &lab.server,
        &[at(family)],
        Box::new(move |query, _| records(query).into_iter().collect()),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let message = query(1, "a.wild.example", kind(family));
    let length = u16::try_from(message.len())?.to_be_bytes();
    let ask = if tcp {
        Step::Stream {
            to: at(family),
            parts: vec![[&length[..], &message].concat()],
            expect: text / 250 * 250,
        }
    } else {
        Step::Ask { to: at(family), message }
    };
    let came = watched.script(&[
        ask,
        connect((family.named(1), ALLOWED_PORT).into()),
        connect((family.named(2), ALLOWED_PORT).into()),
    ])?;
    ensure!(came.iter().all(Came::is_ok), "{:?} {:?}", came[0].step, &came[1..]);
    Ok(())
}
