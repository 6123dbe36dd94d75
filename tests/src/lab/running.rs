//! Agents that run and wait, and processes beside them that are none.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use super::{
    agent::Agent,
    cgroup,
    child::{Finished, LIMIT, become_user, gather, join_cgroup, probe_binary, reports, wait},
    expect::Expected,
    hosts::Hosts,
};
use crate::probe::{Report, Request};

/// An agent that runs and waits.
pub struct Running<'agent> {
    /// The process that was started: `agentnet run`.
    pub child: Child,
    /// The probe, as it knows itself.
    pub pid: u32,
    /// The agent's cgroup.
    pub cgroup: PathBuf,
    agent: &'agent Agent<'agent>,
    stderr: mpsc::Receiver<String>,
}

impl<'agent> Running<'agent> {
    pub(super) fn start(agent: &'agent Agent<'agent>, mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stderr = gather(child.stderr.take());
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Some(pid) = serde_json::from_str::<Value>(&line).ok().and_then(|ready| ready["ready"].as_u64())
        else {
            let status = child.kill().and_then(|()| child.wait());
            bail!("the agent did not come up ({status:?}): {line:?} {:?}", stderr.recv_timeout(LIMIT));
        };
        let pid = u32::try_from(pid)?;
        let cgroup = cgroup::of_process(&cgroup::mount_point()?, &pid.to_string())?;
        Ok(Self { child, pid, cgroup, agent, stderr })
    }

    /// The processes of agentnet that keep this agent: what was started, and its children outside the
    /// agent's cgroup.
    ///
    /// # Errors
    /// If processes cannot be listed.
    pub fn supervisors(&self) -> Result<Vec<i32>> {
        let mount = cgroup::mount_point()?;
        let own = i32::try_from(self.child.id())?;
        let mut found = vec![own];
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse::<i32>() else { continue };
            // A process may end while we look.
            let (Ok(line), Ok(place)) =
                (fs::read(entry.path().join("cmdline")), cgroup::of_process(&mount, &name))
            else {
                continue;
            };
            let is_ours = String::from_utf8_lossy(&line).contains(&self.agent.name);
            if is_ours && pid != own && !place.starts_with(&self.cgroup) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Makes a command start in the agent's cgroup.
    ///
    /// # Errors
    /// If the cgroup is gone.
    pub fn join(&self, command: &mut Command) -> Result<()> {
        join_cgroup(command, &self.cgroup)
    }

    /// Runs operations from within the agent's cgroup, but with all the privilege of the test: what holds
    /// then is held by the kernel programs, not by the launcher's confinement.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn intrude(&self, cgroup: &Path, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = Command::new(probe_binary()?);
        command.arg("suite").arg(self.agent.suite(requests)?);
        self.agent.hosts.agent.attach(&mut command);
        join_cgroup(&mut command, cgroup)?;
        become_user(&mut command, self.agent.user);
        reports(command, requests)
    }

    /// Like [`Self::intrude`] in the agent's own cgroup, compared with what is expected.
    ///
    /// # Errors
    /// If something is not as expected.
    pub fn expect(&self, expected: &Expected) -> Result<()> {
        expected.check(&self.intrude(&self.cgroup, expected.requests())?)
    }

    /// Ends the agent's command by ending its input.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn finish(mut self) -> Result<Finished> {
        drop(self.child.stdin.take());
        let status = wait(&mut self.child)?;
        Ok(Finished {
            status,
            stdout: String::new(),
            stderr: self.stderr.recv_timeout(LIMIT).unwrap_or_default(),
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = wait(&mut self.child);
        }
    }
}

/// A process on the agent's host that is no agent, holding sockets an agent might want.
pub struct Outsider(Child);

impl Outsider {
    pub(super) fn start(hosts: &Hosts, user: Option<u32>) -> Result<Self> {
        let mut command = Command::new(probe_binary()?);
        command.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped());
        hosts.agent.attach(&mut command);
        become_user(&mut command, user);
        let mut child = command.spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        ensure!(line.contains("ready"), "the outsider did not come up: {line:?}");
        Ok(Self(child))
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap_or(-1)
    }
}

impl Drop for Outsider {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = wait(&mut self.0);
    }
}
