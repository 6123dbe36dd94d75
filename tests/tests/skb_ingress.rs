//! `cgroup_skb/ingress`: `[local] listen`, who may connect into the agent, and the replies that follow.

use std::net::SocketAddr;

use agentnet_tests::{
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        client::is_answered,
        expect::{EPERM, Expected, Said},
        net::Family,
        policy::Policy,
        residue::Residue,
        server::{Servers, Transport},
    },
    probe::Request,
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// Where the agent listens.
const PORT: u16 = 8000;

fn serve(family: Family) -> [String; 5] {
    let addr = SocketAddr::from((family.unspecified(), PORT)).to_string();
    ["serve", "--tcp", &addr, "--udp", &addr].map(str::to_owned)
}

/// `who`, and whether a client on this host and one elsewhere are to be answered.
#[rstest]
fn only_those_who_may_connect_are_answered(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(("deny", false, false), ("loopback", true, false), ("any", true, true))] who: (
        &'static str,
        bool,
        bool,
    ),
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let (who, here, elsewhere) = who;
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().listen(who))?.user(user);
    let command = serve(family);
    let running = agent.start(&command.each_ref().map(String::as_str))?;
    let residue = Residue::of(&agent.name, &running)?;
    let mut wrong = Vec::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        let clients = [
            ("loopback", &lab.agent, family.loopback(), here),
            ("this host's address", &lab.agent, family.agent(), here),
            ("elsewhere", &lab.server, family.agent(), elsewhere),
        ];
        for (from, namespace, ip, expected) in clients {
            let answered = is_answered(namespace, SocketAddr::from((ip, PORT)), transport)?;
            if answered != expected {
                wrong.push(format!("{from} over {transport:?}: answered {answered}, expected {expected}"));
            }
        }
    }
    running.finish()?;
    ensure!(wrong.is_empty(), "listen = {who:?}:\n{}", wrong.join("\n"));
    residue.ensure_gone()
}

/// A client that was let in may be answered, which is no permission to talk to it in any other way.
#[rstest]
fn a_visitor_opens_nothing_else(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().listen("any"))?;
    let command = serve(family);
    let running = agent.start(&command.each_ref().map(String::as_str))?;
    let residue = Residue::of(&agent.name, &running)?;
    let own = SocketAddr::from((family.agent(), PORT));
    for transport in [Transport::Tcp, Transport::Udp] {
        ensure!(is_answered(&lab.server, own, transport)?, "the visitor was not answered over {transport:?}");
    }
    // The visitor came from the allowed address: its other ports stay closed.
    let visitor = SocketAddr::from((family.allowed(), 9999));
    let ops =
        ["tcp-connect", "udp-sendto", "udp-connected", "tcp-accepted-reconnect", "tcp-listener-reconnect"];
    running.expect(&Expected::new().cases(&ops, visitor, EPERM).case(
        "tcp-send",
        family.allowed_endpoint(),
        Said::Ok,
    ))?;
    running.finish()?;
    lab.fence()?;
    ensure!(lab.sniffer.to(family.allowed(), 9999).is_empty(), "something reached the visitor's other port");
    residue.ensure_gone()
}

/// What the agent asks is answered, whatever `listen` says.
#[rstest]
fn answers_to_allowed_requests_come_in(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().listen("deny").loopback("any"))?;
    // A server of this host, outside the agent.
    let near = SocketAddr::from((family.loopback(), 9000));
    let _servers = Servers::start(&lab.agent, &[near])?;
    let requests: Vec<_> = [family.allowed_endpoint(), near]
        .into_iter()
        .flat_map(|to| ["tcp-echo", "udp-echo"].map(|op| Request::new(op, to)))
        .collect();
    let reports = agent.attempt(&requests)?;
    ensure!(reports.iter().all(|report| report.ok), "an answer was lost: {reports:#?}");
    Residue::named(&agent.name).ensure_gone()
}
