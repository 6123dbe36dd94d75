//! `tcx`: containers judged from outside, and packet sockets on the host. Nothing here is attached to the agent's
//! cgroup: what holds is held by the second line alone.

use agentnet_common::verdict::Reason;
use agentnet_tests::{
    lab::{
        Lab,
        battery::Battery,
        client::is_answered,
        container::{Guard, Site, configure, ensure_all_ok, policy},
        hosts::sysctl,
        net::{AGENT_INTERFACE, Family},
        server::Transport,
    },
    probe::Request,
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// Everything the probe knows, with all privilege, and no program on the agent's cgroup.
#[rstest]
fn nothing_leaves_a_container(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    let coverage = guard.container()?;
    ensure!(coverage.guarded.len() == 1 && coverage.gaps.is_empty(), "{coverage:?}");
    // A process of the container that is not in the agent's cgroup is the agent's here as well.
    let victim = site.lab.outsider(None)?;
    let battery = Battery::new(family, true, victim.pid());
    let twins = ["tcp-send", "udp-sendto", "packet-send", "packet-bypass", "tun-forward"];
    let mut requests = battery.requests().to_vec();
    requests.extend(twins.map(|op| Request::new(op, family.allowed_endpoint())));
    let reports = guard.attempt(&guard.cgroup, &requests)?;
    site.lab.fence()?;
    let leaks = battery.leaks(&site.lab);
    ensure!(leaks.is_empty(), "{} packets leaked:\n{}", leaks.len(), leaks.join("\n"));
    let (_, twins) = reports.split_at(battery.requests().len());
    ensure_all_ok(twins)?;
    for request in &requests[battery.requests().len()..] {
        ensure!(site.lab.sniffer.carrying(request.args.secret()) > 0, "{} did not arrive", request.op);
    }
    site.lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    let problems = guard.problems()?;
    ensure!(problems.is_empty(), "{problems:?}");
    guard.release()
}

/// The same operations get through where nothing guards: what is refused elsewhere could have arrived.
#[rstest]
#[case(Family::V4, &["packet-send", "packet-bypass", "tun-forward", "link-vlan", "link-stacked-vlan",
    "link-ether-type", "link-length", "link-wrong-type", "link-arp", "link-arp-address", "raw-ip-in-ip"])]
#[case(Family::V6, &["packet-send", "packet-bypass", "tun-forward", "link-vlan", "link-stacked-vlan",
    "link-ether-type", "link-length", "link-wrong-type", "link-solicit", "link-advertise", "link-report",
    "raw-ip-in-ip"])]
fn what_is_refused_gets_through_unguarded(#[case] family: Family, #[case] ops: &[&str]) -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    let requests: Vec<_> = ops.iter().map(|op| Request::new(op, family.denied_endpoint())).collect();
    ensure_all_ok(&guard.attempt(&guard.cgroup, &requests)?)?;
    for request in &requests {
        ensure!(site.arrived(request)? > 0, "{} did not arrive", request.op);
    }
    // And with other markers not once it is guarded.
    guard.container()?;
    let mut again = requests;
    for request in &mut again {
        request.args.marker.push_str("-guarded");
    }
    guard.attempt(&guard.cgroup, &again)?;
    for request in &again {
        ensure!(site.arrived(request)? == 0, "{} arrived", request.op);
    }
    ensure_all_ok(&guard.attempt(&guard.cgroup, &[Request::new("udp-sendto", family.allowed_endpoint())])?)?;
    site.lab.fence()?;
    site.lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    for (reason, least) in [(Reason::NoRule, 3), (Reason::Family, 4), (Reason::Malformed, 1)] {
        let refused = guard.refused(reason)?;
        ensure!(refused >= least, "{reason:?}: {refused} refusals counted");
    }
    guard.release()
}

/// Neighbours are found and found again, in both families, also when they forget each other.
#[rstest]
fn a_link_works_while_it_is_guarded(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    guard.container()?;
    let requests = ["tcp-echo", "udp-echo"].map(|op| Request::new(op, family.allowed_endpoint()));
    for _ in 0..3 {
        ensure_all_ok(&guard.attempt(&guard.cgroup, &requests)?)?;
        for (namespace, device) in [(&site.lab.agent, AGENT_INTERFACE), (&site.lab.server, "server0")] {
            if !configure("a_link_works", namespace, &["ip", "neigh", "flush", "dev", device])? {
                return Ok(());
            }
        }
    }
    guard.release()
}

