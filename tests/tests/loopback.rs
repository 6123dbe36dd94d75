//! `[local] loopback`: which listeners of this host the agent may use.

use std::net::SocketAddr;

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    expect::{EPERM, Expected, Said},
    net::Family,
    policy::Policy,
    residue::Residue,
    server::{Servers, Transport},
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// Where somebody else on this host listens.
const PORT: u16 = 9000;
/// An agent's conversation with itself.
const OWN: &[&str] = &["own-listener", "own-listener-address", "own-udp", "own-udp-address"];
/// A conversation with somebody else.
const FOREIGN: &[&str] = &["tcp-echo", "udp-echo", "udp-connected", "tcp-v4-mapped", "udp-v4-mapped"];

#[rstest]
fn a_listener_is_told_by_whose_it_is(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(("own", Said::Ok, EPERM), ("deny", EPERM, EPERM), ("any", Said::Ok, Said::Ok))] who: (
        &'static str,
        Said,
        Said,
    ),
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let (who, own, foreign) = who;
    let lab = Lab::new()?;
    let places = [family.loopback(), family.agent()].map(|ip| SocketAddr::from((ip, PORT)));
    let outside = Servers::start(&lab.agent, &places)?;
    let agent = Agent::new(&lab, &Policy::standard().loopback(who))?.user(user);

    let mut table = Expected::new().cases(OWN, places[0], own).cases(FOREIGN, places[0], foreign);
    table = table.cases(FOREIGN, places[1], foreign);
    // 0.0.0.0 and :: mean this host to connect() and sendto().
    let nowhere = SocketAddr::from((family.unspecified(), PORT));
    table = table.cases(&["tcp-connect", "udp-connected"], nowhere, foreign);
    // Nobody listens there: not the agent's own either.
    let silent = SocketAddr::from((family.loopback(), PORT + 1));
    table = table.case("tcp-connect", silent, if who == "any" { Said::Refused } else { EPERM });
    agent.expect(&table.cases(&["tcp-send", "udp-sendto"], family.allowed_endpoint(), Said::Ok))?;

    for place in places {
        for transport in [Transport::Tcp, Transport::Udp] {
            let tally = outside.tally(place, transport);
            ensure!((tally.bytes > 0) == (foreign == Said::Ok), "loopback = {who:?}: {place} got {tally:?}");
        }
    }
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

/// Two agents on one host are strangers to each other.
#[rstest]
fn another_agents_listener_is_foreign(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let policy = Policy::standard().listen("any");
    let (server, client) = (Agent::new(&lab, &policy)?, Agent::new(&lab, &policy)?);
    let place = SocketAddr::from((family.loopback(), PORT));
    let addr = place.to_string();
    let running = server.start(&["serve", "--tcp", &addr, "--udp", &addr])?;
    let residue = Residue::of(&server.name, &running)?;
    client.expect(&Expected::new().cases(&["tcp-echo", "udp-echo"], place, EPERM).cases(
        OWN,
        place,
        Said::Ok,
    ))?;
    running.finish()?;
    residue.ensure_gone()?;
    Residue::named(&client.name).ensure_gone()
}
