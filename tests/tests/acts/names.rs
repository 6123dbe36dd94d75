//! Acts by hand and addresses that names have opened.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::Served,
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
        server::Transport,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{attach, ensure_arrived, ensure_closed, ensure_open};

const NAME: &str = "api.example.com";

fn resolver(family: Family) -> SocketAddr {
    SocketAddr::from((family.allowed(), DNS_PORT))
}

fn named(family: Family, number: u16) -> SocketAddr {
    SocketAddr::from((family.named(number), ALLOWED_PORT))
}

fn policy() -> Policy {
    Policy::closed().allow_hosts(&[DNS_PORT], &["udp", "tcp"]).allow_name(NAME, &[ALLOWED_PORT])
}

fn ask(family: Family) -> Step {
    let kind = if family == Family::V4 { A } else { AAAA };
    Step::Ask { to: resolver(family), message: query(9, NAME, kind) }
}

fn connect(family: Family, number: u16) -> Step {
    Step::Connect { to: named(family, number), text: format!("<{number}>") }
}

fn refused(came: &Came) -> bool {
    came.errno == libc::EPERM
}

/// One address of a name is blocked: its connection is closed and no other. Those that a name has opened outlive acts
/// and policies as long as the name is allowed.
#[rstest]
fn what_a_name_has_opened_is_blocked_by_address(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let zone = [(NAME, vec![family.named(1), family.named(2)])];
    let _resolver = Resolver::of_zone(&lab.server, &[resolver(family)], &zone)?;
    daemon.write_policy("lab", &policy().text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let came = found.script(&[ask(family), connect(family, 1), connect(family, 2)])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");

    let (lost, kept) = (named(family, 1).to_string(), named(family, 2).to_string());
    // The last has not carried anything when it is looked at.
    let mut talker = found.start(&["talk", &lost, &kept, &kept])?;
    ensure_open(&mut talker, 0, "BEFORE-0")?;
    ensure_open(&mut talker, 1, "BEFORE-1")?;
    ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1"], &[])?;
    // Of the script and the talker; the server may count a moment after it has answered.
    let bytes = "<1>BEFORE-0".len();
    let tally = || lab.servers.tally(named(family, 1), Transport::Tcp).bytes;
    eventually(
        DEADLINE,
        "all is counted",
        || if tally() == bytes { Ok(()) } else { Err(tally().to_string()) },
    )?;
    let blocked = family.named(1).to_string();
    let done = daemon.tell(&["block", &blocked, "--agent", &found.name])?;
    ensure!(done.stdout.contains("1 connection"), "{done:?}");
    ensure_closed(&mut talker, 0, "AFTER-0")?;
    ensure_open(&mut talker, 1, "AFTER-1")?;
    ensure_open(&mut talker, 2, "AFTER-2")?;
    // An answer opens nothing that is blocked.
    let came = found.script(&[ask(family), connect(family, 1), connect(family, 2)])?;
    ensure!(came[0].is_ok() && refused(&came[1]) && came[2].is_ok(), "{came:?}");
    ensure_arrived(&lab, &["AFTER-1", "AFTER-2"], &["AFTER-0"])?;
    ensure!(tally() == bytes, "bytes after the block");

    daemon.write_policy("lab", &policy().allow_name("other.example.com", &[ALLOWED_PORT]).text())?;
    daemon.tell(&["reload"])?;
    ensure_open(&mut talker, 1, "RELOADED-1")?;
    ensure_open(&mut talker, 2, "RELOADED-2")?;
    ensure_arrived(&lab, &["RELOADED-1", "RELOADED-2"], &[])?;
    daemon.tell(&["unblock", &blocked, "--agent", &found.name])?;
    let came = found.script(&[connect(family, 1)])?;
    ensure!(came[0].is_ok(), "{came:?}");

    // The twin: without the name, nothing of it stays.
    daemon.write_policy("lab", &Policy::closed().text())?;
    daemon.tell(&["reload"])?;
    ensure_closed(&mut talker, 1, "CLOSED-1")?;
    ensure_closed(&mut talker, 2, "CLOSED-2")?;
    ensure_arrived(&lab, &[], &["CLOSED-1", "CLOSED-2"])?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A resolver that is blocked is not asked, also under an audit, and answers again when it is not.
#[rstest]
fn a_blocked_resolver_is_not_asked(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] audit: bool,
) -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    let zone = [(NAME, vec![family.named(1)])];
    let server = Resolver::of_zone(&lab.server, &[resolver(family)], &zone)?;
    let policy = if audit { policy().audit() } else { policy() };
    daemon.write_policy("lab", &policy.text())?;
    let found = Found::new(&lab)?;
    attach(&daemon, &found)?;
    let Step::Ask { to, message } = ask(family) else { anyhow::bail!("another step") };
    let length = u16::try_from(message.len())?.to_be_bytes();
    let stream = Step::Stream { to, parts: vec![[&length[..], &message].concat()], expect: 2 };
    let steps = [ask(family), stream];
    let came = found.script(&steps)?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    let asked = server.asked().len();
    ensure!(asked == steps.len(), "{asked}");

    let blocked = family.allowed().to_string();
    daemon.tell(&["block", &blocked, "--agent", &found.name])?;
    let came = found.script(&steps)?;
    ensure!(came.iter().all(refused), "{came:?}");
    ensure!(server.asked().len() == asked, "{:?}", server.asked());
    daemon.tell(&["unblock", &blocked, "--agent", &found.name])?;
    let came = found.script(&steps)?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    ensure!(server.asked().len() == 2 * asked, "{:?}", server.asked());
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
