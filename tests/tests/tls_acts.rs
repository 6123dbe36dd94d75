//! `tls_acts`: what becomes of TLS connections when something else than their hello decides: audits, grants, other policies.

use std::net::SocketAddr;

use agentnet::kernel::acts::Written;
use agentnet_common::{
    abi::{AgentCfg, CFG_GRANTS, Grant, MODE_AUDIT, MODE_ENFORCE},
    addr::{Addr, Endpoint, protocol},
    verdict::{DNS_PORT, Reason},
};
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        hello::{APPLICATION_DATA, Hello, record},
        net::{Family, TLS_PORT},
        policy::Policy,
        resolver::{A, Resolver, query},
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};

const FAMILY: Family = Family::V4;
const NAME: &str = "api.example.com";
/// Another one at its address.
const SHARED: &str = "two.example.com";
/// Nobody's.
const EVIL: &str = "key.evil.example";

fn resolver() -> SocketAddr {
    (FAMILY.allowed(), DNS_PORT).into()
}

fn server() -> SocketAddr {
    (FAMILY.named(1), TLS_PORT).into()
}

fn policy() -> Policy {
    Policy::standard().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[TLS_PORT])
}

fn zone(lab: &Lab) -> Result<Resolver> {
    let one = vec![FAMILY.named(1)];
    Resolver::of_zone(&lab.server, &[resolver()], &[(NAME, one.clone()), (SHARED, one)])
}

fn ask(name: &str) -> Step {
    Step::Ask { to: resolver(), message: query(7, name, A) }
}

fn say(message: &[u8]) -> Step {
    Step::Stream { to: server(), parts: vec![message.to_vec()], expect: message.len() }
}

fn line(message: &[u8]) -> Result<String> {
    Ok(String::from_utf8(message.to_vec())?)
}

fn hello(name: &str) -> Result<String> {
    line(&Hello::bare(name).record())
}

fn data(text: &str) -> Result<String> {
    line(&record(APPLICATION_DATA, text.as_bytes()))
}

fn arrives(lab: &Lab, text: &str) -> Result<()> {
    eventually(DEADLINE, text, || match lab.sniffer.carrying(text.as_bytes()) {
        0 => Err("it does not".to_owned()),
        _ => Ok(()),
    })
}

fn stays(lab: &Lab, text: &str) -> Result<()> {
    lab.fence()?;
    ensure!(lab.sniffer.carrying(text.as_bytes()) == 0, "{text} arrived");
    Ok(())
}

/// Turns the grant for the server on or off.
fn grant(watched: &mut Watched<'_>, on: bool) -> Result<()> {
    let endpoint = Endpoint::new(Addr::from(server().ip()), TLS_PORT, protocol::TCP);
    let with = Written {
        grants: [(endpoint, Grant { expiry: u64::MAX, act: 1, is_local: 0 })].into(),
        ..Written::default()
    };
    let (before, after) = if on { (Written::default(), with) } else { (with, Written::default()) };
    watched.kernel.write_acts(watched.cfg.agent, &before, &after)?;
    let flags = if on { watched.cfg.flags | CFG_GRANTS } else { watched.cfg.flags & !CFG_GRANTS };
    watched.configure(AgentCfg { flags, ..watched.cfg })
}

/// An audit holds nothing back, cuts nothing and tells what would have been refused.
#[test]
fn an_audit_only_tells() -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab)?;
    let mut watched = Watched::new(&lab, &policy().audit())?;
    let evil = Hello::to(EVIL).record();
    let parts = vec![evil[..3].to_vec(), evil[3..].to_vec(), b"anything".to_vec()];
    let came = watched.script(&[
        ask(NAME),
        say(&Hello::to(NAME).record()),
        say(&evil),
        Step::Stream { to: server(), parts, expect: evil.len() + 8 },
        say(b"abc"),
        say(&[Hello::to(NAME).record(), record(APPLICATION_DATA, b"1234")].concat()),
    ])?;
    ensure!(came.iter().all(Came::is_ok), "{came:?}");
    let denied = watched.counters()?.denied;
    ensure!(denied[Reason::TlsName as usize] == 2 && denied[Reason::TlsNot as usize] == 1, "{denied:?}");
    // One whose refusal was only told is refused when the audit ends, one that was right goes on.
    let mut talker = watched.start(&["talk", &server().to_string(), &server().to_string()])?;
    for (index, name) in [NAME, EVIL].into_iter().enumerate() {
        ensure!(talker.say(index, &hello(name)?)?.errno == 0);
        ensure!(talker.say(index, &data(&format!("AUDITED-{name}"))?)?.errno == 0);
        arrives(&lab, &format!("AUDITED-{name}"))?;
    }
    ensure!(watched.cfg.mode == MODE_AUDIT);
    watched.configure(AgentCfg { mode: MODE_ENFORCE, ..watched.cfg })?;
    talker.say(1, &data("ENFORCED-WRONG")?)?;
    ensure!(talker.say(0, &data("ENFORCED-RIGHT")?)?.errno == 0);
    arrives(&lab, "ENFORCED-RIGHT")?;
    stays(&lab, "ENFORCED-WRONG")
}

