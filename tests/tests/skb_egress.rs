//! `cgroup_skb/egress`: the packet has the last word.

use std::process::Command;

use agentnet_tests::{
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        battery::Battery,
        expect::{EPERM, Expected, Said},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        residue::Residue,
        server::Transport,
    },
    probe::Request,
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// With full privilege these need no socket of the agent's cgroup: sockets below IP, another process's
/// socket, another cgroup. The launcher takes the privilege away and filters the calls.
const BEYOND_THE_HOOKS: &[&str] = &[
    "packet-send",
    "packet-tcp",
    "packet-dgram",
    "packet-bypass",
    "root-cgroup-send",
    "steal-victim-socket",
    "tun-send",
    "tun-forward",
    "link-vlan",
    "link-stacked-vlan",
    "link-ether-type",
    "link-length",
    "link-wrong-type",
    "link-arp",
    "link-arp-address",
    "link-solicit",
    "link-advertise",
    "link-report",
];

/// The battery, and what is allowed in the same second.
fn with_twins(battery: &Battery, family: Family) -> Vec<Request> {
    let mut requests = battery.requests().to_vec();
    requests.extend(["tcp-send", "udp-sendto"].map(|op| Request::new(op, family.allowed_endpoint())));
    requests
}

fn ensure_sealed(lab: &Lab, battery: &Battery, family: Family) -> Result<()> {
    lab.fence()?;
    let pending = lab.pending(family.denied())?;
    ensure!(pending.is_empty(), "sockets that still hold denied data: {pending:?}");
    let leaks = battery.leaks(lab);
    ensure!(leaks.is_empty(), "{} packets leaked:\n{}", leaks.len(), leaks.join("\n"));
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)
}

#[rstest]
fn nothing_leaves_by_any_operation(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let victim = lab.outsider(user)?;
    // Privileged operations are tried without privilege, too: that they fail is to be seen.
    let battery = Battery::new(family, true, victim.pid());
    let reports = agent.attempt(&with_twins(&battery, family))?;
    Residue::named(&agent.name).ensure_gone()?;
    ensure_sealed(&lab, &battery, family)?;
    ensure!(reports.iter().rev().take(2).all(|report| report.ok), "the allowed twins failed: {reports:?}");
    Ok(())
}

#[rstest]
fn nothing_leaves_with_all_privilege_either(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let victim = lab.outsider(None)?;
    let battery = Battery::new(family, true, victim.pid()).without(BEYOND_THE_HOOKS);
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let reports = running.intrude(&running.cgroup, &with_twins(&battery, family))?;
    running.finish()?;
    residue.ensure_gone()?;
    ensure_sealed(&lab, &battery, family)?;
    ensure!(reports.iter().rev().take(2).all(|report| report.ok), "the allowed twins failed: {reports:?}");
    Ok(())
}

/// Headers in which a port or a destination could hide are not sent, not even to the allowed endpoint.
#[rstest]
#[case(Family::V4, &["cmsg-ip-options"])]
#[case(Family::V6, &["cmsg-hop-by-hop", "cmsg-destination"])]
fn what_hides_the_transport_header_is_dropped(#[case] family: Family, #[case] ops: &[&str]) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let table = Expected::new().cases(ops, family.allowed_endpoint(), EPERM).case(
        "udp-sendto",
        family.allowed_endpoint(),
        Said::Ok,
    );
    running.expect(&table)?;
    running.finish()?;
    lab.fence()?;
    for request in table.requests().iter().filter(|request| ops.contains(&request.op.as_str())) {
        ensure!(lab.sniffer.carrying(request.args.secret()) == 0, "{} arrived", request.op);
    }
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    residue.ensure_gone()
}

/// A socket may be told the allowed address and netfilter may send its packets elsewhere: the header decides.
#[rstest]
fn a_rewritten_destination_is_judged_as_it_leaves(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let table = if family == Family::V4 { "ip" } else { "ip6" };
    let (from, to) = (family.allowed(), family.denied());
    let target = if family == Family::V4 { to.to_string() } else { format!("[{to}]") };
    let rules = format!(
        "table {table} t {{ chain c {{ type nat hook output priority -100;\n {table} daddr {from} udp dport {ALLOWED_PORT} dnat to {target};\n }}\n }}\n"
    );
    let mut nft = Command::new("nft");
    nft.arg(&rules);
    lab.agent.attach(&mut nft);
    match nft.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            skip!(
                "a_rewritten_destination",
                "no NAT in this kernel: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            return Ok(());
        }
        Err(error) => {
            skip!("a_rewritten_destination", "nft is not installed: {error}");
            return Ok(());
        }
    }
    // Without agentnet the packet goes to the denied host: the rewriting works.
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut request = Request::new("udp-sendto", family.allowed_endpoint());
    request.args.marker = "<without agentnet>".to_owned();
    agent.attempt_ungoverned(std::slice::from_ref(&request))?;
    lab.fence()?;
    let rewritten = |marker: &[u8]| -> Vec<_> {
        let all = lab.sniffer.to(family.denied(), 0);
        all.into_iter().filter(|packet| packet.holds(marker)).collect()
    };
    ensure!(!rewritten(request.args.secret()).is_empty(), "netfilter did not rewrite the destination");

    let table = Expected::new().case("udp-sendto", family.allowed_endpoint(), EPERM).case(
        "tcp-send",
        family.allowed_endpoint(),
        Said::Ok,
    );
    agent.expect(&table)?;
    lab.fence()?;
    // The server's answer to the first may find its port closed, which the host's kernel says: told by the marker.
    let reached = rewritten(table.requests()[0].args.secret());
    ensure!(reached.is_empty(), "a rewritten packet reached the denied host: {reached:?}");
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}
