//! `sockops`: sockets that listen are their agent's, those that accept() makes may answer, and nothing more.

use std::net::SocketAddr;

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    client::is_answered,
    expect::{EPERM, Expected, Said},
    net::Family,
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// Where the agent listens.
const PORT: u16 = 8000;

/// What an accepted socket sends back is let out, although no rule allows the visitor's port.
#[rstest]
fn an_accepted_socket_answers(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().listen("any"))?.user(user);
    let addr = SocketAddr::from((family.unspecified(), PORT)).to_string();
    let running = agent.start(&["serve", "--tcp", &addr])?;
    let residue = Residue::of(&agent.name, &running)?;
    let own = SocketAddr::from((family.agent(), PORT));
    ensure!(is_answered(&lab.server, own, Transport::Tcp)?, "the visitor was not answered");
    // The same visitor, not by the connection that it opened.
    let visitor = SocketAddr::from((family.allowed(), 9999));
    running.expect(&Expected::new().cases(&["tcp-connect", "tcp-send"], visitor, EPERM))?;
    running.finish()?;
    lab.fence()?;
    ensure!(lab.sniffer.to(family.allowed(), 9999).is_empty(), "something reached the visitor's other port");
    residue.ensure_gone()
}

/// A socket that was accepted, or listened, is dissolved and connected elsewhere: that is judged like any other
/// connection.
#[rstest]
fn a_used_socket_begins_anew(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values("loopback", "any")] listen: &'static str,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().listen(listen))?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let ops = ["tcp-accepted-reconnect", "tcp-listener-reconnect", "tcp-reconnect"];
    let table = Expected::new().cases(&ops, family.denied_endpoint(), EPERM).cases(
        &ops,
        family.allowed_endpoint(),
        Said::Ok,
    );
    running.expect(&table)?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    for request in table.requests() {
        let arrived = lab.sniffer.carrying(request.args.secret()) > 0;
        let allowed = request.args.to == family.allowed_endpoint();
        ensure!(arrived == allowed, "{} to {}: arrived {arrived}", request.op, request.args.to);
    }
    residue.ensure_gone()
}