/// Frames of packet sockets on the host's interfaces, by an agent that lives there.
#[rstest]
fn packet_sockets_of_agents_on_the_host_are_refused(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] nested: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let mut guard = Guard::new(&lab.name, &lab.agent, &lab.agent, &policy())?;
    let interfaces = guard.host()?;
    ensure!(interfaces.len() >= 2, "not all interfaces: {interfaces:?}");
    let place = if nested { guard.cgroup.join("child") } else { guard.cgroup.clone() };
    std::fs::create_dir_all(&place)?;
    let requests = ["packet-send", "packet-dgram"].map(|op| Request::new(op, family.allowed_endpoint()));
    let mut outside = requests.clone();
    for request in &mut outside {
        request.args.marker.insert_str(1, "outside-");
    }
    guard.attempt(&place, &requests)?;
    // Who is not in the agent's cgroup is not the agent, and the agent's other sockets are not asked about.
    ensure_all_ok(&guard.attempt_outside(&outside)?)?;
    ensure_all_ok(&guard.attempt(&place, &[Request::new("udp-sendto", family.allowed_endpoint())])?)?;
    lab.fence()?;
    for request in &requests {
        ensure!(lab.sniffer.carrying(request.args.secret()) == 0, "{} left", request.op);
    }
    for request in &outside {
        ensure!(lab.sniffer.carrying(request.args.secret()) > 0, "{} did not leave", request.op);
    }
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Udp)?;
    ensure!(guard.refused(Reason::RawSocket)? >= 2, "refusals are not counted");
    ensure!(guard.problems()?.is_empty(), "{:?}", guard.problems()?);
    guard.release()
}

/// In audit mode everything passes and is counted.
#[test]
fn audit_lets_pass_and_tells() -> Result<()> {
    let family = Family::V4;
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy().audit())?;
    guard.container()?;
    let requests = ["packet-send", "link-vlan"].map(|op| Request::new(op, family.denied_endpoint()));
    ensure_all_ok(&guard.attempt(&guard.cgroup, &requests)?)?;
    for request in &requests {
        ensure!(site.arrived(request)? > 0, "{} did not arrive", request.op);
    }
    for reason in [Reason::NoRule, Reason::Family] {
        ensure!(guard.refused(reason)? > 0, "{reason:?} is not counted");
    }
    guard.release()
}

/// `[local] listen`, on packets: visitors are answered where the policy has it, and nothing else is opened.
#[rstest]
fn visitors_are_answered_as_the_policy_says(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values("deny", "loopback", "any")] listen: &'static str,
) -> Result<()> {
    const PORT: u16 = 8000;
    let site = Site::new()?;
    // The client comes from the address that is not allowed.
    sysctl_source(&site, family)?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy().listen(listen))?;
    guard.container()?;
    let serve = guard.serve((family.unspecified(), PORT).into())?;
    let own = (family.agent(), PORT).into();
    for transport in [Transport::Tcp, Transport::Udp] {
        let answered = is_answered(&site.lab.server, own, transport)?;
        ensure!(answered == (listen == "any"), "{transport:?}: answered {answered}");
    }
    // A visitor's other ports stay closed, also for packets that seem to go on with something.
    let visitor = (family.denied(), 9999).into();
    let requests = ["udp-sendto", "raw-tcp", "raw-udp", "tcp-connect"].map(|op| Request::new(op, visitor));
    guard.attempt(&guard.cgroup, &requests)?;
    site.lab.fence()?;
    ensure!(
        site.lab.sniffer.to(family.denied(), 9999).is_empty(),
        "something reached the visitor's other port"
    );
    if listen != "any" {
        site.lab.ensure_nothing_reached(family.denied())?;
        let refused = guard.refused(Reason::ListenDenied)? + guard.refused(Reason::Unsolicited)?;
        ensure!(refused >= 2, "{refused} refusals counted");
    }
    drop(serve);
    guard.release()
}

/// Has the servers' host speak from the denied address.
fn sysctl_source(site: &Site, family: Family) -> Result<()> {
    let to = format!("{}/{}", family.agent(), if family == Family::V4 { 32 } else { 128 });
    let from = family.denied().to_string();
    let words = ["ip", "route", "add", &to, "dev", "server0", "src", &from];
    ensure!(configure("source", &site.lab.server, &words)?, "the servers' host has no such route");
    site.lab.server.run(|| sysctl("net/ipv4/conf/all/rp_filter", "0"))
}
