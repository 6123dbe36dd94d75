//! Agents: the probe under `agentnet run`, and the probe alone for comparison.

use std::{
    ffi::CString,
    fs,
    fs::Permissions,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    child::{Finished, agentnet_binary, become_user, finish, join_cgroup, probe_binary, reports},
    expect::Expected,
    hosts::Hosts,
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
        for variable in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND"] {
            command.env_remove(variable);
        }
        if let Some(user) = self.user {
            let id = user.to_string();
            command.env("SUDO_UID", &id).env("SUDO_GID", &id).env("SUDO_USER", "nobody");
        }
        self.hosts.agent.attach(&mut command);
        Ok(command)
    }

    /// The same, started by a user without privilege: not by root on that user's behalf.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_for(&self, user: u32) -> Result<Command> {
        // What is that user's own to write: alerts.
        chown(self.dir.path(), Some(user), Some(user))?;
        let mut command = self.command()?;
        become_user(&mut command, Some(user));
        Ok(command)
    }

    /// The same, where `rules` is what sudo reads instead of `/etc/sudoers`, in a mount namespace of its own.
    ///
    /// # Errors
    /// If agentnet was not built or the path cannot be written down.
    pub fn command_for_sudoer(&self, user: u32, rules: &Path) -> Result<Command> {
        chown(self.dir.path(), Some(user), Some(user))?;
        let mut command = self.command()?;
        let source = CString::new(rules.as_os_str().as_bytes())?;
        let bind = move || {
            // SAFETY: the child has one thread; nothing else shares its mounts.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            Ok(mount_bind(source.as_c_str(), c"/etc/sudoers")?)
        };
        // SAFETY: three system calls, paths made before the fork.
        unsafe { command.pre_exec(bind) };
        // Afterwards: it takes root to change mounts.
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
    pub fn run(&self, argv: &[&str]) -> Result<Finished> {
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
        let mut command = self.command()?;
        command.arg(probe_binary()?).arg("hold");
        fs::create_dir_all(STORE)?;
        let (place, size) = (CString::new(STORE)?, CString::new(format!("size={bytes},mode=755"))?);
        let mount_disk = move || {
            // SAFETY: the child has one thread; nothing else shares its mounts.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            Ok(mount(c"disk", place.as_c_str(), c"tmpfs", MountFlags::NODEV, size.as_c_str())?)
        };
        // SAFETY: three system calls, texts made before the fork.
        unsafe { command.pre_exec(mount_disk) };
        Running::start(self, command)
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