/// What was allowed by hand is an address, whatever is said to it, for as long as that is so.
#[test]
fn a_grant_is_for_an_address() -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab)?;
    let mut watched = Watched::new(&lab, &policy())?;
    let to = server().to_string();
    grant(&mut watched, true)?;
    // Before the name opens the address, and after.
    let mut early = watched.start(&["talk", &to])?;
    ensure!(early.say(0, "EARLY-PLAIN")?.errno == 0);
    arrives(&lab, "EARLY-PLAIN")?;
    ensure!(watched.script(&[ask(NAME)])?[0].is_ok());
    let mut late = watched.start(&["talk", &to, &to, &to])?;
    ensure!(late.say(0, &hello(EVIL)?)?.errno == 0 && late.say(0, "GRANTED-EVIL")?.errno == 0);
    ensure!(late.say(1, "GRANTED-PLAIN")?.errno == 0);
    ensure!(late.say(2, &hello(NAME)?)?.errno == 0 && late.say(2, &data("GRANTED-NAME")?)?.errno == 0);
    ensure!(early.say(0, "EARLY-AGAIN")?.errno == 0);
    for text in [EVIL, "GRANTED-EVIL", "GRANTED-PLAIN", "GRANTED-NAME", "EARLY-AGAIN"] {
        arrives(&lab, text)?;
    }
    grant(&mut watched, false)?;
    early.say(0, "ENDED-EARLY")?;
    late.say(0, "ENDED-EVIL")?;
    late.say(1, "ENDED-PLAIN")?;
    ensure!(late.say(2, &data("LIVES-ON")?)?.errno == 0);
    arrives(&lab, "LIVES-ON")?;
    stays(&lab, "ENDED-")
}

/// What has said its name is judged no more: it leaves the map of those that are, while it goes on.
#[test]
fn what_has_said_its_name_is_let_go() -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab)?;
    let watched = Watched::new(&lab, &policy())?;
    ensure!(watched.script(&[ask(NAME)])?[0].is_ok());
    let to = server().to_string();
    let mut talker = watched.start(&["talk", &to, &to])?;
    ensure!(watched.held()? == 2, "{}", watched.held()?);
    ensure!(talker.say(0, &hello(NAME)?)?.errno == 0 && talker.say(1, &hello(NAME)?)?.errno == 0);
    ensure!(talker.say(0, &data("ONE")?)?.errno == 0);
    eventually(DEADLINE, "one is let go", || match watched.held() {
        Ok(1) => Ok(()),
        held => Err(format!("{held:?}")),
    })?;
    ensure!(talker.say(0, "ANYTHING")?.errno == 0);
    arrives(&lab, "ANYTHING")?;
    // The other one is still held.
    ensure!(talker.say(1, "SECRET")?.errno == libc::EACCES);
    stays(&lab, "SECRET")
}

/// A connection is open by the name that it said, and by no other one at that address; one that never said any is not open by a name.
#[test]
fn another_policy_closes_what_it_does_not_allow() -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab)?;
    let both = policy().allow_name(SHARED, &[TLS_PORT]);
    let mut watched =
        Watched::new(&lab, &both.clone().allow(&FAMILY.named(1).to_string(), &[TLS_PORT], &["tcp"]))?;
    let to = server().to_string();
    ensure!(watched.script(&[ask(NAME), ask(SHARED)])?.iter().all(Came::is_ok));
    // By its address, whatever is said.
    let mut plain = watched.start(&["talk", &to])?;
    ensure!(plain.say(0, "PLAIN-FIRST")?.errno == 0);
    arrives(&lab, "PLAIN-FIRST")?;
    watched.reload(&both)?;
    let mut talker = watched.start(&["talk", &to, &to])?;
    for (index, name) in [NAME, SHARED].into_iter().enumerate() {
        ensure!(talker.say(index, &hello(name)?)?.errno == 0);
        ensure!(talker.say(index, &data(&format!("OPEN-{name}"))?)?.errno == 0);
        arrives(&lab, &format!("OPEN-{name}"))?;
    }
    plain.say(0, "CLOSED-PLAIN")?;
    watched.reload(&policy())?;
    talker.say(1, &data("CLOSED-SHARED")?)?;
    ensure!(talker.say(0, &data("STILL-OPEN-HERE")?)?.errno == 0);
    arrives(&lab, "STILL-OPEN-HERE")?;
    stays(&lab, "CLOSED-")
}
