//! The system call filter: ways out that no program on a cgroup is asked about, and ways at processes outside.
//! That each works without agentnet is seen beforehand, by `control.rs` or here.

use std::path::Path;

use agentnet_tests::{
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        expect::{EPERM, Expected, Said},
        net::Family,
        policy::Policy,
        residue::Residue,
        server::Transport,
    },
    probe::Request,
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;

const EAFNOSUPPORT: Said = Said::Errno(libc::EAFNOSUPPORT);
const ENOSYS: Said = Said::Errno(libc::ENOSYS);

fn ensure_sealed(lab: &Lab, family: Family) -> Result<()> {
    lab.ensure_nothing_reached(family.denied())?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)
}

/// Each is told what a kernel without the family or the call says.
#[rstest]
fn other_families_and_io_uring_are_not_there(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let denied = family.denied_endpoint();
    let families = [
        "packet-socket",
        "packet-send",
        "packet-tcp",
        "packet-dgram",
        "packet-bypass",
        "vsock-socket",
        "xdp-socket",
    ];
    let rings = ["uring-setup", "uring-connect", "uring-sendmsg", "uring-socket"];
    let table = Expected::new().cases(&families, denied, EAFNOSUPPORT).cases(&rings, denied, ENOSYS).cases(
        &["tcp-send", "udp-sendto"],
        family.allowed_endpoint(),
        Said::Ok,
    );
    agent.expect(&table)?;
    ensure_sealed(&lab, family)?;
    Residue::named(&agent.name).ensure_gone()
}

/// A VPN has left its device behind. Root needs no capability to take it, and what is written to it leaves the
/// host as if it had come in by that device.
#[rstest]
fn a_tun_device_of_the_host_is_not_to_be_had(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    if !Path::new("/dev/net/tun").exists() {
        skip!("a_tun_device_of_the_host_is_not_to_be_had", "no TUN devices in this kernel");
        return Ok(());
    }
    let lab = Lab::new()?;
    lab.add_tun()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let table = Expected::new().case("tun-send", family.denied_endpoint(), EPERM).case(
        "tcp-send",
        family.allowed_endpoint(),
        Said::Ok,
    );
    let mut request = Request::new("tun-send", family.denied_endpoint());
    request.args.marker = "<without agentnet>".to_owned();
    let free = agent.attempt_ungoverned(std::slice::from_ref(&request))?;
    lab.fence()?;
    let arrived = lab.sniffer.carrying(request.args.secret()) > 0;
    ensure!(free[0].ok && arrived, "it does not work without agentnet either: {free:?}");

    agent.expect(&table)?;
    lab.fence()?;
    ensure!(lab.sniffer.carrying(table.requests()[0].args.secret()) == 0, "a packet left by the device");
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

/// The engine is such a process: a root agent could end it by its limits. Its own limits are the agent's to set.
#[rstest]
fn limits_of_others_are_not_to_be_set(#[values(None, Some(NOBODY))] user: Option<u32>) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let victim = lab.outsider(user)?;
    let to = Family::V4.denied_endpoint();
    let table = Expected::new().case("limit-victim", to, EPERM).case("limit-own", to, Said::Ok).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    );
    let requests: Vec<_> =
        table.requests().iter().cloned().map(|request| request.victim(victim.pid())).collect();
    let free = agent.attempt_ungoverned(&requests[..1])?;
    ensure!(free[0].ok, "it does not work without agentnet either: {free:?}");
    table.check(&agent.attempt(&requests)?)?;
    ensure_sealed(&lab, Family::V4)?;
    Residue::named(&agent.name).ensure_gone()
}
