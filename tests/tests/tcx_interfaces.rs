//! `tcx`: interfaces that come, go and move, and what is said of those that cannot be guarded.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Command,
};

use agentnet::kernel::interfaces::{Blind, Event, Follow};
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        container::{Guard, Site, configure, policy},
        net::{AGENT_INTERFACE, BRIDGE, Family, WIRE_PORT, interface},
        netlink::Netlink,
        netns::Namespace,
    },
    probe::Request,
};
use anyhow::{Result, ensure};

/// A pair whose other end comes into the container later is guarded by following the host's interfaces.
#[test]
fn an_interface_that_comes_later_is_guarded() -> Result<()> {
    const SECOND: &str = "agent1";
    const SECOND_PORT: &str = "box1";
    let family = Family::V4;
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    let before = guard.container()?;
    let (host, inside) = (&site.host, &site.lab.agent);
    let index = host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut follow = Follow::open(None)?;
            let netlink = Netlink::open()?;
            netlink.add_veth((SECOND_PORT, [2, 0, 0, 0, 0, 8]), (SECOND, [2, 0, 0, 0, 0, 9]), inside.fd())?;
            netlink.enslave(SECOND_PORT, BRIDGE)?;
            netlink.up(SECOND_PORT)?;
            let index = interface(SECOND_PORT)?;
            loop {
                let event = follow.next().await?;
                let changed = guard.tcx.on_interface(&guard.kernel, &event);
                for (agent, coverage) in changed {
                    ensure!(agent == guard.name, "{agent} is nobody's");
                    if coverage?.guarded.contains(&index) {
                        return Ok(index);
                    }
                }
            }
        })
    })?;
    ensure!(guard.problems()?.is_empty(), "{:?}", guard.problems()?);
    // By that way out alone.
    for words in [
        &["ip", "link", "set", SECOND, "up"][..],
        &["ip", "address", "add", "198.18.0.9/32", "dev", SECOND],
        &["ip", "route", "add", "198.18.0.3/32", "dev", SECOND, "src", "198.18.0.9"],
        &["ip", "route", "add", "198.18.0.2/32", "dev", SECOND, "src", "198.18.0.9"],
    ] {
        if !configure("an_interface_that_comes_later", inside, words)? {
            return Ok(());
        }
    }
    let (bad, good) = (
        Request::new("udp-sendto", family.denied_endpoint()),
        Request::new("udp-sendto", family.allowed_endpoint()),
    );
    guard.attempt(&guard.cgroup, &[bad.clone(), good.clone()])?;
    ensure!(site.arrived(&good)? > 0, "the allowed twin did not arrive");
    ensure!(site.lab.sniffer.carrying(bad.args.secret()) == 0, "it left by the second interface");

    // And is let go of when it goes.
    host.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut follow = Follow::open(None)?;
            let mut remove = Command::new("ip");
            remove.args(["link", "delete", SECOND_PORT]);
            host.attach(&mut remove);
            ensure!(remove.status()?.success(), "the interface stays");
            loop {
                let event = follow.next().await?;
                guard.tcx.on_interface(&guard.kernel, &event);
                if event == (Event::Removed { index }) {
                    return Ok(());
                }
            }
        })
    })?;
    ensure!(guard.tcx.coverage(&guard.name) == Some(&before), "{:?}", guard.tcx.coverage(&guard.name));
    ensure!(guard.pinned().len() == 2, "{:?}", guard.pinned());
    guard.release()
}

/// What has no end on the host is said to have none.
#[test]
fn what_cannot_be_guarded_is_told() -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    site.host.run(|| Netlink::open()?.add_macvlan("moved0", WIRE_PORT, Some(site.lab.agent.fd()))).or_else(
        |_| site.host.run(|| Netlink::open()?.add_macvlan("moved0", BRIDGE, Some(site.lab.agent.fd()))),
    )?;
    let tun = configure("tun", &site.lab.agent, &["ip", "tuntap", "add", "dev", "tun7", "mode", "tun"])?;
    let coverage = guard.container()?;
    let why = |name: &str| coverage.gaps.iter().find(|gap| gap.interface == name).map(|gap| gap.why);
    ensure!(why("moved0") == Some(Blind::Elsewhere), "{coverage:?}");
    ensure!(!tun || why("tun7") == Some(Blind::Tun), "{coverage:?}");
    ensure!(coverage.guarded.len() == 1, "{coverage:?}");
    guard.release()
}

/// The agent takes its interface to a namespace of its own making: the end on the host stays what it is.
#[test]
fn an_interface_that_is_carried_off_stays_guarded() -> Result<()> {
    let family = Family::V4;
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    let before = guard.container()?;
    let hidden = Namespace::new()?;
    site.lab.agent.run(|| Netlink::open()?.move_to(AGENT_INTERFACE, hidden.fd()))?;
    site.host.run(|| {
        guard.tcx.on_interface(&guard.kernel, &Event::Missed);
        Ok(())
    })?;
    ensure!(guard.tcx.coverage(&guard.name) == Some(&before), "{:?}", guard.tcx.coverage(&guard.name));
    hidden.run(|| {
        let netlink = Netlink::open()?;
        netlink.up(AGENT_INTERFACE)?;
        netlink.add_address(AGENT_INTERFACE, family.agent(), 24)
    })?;
    let send =
        |to: SocketAddr, marker: &[u8]| hidden.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(marker, to)?));
    send(family.denied_endpoint(), b"carried off")?;
    send(family.allowed_endpoint(), b"carried on")?;
    eventually(DEADLINE, "the allowed twin arrives", || match site.lab.sniffer.carrying(b"carried on") {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    })?;
    ensure!(site.lab.sniffer.carrying(b"carried off") == 0, "it left by the interface it carried off");
    guard.release()
}

/// Links that are taken away from under it are missed.
#[test]
fn a_missing_link_is_a_problem() -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    guard.container()?;
    ensure!(guard.problems()?.is_empty(), "{:?}", guard.problems()?);
    let pins = guard.pinned();
    ensure!(pins.len() == 2, "{pins:?}");
    std::fs::remove_file(&pins[0])?;
    let problems = guard.problems()?;
    ensure!(problems.len() == 1 && problems[0].contains("not attached"), "{problems:?}");
    // Guarding again mends it.
    guard.container()?;
    ensure!(guard.problems()?.is_empty(), "{:?}", guard.problems()?);
    guard.release()
}
