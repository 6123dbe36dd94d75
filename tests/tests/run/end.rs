//! How an agent ends, and what is left of it then: nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        cgroup,
        child::{agentnet_binary, finish, join_cgroup, probe_binary, wait},
        expect::{EPERM, Expected, Said},
        net::Family,
        policy::Policy,
        pty::Terminal,
        residue::{Residue, links_above},
        server::Transport,
    },
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

use crate::pid;

/// Enforcement does not depend on the process that set it up.
#[test]
fn kill_9_leaves_enforcement_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    for engine in running.supervisors()? {
        kill_process(Pid::from_raw(engine).context("pid")?, Signal::KILL)?;
    }
    // Waiting for the child would close its input, which is the agent's as well and would end it.
    let input = running.child.stdin.take();
    running.child.wait()?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], Family::V4.denied_endpoint(), EPERM)
        .cases(&["tcp-connect", "udp-sendto"], Family::V6.denied_endpoint(), EPERM)
        .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    running.expect(&table)?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    ensure!(links_above(&running.cgroup)?.len() == residue.links().len(), "links went with their maker");
    drop(input);
    running.finish()?;

    // The next command clears what is empty and ownerless.
    let next = Agent::new(&lab, &Policy::standard())?;
    eventually(DEADLINE, "the agent's last process ends", || match cgroup_is_empty(&residue) {
        true => Ok(()),
        false => Err(format!("{:?}", residue.left())),
    })?;
    let finished = next.run(&["true"])?;
    ensure!(finished.status.success(), "{finished:?}");
    residue.ensure_gone()?;
    Residue::named(&next.name).ensure_gone()
}

fn cgroup_is_empty(residue: &Residue) -> bool {
    residue.left().is_ok_and(|left| !left.iter().any(|line| line.starts_with("process ")))
}

#[test]
fn what_outlives_the_command_is_killed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    // The marker makes the orphan known to the residue check by its command line.
    let script = format!(
        "setsid sh -c 'while :; do sleep 0.05; done' {} </dev/null >/dev/null 2>&1 & echo $!",
        agent.name
    );
    let finished = agent.run(&["sh", "-c", &script])?;
    ensure!(finished.status.success() && !finished.stdout.is_empty(), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// A bundle of sockets and cgroups made by the agent below its own goes with it.
#[test]
fn cgroups_below_the_agents_go_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let below = running.cgroup.join("below").join("further-below");
    fs::create_dir_all(&below)?;
    let mount = cgroup::mount_point()?;
    ensure!(cgroup::of_process(&mount, &running.pid.to_string())? == running.cgroup);
    running.finish()?;
    ensure!(!below.exists(), "{} is left", below.display());
    residue.ensure_gone()
}

/// `--wait`: what the command has left running is waited for, under its policy, and whoever waits may end that.
#[rstest]
#[case(Signal::INT)]
#[case(Signal::TERM)]
#[case(Signal::HUP)]
fn waiting_for_what_is_left_can_be_ended(#[case] signal: Signal) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut waiting = Waiting::start(&agent)?;
    let left = waiting.left()?;
    let mut denied = Command::new(probe_binary()?);
    let table = Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    );
    denied.arg("suite").arg(agent.suite(table.requests())?);
    lab.agent.attach(&mut denied);
    join_cgroup(&mut denied, &cgroup::of_process(&cgroup::mount_point()?, &left)?)?;
    table.check(&finish(denied, None)?.reports()?)?;
    ensure!(waiting.child.try_wait()?.is_none(), "it does not wait");

    kill_process(pid(&waiting.child)?, signal)?;
    let status = wait(&mut waiting.child)?;
    // The command's own: it had ended before.
    ensure!(status.code() == Some(4), "{status:?}");
    // A process that nobody has waited for yet has no command line any more.
    let line = fs::read(format!("/proc/{left}/cmdline")).unwrap_or_default();
    ensure!(line.is_empty(), "process {left} is left");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn waiting_ends_with_what_is_left() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut waiting = Waiting::start(&agent)?;
    let left = waiting.left()?;
    ensure!(waiting.child.try_wait()?.is_none(), "it does not wait");
    kill_process(Pid::from_raw(left.parse()?).context("pid")?, Signal::KILL)?;
    let status = wait(&mut waiting.child)?;
    ensure!(status.code() == Some(4), "{status:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// Ctrl-C at a terminal: the signal goes to the whole group, which what is left has gone out of.
#[test]
fn ctrl_c_ends_the_waiting() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut terminal = Terminal::start(Waiting::command(&agent)?)?;
    terminal.expect("and Ctrl-C ends them", 1)?;
    ensure!(terminal.child.try_wait()?.is_none(), "it does not wait");
    terminal.type_keys("\x03")?;
    let status = wait(&mut terminal.child)?;
    ensure!(status.code() == Some(4), "{status:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// What was started with a signal ignored, as by nohup, goes on ignoring it.
#[test]
fn a_hangup_that_is_ignored_does_not_end_the_waiting() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut command = Waiting::command(&agent)?;
    let ignore = || {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
        Ok(())
    };
    // SAFETY: one async-signal-safe call.
    unsafe { command.pre_exec(ignore) };
    let mut waiting = Waiting::spawn(command)?;
    let left = waiting.left()?;
    kill_process(pid(&waiting.child)?, Signal::HUP)?;
    eventually(DEADLINE, "the signal is taken", || {
        let status = fs::read_to_string(format!("/proc/{}/status", waiting.child.id())).unwrap_or_default();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:\t"));
        if pending.is_some_and(|set| set.bytes().all(|digit| digit == b'0')) { Ok(()) } else { Err(status) }
    })?;
    // The engine, which would do the killing, has had its turn by the time it has answered.
    let status = Command::new(agentnet_binary()?).arg("status").output()?;
    ensure!(String::from_utf8_lossy(&status.stdout).contains(&agent.name), "{status:?}");
    ensure!(Path::new("/proc").join(&left).exists(), "what is left was killed");
    kill_process(pid(&waiting.child)?, Signal::TERM)?;
    ensure!(wait(&mut waiting.child)?.code() == Some(4));
    Residue::named(&agent.name).ensure_gone()
}

/// `agentnet run --wait`, whose command has ended and left a process in a session of its own.
struct Waiting {
    child: Child,
    stderr: BufReader<ChildStderr>,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn command(agent: &Agent<'_>) -> Result<Command> {
        let mut command = agent.command_with(agent.policy_file().as_os_str(), &agent.name)?;
        // The marker makes what is left known to the residue check by its command line.
        let script = format!(
            "setsid sh -c 'trap \"\" INT TERM HUP; while :; do sleep 0.05; done' {} </dev/null >/dev/null 2>&1 & echo $!; exit 4",
            agent.name
        );
        command.args(["--wait", "--alerts", "-", "--", "sh", "-c", &script]);
        Ok(command)
    }

    fn start(agent: &Agent<'_>) -> Result<Self> {
        Self::spawn(Self::command(agent)?)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("stderr")?);
        let output = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, stderr, output })
    }

    /// Waits until the command has ended and returns the process that it has left.
    fn left(&mut self) -> Result<String> {
        let mut line = String::new();
        while !line.contains("agentnet waits for them, and Ctrl-C ends them") {
            line.clear();
            ensure!(self.stderr.read_line(&mut line)? > 0, "it did not say that it waits");
        }
        let mut left = String::new();
        self.output.read_line(&mut left)?;
        Ok(left.trim().to_owned())
    }
}
