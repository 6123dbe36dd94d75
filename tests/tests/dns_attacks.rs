//! `dns_attacks`: an agent that wants to say what it may not to a resolver, or to open an address by an answer of its own.

use std::net::{IpAddr, SocketAddr};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Record, Resolver, answer, framed, query, wire_name},
        server::Transport,
        watched::{Watched, script_ungoverned},
    },
    probe::{
        dns::Attack,
        script::{Came, Step},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

const NAME: &str = "api.example.com";
/// As long as the allowed name.
const OTHER: &str = "key.example.org";

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn connect(to: SocketAddr) -> Step {
    Step::Connect { to, text: "by name".to_owned() }
}

fn policy() -> Policy {
    Policy::standard().allow_name(NAME, &[ALLOWED_PORT])
}

/// A resolver on the servers' host that knows the allowed name and another one.
fn remote(lab: &Lab, family: Family) -> Result<(Resolver, SocketAddr)> {
    let at = SocketAddr::from((family.allowed(), DNS_PORT));
    let zone = [(NAME, vec![family.named(1)]), (OTHER, vec![family.named(2)])];
    Ok((Resolver::of_zone(&lab.server, &[at], &zone)?, at))
}

fn remote_policy(family: Family) -> Policy {
    policy().resolver(family.allowed())
}

/// A resolver on the agent's own host, as systemd-resolved's is: any process can take another port of its address.
#[rstest]
fn an_agent_cannot_answer_itself(
    #[values("127.0.0.53", "127.0.0.1", "::1")] at: IpAddr,
    #[values(false, true)] hidden: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let family = Family::of(at);
    let mut answered = false;
    let twin = family.named(1);
    // The first query is left to the agent's own answer, the second gets one.
    let resolver = Resolver::start(
        &lab.agent,
        &[(at, DNS_PORT).into()],
        Box::new(move |query, _| {
            let answers = answered.then(|| answer(query, &[Record::address(twin, 60)], 0));
            answered = true;
            answers.flatten().into_iter().collect()
        }),
    )?;
    let watched = Watched::new(&lab, &policy().resolver(at))?;
    let question = query(7, NAME, kind(family));
    let forged = answer(&question, &[Record::address(family.named(2), 60)], 0).unwrap_or_default();
    let hide = hidden.then(|| SocketAddr::from((at, DNS_PORT)));
    let to = SocketAddr::from((at, DNS_PORT));
    let came = watched.script(&[
        Step::Tell { to, message: question.clone() },
        Step::Attack(Attack::Forge { from: (at, 9999).into(), hide, message: forged }),
        connect((family.named(2), ALLOWED_PORT).into()),
        Step::Renew,
        Step::Ask { to, message: question },
        connect((family.named(1), ALLOWED_PORT).into()),
    ])?;
    ensure!(resolver.asked_for(&wire_name(NAME)) == 2, "{:?}", resolver.asked());
    ensure!(came[1].is_ok(), "the forgery was not sent, which proves nothing: {:?}", came[1]);
    ensure!(came[2].step == "connect" && came[2].errno == libc::EPERM, "{came:?}");
    ensure!(lab.servers.tally((family.named(2), ALLOWED_PORT).into(), Transport::Tcp).bytes == 0, "forged");
    ensure!(came[4].is_ok() && came[5].is_ok(), "the twin: {came:?}");
    Ok(())
}

/// What was judged and found no room leaves the verdict behind: what comes then is none the less judged.
#[rstest]
fn a_verdict_is_not_for_another_message(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let (resolver, to) = remote(&lab, family)?;
    let watched = Watched::new(&lab, &remote_policy(family))?;
    let (one, two) = (framed(&query(7, NAME, kind(family))), framed(&query(8, NAME, kind(family))));
    let other = framed(&query(9, OTHER, kind(family)));
    let queries = [one.clone(), two.clone()].concat();
    let came = watched.script(&[
        Step::Attack(Attack::Instead { to, queries: queries.clone(), other }),
        Step::Attack(Attack::Instead { to, queries, other: two }),
    ])?;
    ensure!(came[1].is_ok(), "the twin: {came:?}");
    ensure!(resolver.asked_for(&wire_name(OTHER)) == 0, "{came:?} {:?}", resolver.asked());
    ensure!(resolver.asked_for(&wire_name(NAME)) >= 3, "the twin: {came:?} {:?}", resolver.asked());
    Ok(())
}

/// What passes the judge by, because its call began before the connection was made, is not covered by a later verdict.
#[rstest]
fn a_verdict_is_not_for_what_came_before(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] held: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let (good, evil) = (framed(&query(7, NAME, kind(family))), framed(&query(9, OTHER, kind(family))));
    let (free, to) = remote(&lab, family)?;
    let attack = Step::Attack(Attack::Early { to, first: evil, held, then: good.clone() });
    let came = script_ungoverned(&lab, std::slice::from_ref(&attack))?;
    ensure!(free.asked_for(&wire_name(OTHER)) == 1, "it fails by itself: {came:?} {:?}", free.asked());
    drop(free);
    let (resolver, to) = remote(&lab, family)?;
    let watched = Watched::new(&lab, &remote_policy(family))?;
    let came = watched.script(&[attack, Step::Stream { to, parts: vec![good], expect: 2 }])?;
    ensure!(resolver.asked_for(&wire_name(OTHER)) == 0, "{came:?} {:?}", resolver.asked());
    ensure!(came[1].is_ok() && resolver.asked_for(&wire_name(NAME)) == 1, "the twin: {came:?}");
    Ok(())
}

