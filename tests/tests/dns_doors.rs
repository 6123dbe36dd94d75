//! `dns_doors`: names are asked for at the resolver's port 53 and nowhere else: not over TLS or QUIC, not of the neighbours, not
//! of another resolver, not even a name that is allowed.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use agentnet_common::verdict::{DNS_PORT, Reason};
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        net::{self, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query, wire_name},
        watched::{Watched, script_ungoverned},
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// Where names can be asked for besides.
fn doors(family: Family, interface: u32) -> Vec<(&'static str, bool, SocketAddr)> {
    let (resolver, other) = (family.allowed(), family.denied());
    let group = |v4: [u8; 4], v6: Ipv6Addr, port| match family {
        Family::V4 => SocketAddr::from((v4, port)),
        Family::V6 => SocketAddrV6::new(v6, port, 0, interface).into(),
    };
    let mdns = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
    let llmnr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 3);
    vec![
        ("DNS over TLS at the resolver", true, (resolver, 853).into()),
        ("DNS over TLS elsewhere", true, (other, 853).into()),
        ("DNS over QUIC at the resolver", false, (resolver, 853).into()),
        ("DNS over QUIC elsewhere", false, (other, 853).into()),
        ("DNS over QUIC, its first port", false, (resolver, 784).into()),
        ("DNS over HTTPS at the resolver", true, (resolver, 443).into()),
        ("DNS over HTTP/3 at the resolver", false, (resolver, 443).into()),
        ("multicast DNS", false, group([224, 0, 0, 251], mdns, 5353)),
        ("multicast DNS at port 53", false, group([224, 0, 0, 251], mdns, DNS_PORT)),
        ("multicast DNS, one neighbour", false, (other, 5353).into()),
        ("multicast DNS, the resolver", false, (resolver, 5353).into()),
        ("LLMNR", false, group([224, 0, 0, 252], llmnr, 5355)),
        ("LLMNR, one neighbour", false, (other, 5355).into()),
        ("LLMNR, one neighbour, by TCP", true, (other, 5355).into()),
        ("NetBIOS", false, (other, 137).into()),
        ("another resolver", false, (other, DNS_PORT).into()),
        ("another resolver, by TCP", true, (other, DNS_PORT).into()),
        ("another port of the resolver", false, (resolver, 5300).into()),
        ("another port of the resolver, by TCP", true, (resolver, 5300).into()),
        ("a port of DNSCrypt", false, (resolver, 5443).into()),
    ]
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn name(number: usize) -> String {
    format!("door-{number}.good.example")
}

#[rstest]
fn names_are_asked_for_at_one_door(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] connected: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let interface = lab.agent.run(|| Ok(net::agent_interface()?))?;
    let at = SocketAddr::from((family.allowed(), DNS_PORT));
    let resolver = Resolver::of_zone(&lab.server, &[at], &[])?;
    let doors = doors(family, interface);
    let steps: Vec<Step> = doors
        .iter()
        .enumerate()
        .map(|(number, &(_, tcp, to))| {
            let message = query(1, &name(number), kind(family));
            match (tcp, connected) {
                (true, _) => Step::Touch { to },
                (false, false) => Step::Tell { to, message },
                (false, true) => Step::TellConnected { to, message },
            }
        })
        .collect();
    let sent = |number: usize| {
        let (_, tcp, to) = doors[number];
        let wire = wire_name(&name(number));
        if tcp { lab.sniffer.to(to.ip(), to.port()).len() } else { lab.sniffer.carrying(&wire) }
    };

    let watched =
        Watched::new(&lab, &Policy::closed().allow_name("*.good.example", &[443]).resolver(at.ip()))?;
    let came = watched.script(&steps)?;
    let twin =
        watched.script(&[Step::Ask { to: at, message: query(2, "twin.good.example", kind(family)) }])?;
    ensure!(twin[0].is_ok(), "the twin: {twin:?}");
    lab.fence()?;
    for (number, ((door, _, to), came)) in doors.iter().zip(&came).enumerate() {
        ensure!(came.errno == libc::EPERM, "{door}, {to}: {came:?}");
        ensure!(sent(number) == 0, "{door}, {to}: it left");
    }
    ensure!(resolver.asked_for(b"door-") == 0 && resolver.asked_for(b"twin") == 1, "{:?}", resolver.asked());
    let counters = watched.counters()?;
    let told = counters.denied[Reason::NoRule as usize] + counters.denied[Reason::SpecialNetwork as usize];
    ensure!(told == u64::try_from(doors.len())?, "{told} of {} counted: {:?}", doors.len(), counters.denied);
    drop(watched);

    // Nothing but the policy is in the way.
    let came = script_ungoverned(&lab, &steps)?;
    for (number, ((door, _, to), came)) in doors.iter().zip(&came).enumerate() {
        // A port where nobody listens.
        ensure!(came.is_ok() || came.errno == libc::ECONNREFUSED, "{door}, {to}: {came:?}");
        eventually(DEADLINE, &format!("{door}, {to}: it leaves"), || {
            if sent(number) > 0 { Ok(()) } else { Err("nothing".to_owned()) }
        })?;
    }
    Ok(())
}

/// Whatever is at a door that a rule names is used: it is the rule's.
#[rstest]
fn a_door_that_a_rule_names_is_open(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let to = SocketAddr::from((family.denied(), 853));
    let policy = Policy::closed().allow(&to.ip().to_string(), &[853], &["tcp", "udp"]);
    let watched = Watched::new(&lab, &policy)?;
    let message = query(1, &name(99), kind(family));
    let other = SocketAddr::from((to.ip(), 5353));
    let came = watched.script(&[
        Step::Touch { to },
        Step::Tell { to, message: message.clone() },
        Step::Tell { to: other, message },
    ])?;
    let ok: Vec<bool> = came.iter().map(Came::is_ok).collect();
    ensure!(ok == [true, true, false], "{came:?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(&wire_name(&name(99))) == 1, "it left once");
    ensure!(lab.sniffer.to(to.ip(), 5353).is_empty(), "the other door");
    Ok(())
}
