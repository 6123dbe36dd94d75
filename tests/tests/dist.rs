//! What is installed beside the binary: that systemd takes it, and that the daemon can work as it says.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        child::finish,
        daemon::{READERS, Served},
        expect::{EPERM, Expected},
        found::Found,
        net::Family,
        policy::Policy,
    },
    probe::Request,
    skip,
};
use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// Tenths of systemd's points that the unit may have for what it could do without being hindered.
const EXPOSURE: &str = "38";

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name)
}

/// The value of a setting of the unit.
fn setting(name: &str) -> Result<String> {
    let unit = fs::read_to_string(dist("agentnet.service"))?;
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned).with_context(|| format!("no {name}"))
}

fn is_installed(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn systemd_takes_the_unit() -> Result<()> {
    const NAME: &str = "systemd_takes_the_unit";
    if !is_installed("systemd-analyze") {
        skip!(NAME, "systemd-analyze is not installed");
        return Ok(());
    }
    let dir = TempDir::new()?;
    let unit = dir.path().join("agentnet.service");
    // agentnet itself is not installed where it is tested.
    fs::write(
        &unit,
        fs::read_to_string(dist("agentnet.service"))?.replace("/usr/bin/agentnet", "/bin/true"),
    )?;
    for args in [&["verify", "--man=no"][..], &["security", "--offline=yes", "--threshold", EXPOSURE]] {
        let mut command = Command::new("systemd-analyze");
        command.args(args).arg(&unit);
        let finished = finish(command, None)?;
        let said = finished.stderr.contains("agentnet.service");
        ensure!(finished.status.success() && !said, "{args:?}: {finished:?}");
    }
    Ok(())
}

#[test]
fn directories_and_groups_are_made_as_they_should_be() -> Result<()> {
    const NAME: &str = "directories_and_groups_are_made_as_they_should_be";
    for tool in ["systemd-tmpfiles", "systemd-sysusers"] {
        if !is_installed(tool) {
            skip!(NAME, "systemd-tmpfiles or systemd-sysusers is not installed");
            return Ok(());
        }
    }
    let root = TempDir::new()?;
    fs::create_dir(root.path().join("etc"))?;
    fs::write(root.path().join("etc/group"), "root:x:0:\n")?;
    fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n")?;
    for (tool, args, file) in [
        ("systemd-tmpfiles", &["--create"][..], "agentnet.tmpfiles.conf"),
        ("systemd-sysusers", &[], "agentnet.sysusers.conf"),
    ] {
        // Names without a directory are looked for in the root.
        let copy = root.path().join(file);
        fs::copy(dist(file), &copy)?;
        let mut command = Command::new(tool);
        command.arg(format!("--root={}", root.path().display())).args(args).arg(&copy);
        let finished = finish(command, None)?;
        ensure!(finished.status.success(), "{tool}: {finished:?}");
    }
    for directory in ["run/agentnet", "var/lib/agentnet", "etc/agentnet/policies"] {
        ensure!(root.path().join(directory).is_dir(), "no {directory}");
    }
    let groups = fs::read_to_string(root.path().join("etc/group"))?;
    for group in ["agentnet", "agentnet-run"] {
        ensure!(groups.lines().any(|line| line.starts_with(&format!("{group}:"))), "no {group} in {groups}");
    }
    Ok(())
}

#[test]
fn what_the_daemon_needs_is_left_to_it() -> Result<()> {
    let unit = fs::read_to_string(dist("agentnet.service"))?;
    // They make pins, cgroups or other namespaces unreachable, or end agents with the daemon.
    for harmful in
        ["ProtectKernelTunables", "ProtectControlGroups", "PrivateNetwork", "PrivateUsers", "ProtectProc"]
    {
        ensure!(!unit.lines().any(|line| line.starts_with(harmful)), "{harmful}");
    }
    ensure!(setting("KillMode")? == "process" && setting("RuntimeDirectoryPreserve")? == "yes");
    Ok(())
}

/// With the capabilities of the unit and no more: governing, closing connections elsewhere, telling whose
/// executable it is, and giving what is written to its readers.
#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    const NAME: &str = "the_capabilities_of_the_unit_are_enough";
    if !is_installed("setpriv") {
        skip!(NAME, "setpriv is not installed");
        return Ok(());
    }
    let set = setting("CapabilityBoundingSet")?.to_lowercase();
    let set = set.split_whitespace().map(|cap| cap.replacen("cap_", ",+", 1)).collect::<String>();
    let Served { lab, daemon } = Served::new_under(&[
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        &format!("--bounding-set=-all{set}"),
    ])?;
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()?.as_raw_nonzero()))?;
    ensure!(!status.contains("CapEff:\t000001ff"), "it has all capabilities: {status}");
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    let (allowed, denied) = (Family::V4.allowed_endpoint(), Family::V4.denied_endpoint());
    let mut talker = found.start(&["talk", &allowed.to_string(), &denied.to_string()])?;
    ensure!(talker.say(0, "early")?.errno == 0 && talker.say(1, "early")?.errno == 0);
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    ensure!(talker.say(0, "LATE-ALLOWED")?.errno == 0, "an allowed connection was lost");
    let said = talker.say(1, "LATE-DENIED")?;
    ensure!(said.errno != 0 || said.broken, "a connection that the policy does not allow lives on: {said:?}");
    // One that stays: what it is can be told only while it lives.
    let suite = TempDir::new()?;
    let file = suite.path().join("suite.json");
    fs::write(&file, serde_json::to_vec(&[Request::new("tcp-connect", denied)])?)?;
    let _stays = found.start(&["stay", file.to_str().context("path")?])?;
    let alert = eventually(DEADLINE, "the alert is written", || {
        let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
        log.iter()
            .find(|line| line["evidence"]["hook"] == "connect" && line["kind"] != "flow")
            .cloned()
            .ok_or(format!("{log:#?}"))
    })?;
    ensure!(alert["process"]["exe"].is_string(), "{alert:#}");
    let gid = fs::metadata(daemon.directory("state").join("alerts").join(&found.name))?.gid();
    ensure!(gid == READERS, "what is written belongs to group {gid}");

    daemon.write_policy("lab", &Policy::closed().text())?;
    daemon.tell(&["reload"])?;
    found.expect(&Expected::new().case("tcp-connect", allowed, EPERM))?;
    daemon.tell(&["detach", &found.name])?;
    let log = daemon.log_of(&found.name)?;
    ensure!(log.iter().all(|line| line["kind"] != "visibility_lost"), "{log:#?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"LATE-DENIED") == 0, "denied bytes left");
    ensure!(lab.sniffer.carrying(b"LATE-ALLOWED") > 0, "allowed bytes did not");
    daemon.ensure_no_agents()
}
