//! What is kept of what agents did: who may read it, and what a full disk changes.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        account::{self, Account, Lender, UID, installed},
        agent::{Agent, NOBODY, STORE, STRANGER},
        child::{agentnet, agentnet_binary, finish, probe_binary, wait},
        net::Family,
        policy::Policy,
        residue::Residue,
        server::Transport,
        stored::stored,
    },
    probe::Request,
    skip,
};
use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{Gid, Uid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde_json::Value;

#[test]
fn alerts_and_flows_are_shown_to_those_who_may_see_them() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let (denied, allowed) = (Family::V4.denied_endpoint(), Family::V4.allowed_endpoint());
    agent.attempt(&[Request::new("tcp-connect", denied), Request::new("tcp-send", allowed)])?;
    lab.ensure_bytes(allowed, Transport::Tcp)?;
    lab.ensure_nothing_reached(denied.ip())?;

    for (stream, endpoint, word) in [("alerts", denied, "✗ blocked"), ("flows", allowed, "✓ allowed")] {
        let (lines, files) = stored(Path::new(STORE), stream, &agent.name)?;
        for file in &files {
            let mode = fs::metadata(file)?.permissions().mode() & 0o7777;
            ensure!(mode == 0o640, "{} has mode {mode:o}", file.display());
        }
        let about = |line: &String| line.contains(&format!("\"ip\":\"{}\"", endpoint.ip()));
        ensure!(lines.iter().any(about), "nothing about {endpoint} in {lines:#?}");
        let shown = agentnet(None, &[stream, "--json", "--agent", &agent.name])?.clean_lines()?;
        ensure!(shown == lines, "shown are {shown:#?}\nstored are {lines:#?}");
        let text = agentnet(None, &[stream, "--agent", &agent.name, "--since", "1h"])?.clean_lines()?;
        let line = text.iter().find(|line| line.contains(&endpoint.to_string()));
        let line = line.with_context(|| format!("nothing about {endpoint} in {text:#?}"))?;
        ensure!(line.contains(word) && !line.contains('\u{1b}'), "{line:?}");
        let nothing = agentnet(None, &[stream, "--agent", &agent.name, "--since", "2100-01-01"])?;
        ensure!(nothing.status.success() && nothing.stdout.is_empty(), "{nothing:?}");
        ensure!(nothing.stderr.contains(&format!("no {stream} of that kind")), "{nothing:?}");

        let refused = agentnet(Some(STRANGER), &[stream, "--agent", &agent.name])?;
        ensure!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
        let sentence = format!(
            "agentnet: the {stream} of agent {} are not shown; only root and the user who started it may read \
             them: use sudo\n",
            agent.name
        );
        ensure!(refused.stderr == sentence, "{refused:?}");
    }
    let high = agentnet(None, &["alerts", "--json", "--agent", &agent.name, "--min-severity", "medium"])?
        .clean_lines()?;
    ensure!(!high.is_empty() && high.iter().all(|line| !line.contains("\"severity\":\"info\"")), "{high:#?}");
    Residue::named(&agent.name).ensure_gone()
}

/// By sudo that asks nothing, so that it is the user's own agent and not root's.
#[test]
fn the_user_who_started_an_agent_may_read_about_it() -> Result<()> {
    const NAME: &str = "the_user_who_started_an_agent_may_read_about_it";
    let Some(sudo) = installed(Lender::Sudo) else {
        skip!(NAME, "sudo is not installed: `cargo xtask test` installs it");
        return Ok(());
    };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let rules = format!("{} ALL=(root) NOPASSWD: {}\n", account::NAME, agentnet_binary()?.display());
    let account = Account::new(Some(&sudo), &rules, "")?;
    agent.give_to(UID)?;
    let mut command = agent.command()?;
    account.starts(&mut command)?;
    command.arg(probe_binary()?).arg("suite");
    command.arg(agent.suite(&[Request::new("tcp-connect", Family::V4.denied_endpoint())])?);
    let finished = finish(command, None)?;
    ensure!(finished.status.success(), "{finished:?}");

    let (lines, files) = stored(Path::new(STORE), "alerts", &agent.name)?;
    let args = ["alerts", "--json", "--agent", &agent.name];
    let shown = agentnet(Some(UID), &args)?.clean_lines()?;
    ensure!(shown == lines && shown.len() > 1, "shown are {shown:#?}\nstored are {lines:#?}");
    ensure!(agentnet(Some(NOBODY), &args)?.stdout.is_empty(), "a stranger reads as well");
    // The agent runs as that user: it must not edit what is said about it.
    for path in files.iter().map(PathBuf::as_path).chain(files.first().and_then(|file| file.parent())) {
        let written = as_user(UID, || fs::OpenOptions::new().append(true).open(path).map(drop))?;
        ensure!(written.is_err(), "{} can be written", path.display());
        let removed = as_user(UID, || fs::rename(path, path.with_extension("gone")))?;
        ensure!(removed.is_err(), "{} can be removed", path.display());
    }
    Residue::named(&agent.name).ensure_gone()
}

