//! What the programs do alone, where no engine closes connections.

use std::{collections::BTreeMap, net::SocketAddr};

use agentnet::{kernel::acts::Written, policy::net::Net};
use agentnet_common::{
    abi::{AgentCfg, CFG_BLOCKS},
    user::{Cause, Record},
    verdict::{DNS_PORT, Reason},
};
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
        watched::Watched,
    },
    probe::script::Step,
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{ensure_arrived, ensure_open};

/// A block stops the next packet of a connection that is remembered as allowed, by a rule or by a name. What was held
/// back is still in the connection's queue, and leaves when the block is lifted: the same connection is the twin.
#[rstest]
fn a_block_stops_a_connection_that_stays_open(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] by_name: bool,
) -> Result<()> {
    const NAME: &str = "api.example.com";
    let lab = Lab::new()?;
    let resolver = SocketAddr::from((family.allowed(), DNS_PORT));
    let zone = [(NAME, vec![family.named(1), family.named(2)])];
    let _resolver = Resolver::of_zone(&lab.server, &[resolver], &zone)?;
    let policy = Policy::standard().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[ALLOWED_PORT]);
    let mut watched = Watched::new(&lab, &policy)?;
    let kind = if family == Family::V4 { A } else { AAAA };
    let came = watched.script(&[Step::Ask { to: resolver, message: query(9, NAME, kind) }])?;
    ensure!(came[0].is_ok(), "{came:?}");

    let ip = if by_name { family.named(1) } else { family.allowed() };
    let [lost, kept] = [ip, family.named(2)].map(|ip| SocketAddr::from((ip, ALLOWED_PORT)).to_string());
    let mut talker = watched.start(&["talk", &lost, &kept])?;
    ensure_open(&mut talker, 0, "BEFORE-0")?;
    ensure_open(&mut talker, 1, "BEFORE-1")?;
    ensure_arrived(&lab, &["BEFORE-0", "BEFORE-1"], &[])?;

    let nothing = Written::default();
    let blocked = Written { blocks: BTreeMap::from([(Net::host(ip), 0)]), grants: BTreeMap::new() };
    let free = watched.cfg;
    watched.kernel.write_acts(free.agent, &nothing, &blocked)?;
    watched.configure(AgentCfg { flags: free.flags | CFG_BLOCKS, ..free })?;
    // The kernel takes it, and no packet of it leaves.
    ensure_open(&mut talker, 0, "AFTER-0")?;
    ensure_open(&mut talker, 1, "AFTER-1")?;
    ensure_arrived(&lab, &["AFTER-1"], &["AFTER-0"])?;
    eventually(DEADLINE, "the refusal is reported", || {
        let records = watched.records().map_err(|error| error.to_string())?;
        let is_block = |record: &Record| matches!(record, Record::Verdict(told) if told.cause == Cause::Reason(Reason::Blocked));
        records.iter().any(is_block).then_some(()).ok_or_else(|| format!("{records:?}"))
    })?;

    watched.kernel.write_acts(free.agent, &blocked, &nothing)?;
    watched.configure(free)?;
    ensure_open(&mut talker, 0, "LIFTED-0")?;
    ensure_arrived(&lab, &["AFTER-0", "LIFTED-0"], &[])
}
