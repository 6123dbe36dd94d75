//! A disk that is full: enforcement goes on, whoever uses agentnet is told, and the log goes on when there is room.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        expect::{EPERM, Expected, Said},
        mounts::{cover, with_own_mounts},
        net::Family,
        policy::Policy,
        residue::Residue,
        running::Running,
        server::Transport,
    },
};
use anyhow::{Result, ensure};
use serde_json::Value;

/// Where agentnet keeps what outlives it.
const STATE: &str = "/var/lib/agentnet";

/// Takes what room is left.
fn fill(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("filler");
    let mut file = File::create(&path)?;
    // Byte by byte at the end, so that no line fits.
    for size in [4096, 1] {
        loop {
            match file.write(&vec![b'.'; size]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(path)
}

/// Refusals on a port of their own, and what is allowed.
fn ensure_enforced(running: &Running<'_>, port: u16) -> Result<()> {
    let denied = Family::ALL.map(|family| SocketAddr::from((family.denied(), port)));
    let table = denied
        .into_iter()
        .fold(Expected::new(), |table, to| table.cases(&["tcp-connect", "udp-sendto"], to, EPERM))
        .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    running.expect(&table)
}

fn ensure_sealed(lab: &Lab) -> Result<()> {
    for family in Family::ALL {
        lab.ensure_nothing_reached(family.denied())?;
    }
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)
}

/// Whether one of these lines tells of a refusal at this endpoint. A line that the full disk cut off is none.
fn tells(text: &str, ip: IpAddr, port: u16) -> bool {
    let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.any(|line| {
        line["destination"]["ip"] == ip.to_string().as_str() && line["destination"]["port"] == port
    })
}

/// What is in a file, or in the segments of a directory.
fn read(place: &Path) -> io::Result<String> {
    if !place.is_dir() {
        return fs::read_to_string(place);
    }
    fs::read_dir(place)?.map(|entry| fs::read_to_string(entry?.path())).collect()
}

fn eventually_tells(place: &Path, port: u16) -> Result<()> {
    eventually(DEADLINE, &format!("port {port} is in {}", place.display()), || {
        let text = read(place).map_err(|error| error.to_string())?;
        if tells(&text, Family::V4.denied(), port) { Ok(()) } else { Err(text) }
    })
}

#[test]
fn a_log_on_a_full_disk_does_not_end_enforcement() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let residue = with_own_mounts(|| {
        cover(Path::new(STATE), c"size=64k")?;
        let running = agent.hold()?;
        let residue = Residue::of(&agent.name, &running)?;
        let log = Path::new(STATE).join("alerts").join(&agent.name);
        ensure_enforced(&running, 1111)?;
        eventually_tells(&log, 1111)?;

        let filler = fill(Path::new(STATE))?;
        ensure_enforced(&running, 2222)?;
        // The user's own file is on another disk: it has both the refusal and what became of the log.
        eventually_tells(&agent.alerts_file(), 2222)?;
        let told = eventually(DEADLINE, "the user is told", || {
            let lines = agent.log().map_err(|error| error.to_string())?;
            let told = lines.iter().find(|line| line["evidence"]["cause"] == "log_write").cloned();
            told.ok_or_else(|| format!("{lines:#?}"))
        })?;
        ensure!(told["kind"] == "visibility_lost" && told["severity"] == "high", "{told:#}");
        ensure!(told["reason"].as_str().is_some_and(|text| text.contains("enforcement goes on")), "{told:#}");
        ensure!(!tells(&read(&log)?, Family::V4.denied(), 2222), "there was room for it");

        fs::remove_file(filler)?;
        ensure_enforced(&running, 3333)?;
        eventually_tells(&log, 3333)?;
        let finished = running.finish()?;
        ensure!(finished.stderr.contains("Not written to the log: "), "{finished:?}");
        Ok(residue)
    })?;
    ensure_sealed(&lab)?;
    residue.ensure_gone()
}

/// The user's own file of alerts is written by the user's side of agentnet.
#[test]
fn alerts_on_a_full_disk_are_said_not_to_be_written() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with_own_mounts(|| {
        let disk = agent.policy_file().with_file_name("disk");
        fs::create_dir(&disk)?;
        cover(&disk, c"size=64k")?;
        let alerts = disk.join("alerts.jsonl");
        let mut command = agent.command_with_alerts(&alerts)?;
        command.arg(agentnet_tests::lab::child::probe_binary()?).arg("hold");
        let running = agent.start_command(command)?;
        ensure_enforced(&running, 1111)?;
        eventually_tells(&alerts, 1111)?;
        let filler = fill(&disk)?;
        ensure_enforced(&running, 2222)?;
        let log = Path::new(STATE).join("alerts").join(&agent.name);
        eventually_tells(&log, 2222)?;
        fs::remove_file(filler)?;
        ensure_enforced(&running, 3333)?;
        eventually_tells(&alerts, 3333)?;
        running.finish()
    })?;
    let said = "alerts.jsonl: no space left on device";
    ensure!(finished.stderr.to_lowercase().contains(said), "{finished:?}");
    ensure_sealed(&lab)?;
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn a_disk_that_is_full_from_the_start_does_not_keep_an_agent_from_its_policy() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with_own_mounts(|| {
        // The one file that fits is the root directory.
        cover(Path::new(STATE), c"nr_inodes=1")?;
        let running = agent.hold()?;
        ensure_enforced(&running, 1111)?;
        eventually_tells(&agent.alerts_file(), 1111)?;
        running.finish()
    })?;
    let said = format!(
        "agentnet: alerts cannot be written for now, which is tried again with each: {STATE}/alerts: No space left on \
         device (os error 28)\n"
    );
    ensure!(finished.stderr.contains(&said), "{said:?} is not in {finished:?}");
    ensure_sealed(&lab)?;
    Residue::named(&agent.name).ensure_gone()
}