/// Does something with the file access rights of a user, in a thread of its own.
fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
            anyhow::Ok(act())
        });
        acting.join().map_err(|_| anyhow::anyhow!("the thread failed"))?
    })
}

#[test]
fn a_full_disk_is_told_stops_nothing_and_passes() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold_with_disk(1 << 20)?;
    let disk = PathBuf::from(format!("/proc/{}/root{STORE}", running.child.id()));
    let denied = Request::new("tcp-connect", Family::V4.denied_endpoint());
    let allowed = Request::new("tcp-send", Family::V4.allowed_endpoint());
    let attempt = |port: u16| -> Result<()> {
        // Another port each time, so that nothing is folded.
        let other = Request::new("tcp-connect", (denied.args.to.ip(), port).into());
        let reports = running.intrude(&running.cgroup, &[other, allowed.clone()])?;
        ensure!(!reports[0].ok && reports[1].ok, "{reports:?}");
        Ok(())
    };
    attempt(1001)?;
    let on_disk = |port: u16| -> Result<bool> {
        let (lines, _) = stored(&disk, "alerts", &agent.name)?;
        Ok(lines.iter().any(|line| line.contains(&format!("\"port\":{port},"))))
    };
    let told = |port: u16| {
        eventually(DEADLINE, "the alert is told", || {
            let log = agent.log().map_err(|error| error.to_string())?;
            let found = log.iter().any(|line| line["destination"]["port"] == port);
            if found { Ok(()) } else { Err(format!("{log:?}")) }
        })
    };
    told(1001)?;
    ensure!(on_disk(1001)?, "it is told before it is written");

    let filling = disk.join("filling");
    let filled = fs::write(&filling, vec![0; 2 << 20]);
    ensure!(filled.is_err(), "the disk is larger than it should be");
    // What is left of the last page of the segment holds some more lines.
    let trouble = |line: &Value| line["evidence"]["cause"] == "log_write";
    let mut port = 2000;
    eventually(DEADLINE, "the full disk is told", || {
        port += 1;
        attempt(port).map_err(|error| error.to_string())?;
        let log = agent.log().map_err(|error| error.to_string())?;
        let alert = log.iter().find(|line| trouble(line)).context("no alert about it");
        let reason = alert.map_err(|error| error.to_string())?["reason"].to_string();
        if reason.contains("No space left") { Ok(()) } else { Err(reason) }
    })?;
    eventually(DEADLINE, "the disk has no room for an alert", || {
        port += 1;
        attempt(port).and_then(|()| told(port)).map_err(|error| error.to_string())?;
        if on_disk(port).map_err(|error| error.to_string())? { Err("it has".to_owned()) } else { Ok(()) }
    })?;

    fs::remove_file(&filling)?;
    attempt(4000)?;
    told(4000)?;
    ensure!(on_disk(4000)?, "it is told before it is written");
    running.finish()?;
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    lab.ensure_nothing_reached(denied.args.to.ip())?;
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    agent.attempt(&[Request::new("tcp-connect", Family::V4.denied_endpoint())])?;
    let mut command = Command::new(agentnet_binary()?);
    command.args(["alerts", "--json", "--agent", &agent.name]).stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut child = command.stdout(writer).spawn()?;
    drop(command);
    let status = wait(&mut child)?;
    let mut said = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    ensure!(status.success() && said.is_empty(), "{status:?} {said:?}");
    Ok(())
}
