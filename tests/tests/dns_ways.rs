//! `dns_ways`: every way to hand a resolver a message. Without agentnet each gets through; under a policy none does with a name
//! that is not allowed, and those of ordinary clients do with one that is.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        net::Family,
        policy::Policy,
        resolver::{A, AAAA, Resolver, query, wire_name},
        watched::{Watched, script_ungoverned},
    },
    probe::{
        dns::Attack,
        script::{Came, Step},
        ways::{Flip, Way},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// What comes of an allowed name by a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Allowed {
    /// It gets there.
    Passes,
    /// Nothing does, whatever the name: bytes could change, or were never judged.
    Refused,
}
use Allowed::{Passes, Refused};

const WAYS: &[(Way, Allowed)] = &[
    (Way::UdpSend, Passes),
    (Way::UdpConnected, Passes),
    (Way::UdpMapped, Passes),
    (Way::UdpConnectedMapped, Passes),
    (Way::UdpScattered, Passes),
    (Way::UdpBatch, Passes),
    (Way::UdpPastPeer, Passes),
    (Way::UdpReconnected, Passes),
    (Way::UdpCorkedElsewhere, Passes),
    (Way::UdpMore, Refused),
    (Way::UdpCork, Refused),
    (Way::UdpSegments, Refused),
    (Way::UdpZeroCopy, Passes),
    (Way::UdpSplice, Refused),
    (Way::UdpSendfile, Refused),
    (Way::UdpReusePort, Passes),
    (Way::UdpDuplicate, Passes),
    (Way::UdpInherited, Passes),
    (Way::UdpNested, Passes),
    (Way::UdpNestedInherited, Passes),
    (Way::UdpRing, Passes),
    (Way::UdpRingZeroCopy, Refused),
    (Way::UdpPortZero, Passes),
    (Way::TcpSend, Passes),
    (Way::TcpMapped, Passes),
    (Way::TcpBytes, Passes),
    (Way::TcpMore, Passes),
    (Way::TcpZeroCopy, Passes),
    (Way::TcpSplice, Passes),
    (Way::TcpSendfile, Passes),
    (Way::TcpUrgent, Refused),
    (Way::TcpFastOpen, Refused),
    (Way::TcpFastOpenConnect, Refused),
    (Way::TcpEarly, Passes),
    (Way::TcpBehind, Passes),
    (Way::TcpReconnected, Passes),
    (Way::TcpAskedReconnected, Passes),
    (Way::TcpListener, Passes),
    (Way::TcpInherited, Passes),
    (Way::TcpNestedInherited, Passes),
    (Way::TcpNested, Passes),
    (Way::TcpRing, Passes),
    (Way::TcpMultipath, Refused),
];

