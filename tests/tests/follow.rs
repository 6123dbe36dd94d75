//! `agentnet alerts --follow` and `flows --follow`: what happens, as it happens.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::{Agent, NOBODY, STORE, STRANGER},
        child::{agentnet, agentnet_binary, finish, wait},
        daemon::{Daemon, READERS, Served},
        expect::{EPERM, Expected, Said},
        follower::{Follower, ensure_no_repetition},
        found::Found,
        net::Family,
        policy::Policy,
        residue::Residue,
        running::Running,
        stored::stored,
    },
    probe::Request,
};
use anyhow::{Result, ensure};

#[test]
fn what_happens_is_followed_without_gaps_and_repetition() -> Result<()> {
    let lab = Lab::new()?;
    let (early, late) = (Agent::new(&lab, &Policy::standard())?, Agent::new(&lab, &Policy::standard())?);
    let running = early.hold()?;
    let attempt = |running: &Running<'_>, port: u16| -> Result<()> {
        let denied = Request::new("tcp-connect", (Family::V4.denied(), port).into());
        let allowed = Request::new("tcp-send", Family::V4.allowed_endpoint());
        let reports = running.intrude(&running.cgroup, &[denied, allowed])?;
        ensure!(!reports[0].ok && reports[1].ok, "{reports:?}");
        Ok(())
    };
    attempt(&running, 1000)?;
    let one = Follower::start(&["alerts", "--follow", "--json", "--agent", &early.name, "--since", "1h"])?;
    one.ensure_shows(&early.name, 1000)?;
    let all = Follower::start(&["alerts", "--follow", "--json"])?;
    let mut port = 2000;
    eventually(DEADLINE, "both follow", || {
        port += 1;
        attempt(&running, port).map_err(|error| error.to_string())?;
        all.shows(&early.name, port).and_then(|()| one.shows(&early.name, port))
    })?;
    let later = late.hold()?;
    attempt(&later, 3000)?;
    all.ensure_shows(&late.name, 3000)?;
    later.finish()?;
    running.finish()?;
    let ended = |agent: &Agent<'_>| {
        eventually(DEADLINE, "the end is shown", || {
            let agent = format!("\"agent\":\"{}\"", agent.name);
            let lines = all.lines();
            let found =
                lines.iter().any(|line| line.contains(&agent) && line.contains("\"state\":\"ended\""));
            if found { Ok(()) } else { Err(format!("{lines:#?}")) }
        })
    };
    ended(&early)?;
    ended(&late)?;
    let (stored_early, _) = stored(Path::new(STORE), "alerts", &early.name)?;
    eventually(DEADLINE, "everything of the one agent is shown", || {
        let lines = one.lines();
        if lines == stored_early { Ok(()) } else { Err(format!("{lines:#?}\nstored: {stored_early:#?}")) }
    })?;
    one.interrupt()?;
    let shown = all.interrupt()?;
    ensure_no_repetition(&shown)?;
    ensure!(!shown.iter().any(|line| line.contains("\"port\":1000,")), "what was before is shown unasked");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    Residue::named(&early.name).ensure_gone()
}

#[test]
fn a_stranger_is_told_why_nothing_is_followed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let refused = agentnet(Some(STRANGER), &["alerts", "--follow", "--agent", &agent.name])?;
    ensure!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    ensure!(refused.stderr.contains("only root and"), "{refused:?}");
    running.finish()?;
    Residue::named(&agent.name).ensure_gone()
}

/// `head` in place of a reader: the follower has nothing to write when its reader goes.
#[test]
fn a_follower_ends_with_its_reader() -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    let mut command = Command::new(agentnet_binary()?);
    let mut child = command.args(["flows", "--follow", "--agent", "nobody"]).stdout(writer).spawn()?;
    drop(command);
    drop(reader);
    let status = wait(&mut child)?;
    ensure!(status.success(), "{status:?}");
    Ok(())
}

