//! More sockets with refused data than are remembered one by one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, TcpStream},
    process::{Child, Command, Stdio},
};

use agentnet_common::abi::REFUSED_ENTRIES;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::Agent,
        cgroup,
        child::{probe_binary, wait},
        net::Family,
        policy::Policy,
        residue::Residue,
        running::Running,
    },
    probe::crowd::most,
};
use anyhow::{Context as _, Result, ensure};

/// Sockets beyond what is remembered, those included that got through before their listener's queue was full.
const MORE: u32 = 1000;

/// Then all sockets of the agent are destroyed at its end, also those of processes that somebody has moved out of
/// its cgroup, and nobody else's.
#[test]
fn sockets_beyond_those_remembered_do_not_outlive_the_policy() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let mut neighbour = lab.agent.run(|| Ok(TcpStream::connect(Family::V4.allowed_endpoint())?))?;

    let mut crowds = Vec::new();
    let mut wanted = usize::try_from(REFUSED_ENTRIES + MORE)?;
    while wanted > 0 {
        let count = most().min(wanted);
        crowds.push(Crowd::gather(&lab, &running, count)?);
        wanted -= count;
    }
    eventually(3 * DEADLINE, "more are refused than are remembered", || {
        let lines = agent.log().map_err(|error| error.to_string())?;
        let told = lines.iter().any(|line| line["evidence"]["cause"] == "refused_sockets_full");
        if told { Ok(()) } else { Err(format!("{} lines, none about that", lines.len())) }
    })?;
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let before = lab.pending(loopback)?.len();
    ensure!(before > usize::try_from(REFUSED_ENTRIES)?, "only {before} sockets are left to be destroyed");

    // The agent ends while the process and its sockets live on.
    let outside = cgroup::mount_point()?.join("cgroup.procs");
    for Crowd(process) in &crowds {
        fs::write(&outside, process.id().to_string())?;
    }
    let finished = running.finish()?;
    ensure!(finished.status.success(), "{finished:?}");
    residue.ensure_gone()?;
    for Crowd(process) in &mut crowds {
        ensure!(process.try_wait()?.is_none(), "a process has ended and taken its sockets along");
    }
    let left = lab.pending(loopback)?.len();
    ensure!(left == 0, "{left} sockets of the agent outlive its policy");

    neighbour.write_all(b"still here")?;
    let mut answer = [0; 10];
    neighbour.read_exact(&mut answer)?;
    ensure!(&answer == b"still here", "a socket that is not the agent's was cut off");
    Ok(())
}

/// A process of the agent with very many sockets, until it is dropped.
struct Crowd(Child);

impl Crowd {
    fn gather(lab: &Lab, running: &Running<'_>, count: usize) -> Result<Self> {
        let mut command = Command::new(probe_binary()?);
        command.arg("crowd").arg(count.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        lab.agent.attach(&mut command);
        running.join(&mut command)?;
        let mut crowd = Self(command.spawn()?);
        let mut line = String::new();
        BufReader::new(crowd.0.stdout.take().context("stdout")?).read_line(&mut line)?;
        ensure!(line.contains("ready"), "the crowd did not gather: {line:?}");
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = wait(&mut self.0);
    }
}