/// A query is one datagram that nobody can change.
#[rstest]
fn a_query_is_one_datagram(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let (resolver, to) = remote(&lab, family)?;
    let watched = Watched::new(&lab, &remote_policy(family))?;
    let (good, evil) = (query(7, NAME, kind(family)), query(9, OTHER, kind(family)));
    let halves = |message: &[u8]| (message[..20].to_vec(), message[20..].to_vec());
    let came = watched.script(&[
        Step::Attack(Attack::Segments { to, message: good.clone(), size: 11 }),
        Step::Attack(Attack::Segments { to, message: [good.clone(), evil.clone()].concat(), size: 33 }),
        Step::Attack(Attack::Corked { to, parts: halves(&evil) }),
        Step::Attack(Attack::Spliced { to, message: good.clone() }),
        Step::Attack(Attack::Urgent { to, message: framed(&evil) }),
        Step::Ask { to, message: good.clone() },
    ])?;
    for came in &came[..5] {
        ensure!(!came.is_ok(), "{came:?}");
    }
    ensure!(came[5..].iter().all(Came::is_ok), "the twins: {came:?}");
    ensure!(resolver.asked() == [good], "{came:?} {:?}", resolver.asked());
    Ok(())
}

/// In a network namespace of its own an agent is any resolver; what it learns there opens nothing elsewhere.
#[test]
fn an_answer_counts_where_it_was_given() -> Result<()> {
    let lab = Lab::new()?;
    let family = Family::V4;
    let (_resolver, to) = remote(&lab, family)?;
    let watched = Watched::new(&lab, &remote_policy(family))?;
    let question = query(7, NAME, kind(family));
    let forged = answer(&question, &[Record::address(family.named(2), 60)], 0).unwrap_or_default();
    let came = watched.script(&[
        Step::Attack(Attack::Abroad { to, message: question.clone(), answer: forged.clone() }),
        connect((family.named(2), ALLOWED_PORT).into()),
        Step::Ask { to, message: question },
        connect((family.named(1), ALLOWED_PORT).into()),
    ])?;
    ensure!(came[0].is_ok() && came[0].back == forged, "nothing was forged: {:?}", came[0]);
    ensure!(came[1].step == "connect" && came[1].errno == libc::EPERM, "{came:?}");
    ensure!(lab.servers.tally((family.named(2), ALLOWED_PORT).into(), Transport::Tcp).bytes == 0, "forged");
    ensure!(came[2].is_ok() && came[3].is_ok(), "the twin: {came:?}");
    Ok(())
}
