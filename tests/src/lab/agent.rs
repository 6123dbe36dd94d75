//! Agents: the probe under `agentnet run`, and the probe alone for comparison.

use std::{
    ffi::{CString, OsStr},
    fs,
    fs::Permissions,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    account::CALLER,
    child::{
        Finished, agentnet_binary, become_user, default_signals, finish, join_cgroup, probe_binary, reports,
    },
    expect::Expected,
    hosts::Hosts,
    mounts::{cover, with_own_mounts},
    policy::Policy,
    running::Running,
};
use crate::probe::{Report, Request};

/// The user without any privilege, on every system.
pub const NOBODY: u32 = 65534;

/// A user who has nothing to do with any agent.
pub const STRANGER: u32 = 54_321;

static NEXT: AtomicU32 = AtomicU32::new(1);

/// Where agentnet keeps what agents do, beside what `--alerts` asks for. It outlives agents by design.
pub const STORE: &str = "/var/lib/agentnet";

/// An agent, running or not.
pub struct Agent<'hosts> {
    /// Unique on this machine.
    pub name: String,
    pub(super) hosts: &'hosts Hosts,
    dir: TempDir,
    pub(super) user: Option<u32>,
}

impl<'hosts> Agent<'hosts> {
    /// An agent under `policy`.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn new(hosts: &'hosts Hosts, policy: &Policy) -> Result<Self> {
        Self::with_text(hosts, &policy.text())
    }

    /// An agent under a policy that may be broken.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn with_text(hosts: &'hosts Hosts, policy: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("agentnet-lab-")?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let name = format!("{}-{}", hosts.name, NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(dir.path().join("policy.toml"), policy)?;
        Ok(Self { name, hosts, dir, user: None })
    }

    /// Runs the agent's command as this user, as `sudo` would have it.
    #[must_use]
    pub fn user(mut self, uid: impl Into<Option<u32>>) -> Self {
        self.user = uid.into();
        self
    }

    /// The policy file.
    pub fn policy_file(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    /// The file with alerts.
    pub fn alerts_file(&self) -> PathBuf {
        self.dir.path().join("alerts.jsonl")
    }

    /// The alerts and flows written so far.
    ///
    /// # Errors
    /// If the file is missing or a line is not JSON.
    pub fn log(&self) -> Result<Vec<Value>> {
        let file = self.alerts_file();
        let text = fs::read_to_string(&file).with_context(|| format!("no alerts in {}", file.display()))?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Lets a command run where the agent does, without agentnet.
    pub fn place(&self, command: &mut Command) {
        self.hosts.agent.attach(command);
    }

    /// `agentnet run … --`, to which a command is to be added.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command(&self) -> Result<Command> {
        self.command_with_alerts(&self.alerts_file())
    }

    /// The same with alerts to another place.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_with_alerts(&self, alerts: &Path) -> Result<Command> {
        let mut command = Command::new(agentnet_binary()?);
        command.arg("run").arg("--policy").arg(self.policy_file());
        command.args(["--agent", &self.name]).arg("--alerts").arg(alerts).arg("--");
        for variable in CALLER {
            command.env_remove(variable);
        }
        if let Some(user) = self.user {
            let id = user.to_string();
            command.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "nobody");
        }
        self.hosts.agent.attach(&mut command);
        default_signals(&mut command);
        Ok(command)
    }

    /// `agentnet run` with this policy and this name of an agent, to which `--` and a command are to be added.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_with(&self, policy: &OsStr, name: &str) -> Result<Command> {
        let mut command = Command::new(agentnet_binary()?);
        command.arg("run").arg("--policy").arg(policy).args(["--agent", name]);
        self.hosts.agent.attach(&mut command);
        Ok(command)
    }

    /// Lets a user write what is written as the user: alerts.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn give_to(&self, user: u32) -> Result<()> {
        Ok(chown(self.dir.path(), Some(user), Some(user))?)
    }

    /// The same, started by a user without privilege: not by root on that user's behalf.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_for(&self, user: u32) -> Result<Command> {
        self.give_to(user)?;
        let mut command = self.command()?;
        become_user(&mut command, Some(user));
        Ok(command)
    }

    /// Runs operations as this agent, started from within another agent's cgroup.
    ///
    /// # Errors
    /// If agentnet or the probe itself fails.
    pub fn attempt_below(&self, outer: &Running<'_>, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = self.command()?;
        command.arg(probe_binary()?).arg("suite").arg(self.suite(requests)?);
        join_cgroup(&mut command, &outer.cgroup)?;
        reports(command, requests)
    }

    /// Runs a command as the agent.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn run(&self, argv: &[impl AsRef<OsStr>]) -> Result<Finished> {
        let mut command = self.command()?;
        command.args(argv);
        finish(command, None)
    }

    /// Runs operations of the probe as the agent.
    ///
    /// # Errors
    /// If agentnet or the probe itself fails.
    pub fn attempt(&self, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = self.command()?;
        command.arg(probe_binary()?).arg("suite").arg(self.suite(requests)?);
        reports(command, requests)
    }

    /// Runs operations as the agent and compares what it is told.
    ///
    /// # Errors
    /// If something is not as expected.
    pub fn expect(&self, expected: &Expected) -> Result<()> {
        expected.check(&self.attempt(expected.requests())?)
    }

    /// Runs operations in the agent's place without agentnet.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn attempt_ungoverned(&self, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = Command::new(probe_binary()?);
        command.arg("suite").arg(self.suite(requests)?);
        self.hosts.agent.attach(&mut command);
        become_user(&mut command, self.user);
        reports(command, requests)
    }

    /// Starts the agent with a command that waits until it is dropped.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, args: &[&str]) -> Result<Running<'_>> {
        let mut command = self.command()?;
        command.arg(probe_binary()?).args(args);
        self.start_command(command)
    }

    /// The same with a command line of the caller's, which ends in such a command of the probe.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start_command(&self, command: Command) -> Result<Running<'_>> {
        Running::start(self, command)
    }

    /// Starts the agent holding a socket of each family and doing nothing.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn hold(&self) -> Result<Running<'_>> {
        self.start(&["hold"])
    }

    /// The same with a disk of its own for what agentnet keeps, of so many bytes. Only agentnet sees it.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn hold_with_disk(&self, bytes: u64) -> Result<Running<'_>> {
        fs::create_dir_all(STORE)?;
        let options = CString::new(format!("size={bytes},mode=755"))?;
        with_own_mounts(|| {
            cover(Path::new(STORE), &options)?;
            self.hold()
        })
    }

    /// Starts the agent with operations made in one process, which then waits.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn stay(&self, requests: &[Request]) -> Result<Running<'_>> {
        let file = self.suite(requests)?;
        self.start(&["stay", file.to_str().context("path")?])
    }

    /// A file with operations for the probe's `suite`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn suite(&self, requests: &[Request]) -> Result<PathBuf> {
        let file = self.dir.path().join(format!("suite-{}.json", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, serde_json::to_vec(requests)?)?;
        fs::set_permissions(&file, Permissions::from_mode(0o644))?;
        Ok(file)
    }
}

impl Drop for Agent<'_> {
    /// The log is the product's to keep and the test's to clear.
    fn drop(&mut self) {
        for stream in ["alerts", "flows"] {
            let _ = fs::remove_dir_all(Path::new(STORE).join(stream).join(&self.name));
        }
    }
}
