//! What is installed beside the binary: that systemd takes it, and that the daemon can work as it says.

use std::{
    fs,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        child::{finish, probe_binary},
        daemon::{READERS, Served},
        expect::{EPERM, Expected},
        found::Found,
        net::Family,
        policy::Policy,
        unit,
    },
    probe::Request,
    skip,
};
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Signal, kill_process};
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

/// A service manager is told when the daemon serves, that it goes round, of a reload, and when it stops.
#[test]
fn a_service_manager_is_told_how_the_daemon_is() -> Result<()> {
    let dir = TempDir::new()?;
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(DEADLINE))?;
    let place = format!("NOTIFY_SOCKET={}", path.display());
    let Served { lab: _lab, mut daemon } = Served::new_under(&["env", &place, "WATCHDOG_USEC=400000"])?;
    // Messages come in the order in which they were sent, heartbeats between them.
    let told = |wanted: &str| -> Result<usize> {
        let mut beats = 0;
        loop {
            let mut message = [0; 512];
            let length = manager.recv(&mut message).with_context(|| format!("{wanted} is not told"))?;
            let text = String::from_utf8_lossy(message.get(..length).unwrap_or_default()).into_owned();
            if text.contains(wanted) {
                return Ok(beats);
            }
            ensure!(text.contains("WATCHDOG=1") || text.starts_with("STATUS="), "{text:?} before {wanted}");
            beats += 1;
        }
    };
    ensure!(told("READY=1")? == 0, "something is told before it is ready");
    for _ in 0..3 {
        told("WATCHDOG=1")?;
    }
    kill_process(daemon.pid()?, Signal::HUP)?;
    told("RELOADING=1")?;
    told("READY=1")?;
    told("WATCHDOG=1")?;
    ensure!(daemon.end(Signal::TERM)?.success());
    told("STOPPING=1")?;
    Ok(())
}

/// In the sandbox of the unit, which this makes without systemd: governing, closing connections elsewhere, telling whose
/// executable it is, giving what is written to its readers, and taking over.
#[test]
fn the_sandbox_of_the_unit_leaves_it_what_it_needs() -> Result<()> {
    const NAME: &str = "the_sandbox_of_the_unit_leaves_it_what_it_needs";
    if !is_installed("systemd-analyze") || !Path::new(unit::NUMBERS).exists() {
        skip!(NAME, "systemd-analyze or the kernel's headers are not installed");
        return Ok(());
    }
    let (probe, file) = (probe_binary()?, dist("agentnet.service").canonicalize()?);
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let Served { lab, mut daemon } = Served::new_under(&[&text(&probe)?, "unit", &text(&file)?])?;
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()?.as_raw_nonzero()))?;
    ensure!(!status.contains("CapEff:\t000001ff"), "it has all capabilities: {status}");
    ensure!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"), "{status}");
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
    daemon.kill()?;
    daemon.start()?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced" && status["engine"]["notes"] == serde_json::json!([]), "{status}");
    daemon.tell(&["detach", &found.name])?;
    let log = daemon.log_of(&found.name)?;
    ensure!(log.iter().all(|line| line["kind"] != "visibility_lost"), "{log:#?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"LATE-DENIED") == 0, "denied bytes left");
    ensure!(lab.sniffer.carrying(b"LATE-ALLOWED") > 0, "allowed bytes did not");
    daemon.ensure_no_agents()
}