/// The ways that a family has, numbered.
fn ways(family: Family) -> impl Iterator<Item = (usize, &'static (Way, Allowed))> {
    // What is corked for one peer goes to the next one over IPv4 alone: connect() overwrites its destination.
    WAYS.iter()
        .enumerate()
        .filter(move |(_, (way, _))| family == Family::V4 || *way != Way::UdpCorkedElsewhere)
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

/// A way's own name, of the allowed kind or of the other; both are of the same length.
fn name(index: usize, allowed: bool) -> String {
    let zone = if allowed { "good" } else { "evil" };
    format!("w{index:02}.{zone}.example")
}

fn resolver(lab: &Lab, family: Family) -> Result<(Resolver, SocketAddr)> {
    let at = SocketAddr::from((family.allowed(), DNS_PORT));
    Ok((Resolver::of_zone(&lab.server, &[at], &[])?, at))
}

fn policy(family: Family) -> Policy {
    Policy::standard().allow_name("*.good.example", &[443]).resolver(family.allowed())
}

fn step(way: Way, index: usize, family: Family, allowed: bool) -> Step {
    Step::Attack(Attack::By {
        way,
        to: (family.allowed(), DNS_PORT).into(),
        via: family.allowed_endpoint(),
        good: query(1, "company.good.example", kind(family)),
        message: query(2, &name(index, allowed), kind(family)),
    })
}

/// TCP in its opening segment, with these bytes in it.
fn is_fast_open(bytes: &[u8], name: &[u8]) -> bool {
    const SYN: u8 = 2;
    let transport = match bytes.first().map(|byte| byte >> 4) {
        Some(4) if bytes.get(9) == Some(&6) => 20,
        Some(6) if bytes.get(6) == Some(&6) => 40,
        _ => return false,
    };
    bytes.get(transport + 13).is_some_and(|flags| flags & SYN != 0)
        && bytes.windows(name.len()).any(|part| part == name)
}

#[rstest]
fn only_allowed_names_get_to_a_resolver(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let (resolver, _) = resolver(&lab, family)?;
    let ways = || ways(family);

    // Without agentnet each way gets through.
    let steps: Vec<Step> = ways().map(|(index, &(way, _))| step(way, index, family, false)).collect();
    let came = script_ungoverned(&lab, &steps)?;
    for ((index, (way, _)), came) in ways().zip(&came) {
        let arrived = || match resolver.asked_for(&wire_name(&name(index, false))) {
            0 => Err(format!("{came:?}")),
            _ => Ok(()),
        };
        eventually(DEADLINE, &format!("{way:?} gets through by itself"), arrived)?;
        if matches!(way, Way::TcpFastOpen | Way::TcpFastOpenConnect) {
            let wire = wire_name(&name(index, false));
            let early = lab.sniffer.packets(|packet| is_fast_open(&packet.bytes, &wire));
            ensure!(!early.is_empty(), "{way:?} sent nothing in the SYN, which proves nothing");
        }
    }
    drop(resolver);

    let (resolver, to) = self::resolver(&lab, family)?;
    let watched = Watched::new(&lab, &policy(family))?;
    let denied = watched.script(&steps)?;
    let steps: Vec<Step> = ways().map(|(index, &(way, _))| step(way, index, family, true)).collect();
    let allowed = watched.script(&steps)?;
    let twin = watched.script(&[Step::Ask { to, message: query(3, "twin.good.example", kind(family)) }])?;
    ensure!(twin[0].is_ok(), "the twin: {twin:?}");
    // What is held back by TCP alone may still be repeated: the fence of the last answer is behind all that was let out.
    let leaked: Vec<Vec<u8>> = resolver
        .asked()
        .into_iter()
        .filter(|message| !message.windows(5).any(|part| part == b"\x04good"))
        .collect();
    ensure!(leaked.is_empty(), "{leaked:?}");
    ensure!(resolver.asked_for(b"\x04evil") == 0, "{:?}", resolver.asked());
    let mut wrong = Vec::new();
    for (((index, (way, expected)), allowed), denied) in ways().zip(&allowed).zip(&denied) {
        let arrived = resolver.asked_for(&wire_name(&name(index, true))) > 0;
        if arrived != (*expected == Passes) {
            wrong.push(format!("{way:?} ({expected:?}): {allowed:?}, and with the other name {denied:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(denied.len() == ways().count() && allowed.len() == denied.len(), "{denied:?}");
    Ok(())
}

/// How often a change between two looks is tried for at most where nothing forbids it.
const MOST_TRIES: usize = 50;

/// What changes while it is sent is judged and sent in one form.
#[rstest]
fn bytes_that_change_are_sent_as_they_were_judged(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let (free, to) = resolver(&lab, family)?;
    let forms = |index: usize| {
        let form = |allowed| query(5, &name(index, allowed), kind(family));
        (form(true), form(false))
    };
    let steps = |rounds: usize| -> Vec<Step> {
        Flip::ALL
            .iter()
            .enumerate()
            .map(|(index, &flip)| {
                // A connection is made for each message.
                let rounds = if format!("{flip:?}").starts_with("Udp") { 4 * rounds } else { rounds };
                Step::Attack(Attack::Flipped { flip, to, forms: forms(index), rounds })
            })
            .collect()
    };
    let came = script_ungoverned(&lab, &steps(100))?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    for (index, flip) in Flip::ALL.iter().enumerate() {
        let seen = |allowed| free.asked_for(&wire_name(&name(index, allowed)));
        let both = || {
            if seen(true) > 0 && seen(false) > 0 {
                Ok(())
            } else {
                Err(format!("{} {}", seen(true), seen(false)))
            }
        };
        // When bytes change is a matter of luck, and the busier the processors are the less of it there is.
        for _ in 0..MOST_TRIES {
            if both().is_ok() {
                break;
            }
            script_ungoverned(&lab, &steps(100)[index..=index])?;
        }
        eventually(DEADLINE, &format!("{flip:?} sends both forms by itself"), both)?;
    }
    drop(free);

    let (resolver, to) = resolver(&lab, family)?;
    let watched = Watched::new(&lab, &policy(family))?;
    let came = watched.script(&steps(400))?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    let twin = watched.script(&[Step::Ask { to, message: query(3, "twin.good.example", kind(family)) }])?;
    ensure!(twin[0].is_ok(), "the twin: {twin:?}");
    let asked = resolver.asked();
    let good: Vec<Vec<u8>> = (0..Flip::ALL.len()).map(|index| forms(index).0).collect();
    let other: Vec<&Vec<u8>> = asked
        .iter()
        .filter(|message| !good.contains(message) && !message.windows(5).any(|part| part == b"\x04twin"))
        .collect();
    ensure!(
        other.is_empty(),
        "{} of {} are none that may leave: {:?}",
        other.len(),
        asked.len(),
        other.first()
    );
    for (flip, form) in Flip::ALL.iter().zip(&good) {
        let arrived = asked.iter().filter(|message| *message == form).count();
        // Pages of files and of the process are refused over UDP, whatever is in them.
        let copied = !matches!(flip, Flip::UdpSendfile | Flip::UdpRing);
        ensure!((arrived > 0) == copied, "{flip:?}: {arrived} arrived");
    }
    Ok(())
}