fn attempt_denied(found: &Found<'_>, port: u16) -> Result<()> {
    let denied = SocketAddr::from((Family::V4.denied(), port));
    found.expect(&Expected::new().case("tcp-connect", denied, EPERM).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    ))
}

/// A member of the group of readers sees all agents; a stranger sees none, and is told so.
#[test]
fn the_daemons_alerts_are_for_the_group_of_readers() -> Result<()> {
    let Served { lab, daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let args = ["alerts", "--json"];
    let follow = |user: u32, groups: &[u32]| -> Result<Follower> {
        Follower::of(daemon.command_for(user, groups, &["alerts", "--json", "--follow"])?)
    };
    let (reader, stranger) = (follow(NOBODY, &[READERS])?, follow(STRANGER, &[])?);
    stranger.ensure_says("you are told of your own agents")?;
    let mut port = 1000;
    eventually(DEADLINE, "a reader follows", || {
        port += 1;
        attempt_denied(&found, port).map_err(|error| error.to_string())?;
        reader.shows(&found.name, port)
    })?;
    let root = daemon.tell(&args)?.clean_lines()?;
    let shown = finish(daemon.command_for(NOBODY, &[READERS], &args)?, None)?.clean_lines()?;
    ensure!(shown == root && shown.len() > 1, "shown are {shown:#?}\nroot sees {root:#?}");
    let refused = finish(daemon.command_for(STRANGER, &[], &args)?, None)?;
    ensure!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    ensure!(refused.stderr.contains("members of group agentnet may read them"), "{refused:?}");
    ensure_no_repetition(&reader.interrupt()?)?;
    ensure!(stranger.interrupt()?.is_empty(), "a stranger is told of others' agents");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// Waits until somebody is connected to the daemon.
fn ensure_followed(daemon: &Daemon) -> Result<()> {
    let sockets = format!("/proc/{}/net/unix", daemon.pid()?.as_raw_nonzero());
    eventually(DEADLINE, "the daemon is followed", || {
        let listed = fs::read_to_string(&sockets).map_err(|error| error.to_string())?;
        // `SS_CONNECTED` (include/uapi/linux/net.h) at the daemon's end, which alone has the name.
        let connected = |line: &str| {
            line.split_whitespace().nth(5) == Some("03") && line.ends_with("/daemon/control.sock")
        };
        if listed.lines().any(connected) { Ok(()) } else { Err(listed) }
    })
}

/// What is refused while there is no daemon is told by the next one, and what one wrote in the moment of its
/// death is read from its log.
#[test]
fn a_daemon_that_restarts_is_followed_on() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let follower = Follower::of(daemon.command(&["alerts", "--json", "--follow", "--since", "1h"])?)?;
    for round in 0..3 {
        let port = 1000 + round * 10;
        attempt_denied(&found, port)?;
        follower.ensure_shows(&found.name, port)?;
        // What was shown may be from the log.
        ensure_followed(&daemon)?;
        attempt_denied(&found, port + 1)?;
        daemon.kill()?;
        follower.ensure_says("the daemon is gone")?;
        daemon.start()?;
        attempt_denied(&found, port + 2)?;
        follower.ensure_shows(&found.name, port + 2)?;
    }
    follower.ensure_says("the daemon is back")?;
    daemon.tell(&["detach", &found.name])?;
    let stored = daemon.tell(&["alerts", "--json", "--agent", &found.name])?.clean_lines()?;
    eventually(DEADLINE, "everything that is stored is shown", || {
        let lines = follower.lines();
        if lines.len() == stored.len() { Ok(()) } else { Err(format!("{lines:#?}\nstored: {stored:#?}")) }
    })?;
    let mut shown = follower.interrupt()?;
    ensure_no_repetition(&shown)?;
    shown.sort_by_key(|line| stored.iter().position(|stored| stored == line));
    ensure!(shown == stored, "{shown:#?}\nstored: {stored:#?}");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    daemon.ensure_no_agents()
}
