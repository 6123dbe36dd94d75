//! cgroup/sock_create. Families that no such program sees are the system call filter's: `seccomp.rs`.

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    expect::{EPERM, Expected, Said},
    net::Family,
    policy::Policy,
    residue::Residue,
    server::Transport,
};
use anyhow::{Result, ensure};
use rstest::rstest;

const EPROTONOSUPPORT: Said = Said::Errno(libc::EPROTONOSUPPORT);

/// Sockets of IP families that are neither TCP nor UDP. The errno of the first three is what a kernel without
/// them says, so that clients fall back.
fn other_sockets(family: Family) -> Expected {
    let denied = family.denied_endpoint();
    Expected::new()
        .cases(&["mptcp-send", "udplite-send", "sctp-socket"], denied, EPROTONOSUPPORT)
        .case("dccp-socket", denied, Said::Refused)
        .cases(&["ping", "ping-connected"], denied, EPERM)
        .cases(&["tcp-send", "udp-sendto"], family.allowed_endpoint(), Said::Ok)
}

#[rstest]
fn only_tcp_and_udp_sockets_are_made(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let table =
        other_sockets(family).cases(&["raw-udp", "raw-icmp", "raw-header"], family.denied_endpoint(), EPERM);
    agent.expect(&table)?;
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn privilege_makes_no_raw_sockets(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let raw = ["raw-udp", "raw-tcp", "raw-unknown", "raw-header", "raw-fragment", "raw-ip-in-ip", "raw-icmp"];
    running.expect(&other_sockets(family).cases(&raw, family.denied_endpoint(), EPERM))?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    residue.ensure_gone()
}

/// A rule for ICMP opens ping sockets, to the named address only.
#[rstest]
fn a_rule_for_icmp_opens_ping(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let policy = Policy::standard().allow_hosts(&[], &["icmp"]);
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &policy)?.user(user);
    let table = Expected::new()
        .cases(&["ping", "ping-connected"], family.allowed_endpoint(), Said::Ok)
        .case("ping-connected", family.denied_endpoint(), EPERM)
        // ping_v6_sendmsg() does not pass on that its packet was dropped.
        .case("ping", family.denied_endpoint(), if family == Family::V4 { EPERM } else { Said::Anything })
        .cases(&["raw-icmp"], family.allowed_endpoint(), EPERM);
    agent.expect(&table)?;
    lab.ensure_nothing_reached(family.denied())?;
    let echoes = lab.sniffer.packets(|packet| {
        packet.holds(b"<ping>") && packet.header.is_some_and(|header| header.destination == family.allowed())
    });
    ensure!(!echoes.is_empty(), "the allowed echo request did not arrive");
    Residue::named(&agent.name).ensure_gone()
}
