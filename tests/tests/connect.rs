//! cgroup/connect4 and connect6.

use std::net::SocketAddr;

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    expect::{EPERM, Expected, Said},
    net::{ALLOWED_PORT, DENIED_PORT, Family},
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::Result;
use rstest::rstest;

/// What connects by itself.
const CONNECTS: &[&str] =
    &["tcp-connect", "tcp-send", "tcp-v4-mapped", "udp-connected", "udp-connected-v4-mapped"];
/// What first connects to the allowed endpoint, or to itself, and then elsewhere with the same socket.
const RECONNECTS: &[&str] = &[
    "tcp-reconnect",
    "tcp-listener-reconnect",
    "tcp-accepted-reconnect",
    "tcp-bound-port",
    "udp-reconnect",
    "udp-unspec-reconnect",
];

fn table(family: Family) -> Expected {
    let allowed = family.allowed_endpoint();
    let other_port = SocketAddr::from((family.allowed(), DENIED_PORT));
    Expected::new()
        .cases(CONNECTS, family.denied_endpoint(), EPERM)
        .cases(CONNECTS, other_port, EPERM)
        .cases(RECONNECTS, family.denied_endpoint(), EPERM)
        .cases(
            &["tcp-fastopen-sendto", "tcp-fastopen-connect", "tcp-early-send"],
            family.denied_endpoint(),
            EPERM,
        )
        .cases(CONNECTS, allowed, Said::Ok)
        .cases(RECONNECTS, allowed, Said::Ok)
        .case("tcp-fastopen-connect", allowed, Said::Ok)
        // Asks for a route and sends nothing.
        .case("route-probe", family.denied_endpoint(), Said::Ok)
}

#[rstest]
fn a_refused_connect_is_told_so_at_once(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    agent.expect(&table(family))?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn the_kernel_programs_refuse_without_the_launchers_help(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    running.expect(&table(family).case("uring-connect", family.denied_endpoint(), EPERM))?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    residue.ensure_gone()
}

#[rstest]
fn a_cgroup_below_the_agents_is_governed_as_well(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let below = running.cgroup.join("below").join("further-below");
    std::fs::create_dir_all(&below)?;
    let expected = table(family);
    expected.check(&running.intrude(&below, expected.requests())?)?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    residue.ensure_gone()
}

/// A rule for everything does not open what has to be named: metadata, private and other special networks.
#[rstest]
fn special_networks_must_be_named(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let everything = if family == Family::V4 { "0.0.0.0/0" } else { "::/0" };
    let policy = Policy::closed().allow(everything, &[ALLOWED_PORT, 80], &["tcp", "udp"]);
    let metadata = SocketAddr::from((family.metadata(), 80));
    let lab = Lab::new()?;

    let agent = Agent::new(&lab, &policy)?;
    let table = Expected::new().cases(CONNECTS, metadata, EPERM).case("udp-sendto", metadata, EPERM).cases(
        CONNECTS,
        family.denied_endpoint(),
        Said::Ok,
    );
    agent.expect(&table)?;
    lab.ensure_nothing_reached(family.metadata())?;
    Residue::named(&agent.name).ensure_gone()?;

    let naming = policy.allow(&family.metadata().to_string(), &[80], &["tcp", "udp"]);
    let agent = Agent::new(&lab, &naming)?;
    agent.expect(&Expected::new().cases(CONNECTS, metadata, Said::Ok))?;
    lab.ensure_bytes(metadata, Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn deny_wins_over_allow(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let network = if family == Family::V4 { "198.18.0.0/24" } else { "2001:db8:18::/64" };
    let policy = Policy::closed()
        .allow(network, &[ALLOWED_PORT], &["tcp", "udp"])
        .allow(&family.denied().to_string(), &[ALLOWED_PORT], &["tcp", "udp"])
        .deny(&family.denied().to_string());
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &policy)?;
    let table = Expected::new().cases(CONNECTS, family.denied_endpoint(), EPERM).cases(
        CONNECTS,
        family.allowed_endpoint(),
        Said::Ok,
    );
    agent.expect(&table)?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

/// Each protocol has its own rules.
#[rstest]
fn a_rule_for_one_protocol_is_none_for_another(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let policy = Policy::closed().allow(&family.allowed().to_string(), &[ALLOWED_PORT], &["tcp"]).allow(
        &family.denied().to_string(),
        &[ALLOWED_PORT],
        &["udp"],
    );
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &policy)?;
    let table = Expected::new()
        .case("tcp-send", family.allowed_endpoint(), Said::Ok)
        .case("udp-connected", family.allowed_endpoint(), EPERM)
        .case("udp-connected", family.denied_endpoint(), Said::Ok)
        .case("tcp-send", family.denied_endpoint(), EPERM);
    agent.expect(&table)?;
    lab.fence()?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    lab.ensure_bytes(family.denied_endpoint(), Transport::Udp)?;
    let udp = lab.servers.tally(family.allowed_endpoint(), Transport::Udp);
    let tcp = lab.servers.tally(family.denied_endpoint(), Transport::Tcp);
    assert_eq!((udp.bytes, tcp.connections), (0, 0), "the wrong protocol got through");
    Residue::named(&agent.name).ensure_gone()
}

/// `mode = "audit"` refuses nothing.
#[rstest]
fn an_audit_lets_everything_through(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().audit())?;
    agent.expect(&Expected::new().cases(CONNECTS, family.denied_endpoint(), Said::Ok))?;
    lab.ensure_bytes(family.denied_endpoint(), Transport::Tcp)?;
    lab.ensure_bytes(family.denied_endpoint(), Transport::Udp)?;
    Residue::named(&agent.name).ensure_gone()
}
