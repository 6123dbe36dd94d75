//! Agents: the probe under `agentnet run`, and the probe alone for comparison.

use std::{
    env,
    ffi::CString,
    fs,
    fs::{File, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    mount::{MountPropagationFlags, mount_bind, mount_change},
    thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid, unshare_unsafe},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{Lab, cgroup, expect::Expected, policy::Policy};
use crate::probe::{Report, Request};

/// The user without any privilege, on every system.
pub const NOBODY: u32 = 65534;
/// How long a command may take, its supervisor's end included.
const LIMIT: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(1);

/// What is left of a command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// The probe's lines.
    ///
    /// # Errors
    /// If one is no report, with everything that was said.
    pub fn reports(&self) -> Result<Vec<Report>> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("{line:?} in {self:?}")))
            .collect()
    }
}

/// Directory of the binaries of this build: that of the running test or its parent.
fn build_dir() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let dir = own.parent().context("no directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().context("no directory")? } else { dir }.to_owned())
}

/// The probe.
///
/// # Errors
/// If it was not built.
pub fn probe_binary() -> Result<PathBuf> {
    let path = build_dir()?.join("probe");
    ensure!(path.exists(), "{} does not exist: run `cargo xtask build`", path.display());
    Ok(path)
}

/// agentnet itself: `AGENTNET_BIN`, else that of this build.
///
/// # Errors
/// If it was not built.
pub fn agentnet_binary() -> Result<PathBuf> {
    let path = match env::var_os("AGENTNET_BIN") {
        Some(path) => PathBuf::from(path),
        None => build_dir()?.join("agentnet"),
    };
    ensure!(path.exists(), "{} does not exist: run `cargo xtask build` or set AGENTNET_BIN", path.display());
    Ok(path)
}

/// An agent of a lab, running or not.
pub struct Agent<'lab> {
    /// Unique on this machine.
    pub name: String,
    lab: &'lab Lab,
    dir: TempDir,
    user: Option<u32>,
}

impl<'lab> Agent<'lab> {
    /// An agent under `policy`.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn new(lab: &'lab Lab, policy: &Policy) -> Result<Self> {
        Self::with_text(lab, &policy.text())
    }

    /// An agent under a policy that may be broken.
    ///
    /// # Errors
    /// If its files cannot be written.
    pub fn with_text(lab: &'lab Lab, policy: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("agentnet-lab-")?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let name = format!("{}-{}", lab.name, NEXT.fetch_add(1, Ordering::Relaxed));
        fs::write(dir.path().join("policy.toml"), policy)?;
        Ok(Self { name, lab, dir, user: None })
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
        self.lab.agent.attach(&mut command);
        Ok(command)
    }

    /// The same, started by a user without privilege: not by root on that user's behalf.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_for(&self, user: u32) -> Result<Command> {
        let mut command = self.command()?;
        become_user(&mut command, Some(user));
        Ok(command)
    }

    /// Lets `command` see `rules` as `/etc/sudoers`, in a mount namespace of its own.
    ///
    /// # Errors
    /// If the path cannot be written down.
    pub fn bind_sudoers(&self, command: &mut Command, rules: &Path) -> Result<()> {
        let source = CString::new(rules.as_os_str().as_bytes())?;
        let bind = move || {
            // SAFETY: the child has one thread; nothing else shares its mounts.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            Ok(mount_bind(source.as_c_str(), c"/etc/sudoers")?)
        };
        // SAFETY: three system calls, paths made before the fork.
        unsafe { command.pre_exec(bind) };
        Ok(())
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
        self.lab.agent.attach(&mut command);
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

fn reports(command: Command, requests: &[Request]) -> Result<Vec<Report>> {
    let finished = finish(command, None)?;
    let reports = finished.reports()?;
    ensure!(
        finished.status.success() && reports.len() == requests.len(),
        "the probe did not finish: {finished:?}"
    );
    Ok(reports)
}

/// Gives up all privilege of the child, once it is where it is to be.
fn become_user(command: &mut Command, user: Option<u32>) {
    let Some(user) = user else { return };
    let (uid, gid) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(user));
    let change = move || {
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
        Ok(set_thread_res_uid(uid, uid, uid)?)
    };
    // SAFETY: three system calls, nothing else, and the child has one thread.
    unsafe { command.pre_exec(change) };
}

/// Starts `command` in a cgroup.
fn join_cgroup(command: &mut Command, cgroup: &Path) -> Result<()> {
    let procs = File::options().write(true).open(cgroup.join("cgroup.procs"))?;
    // SAFETY: one write(2) of a constant.
    unsafe { command.pre_exec(move || (&procs).write_all(b"0")) };
    Ok(())
}

/// Runs a command to its end.
///
/// # Errors
/// If it does not end in time; it is then killed.
pub fn finish(mut command: Command, input: Option<&[u8]>) -> Result<Finished> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
        pipe.write_all(input)?;
    }
    let (stdout, stderr) = (gather(child.stdout.take()), gather(child.stderr.take()));
    let status = wait(&mut child)?;
    let text = |receiver: mpsc::Receiver<String>| receiver.recv_timeout(LIMIT).unwrap_or_default();
    Ok(Finished { status, stdout: text(stdout), stderr: text(stderr) })
}

fn gather(pipe: Option<impl std::io::Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks has ended.
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// Waits for a child to end by itself, as long as the slowest may take.
///
/// # Errors
/// If it does not; it is then killed.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let waited = crate::eventually::eventually(LIMIT, "the command ends", || match child.try_wait() {
        Ok(Some(status)) => Ok(status),
        Ok(None) => Err("it runs".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    if waited.is_err() {
        child.kill()?;
        child.wait()?;
    }
    waited
}

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
    fn start(agent: &'agent Agent<'agent>, mut command: Command) -> Result<Self> {
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

    /// Runs operations from within the agent's cgroup, but with all the privilege of the test: what holds
    /// then is held by the kernel programs, not by the launcher's confinement.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn intrude(&self, cgroup: &Path, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = Command::new(probe_binary()?);
        command.arg("suite").arg(self.agent.suite(requests)?);
        self.agent.lab.agent.attach(&mut command);
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
    pub(super) fn start(lab: &Lab, user: Option<u32>) -> Result<Self> {
        let mut command = Command::new(probe_binary()?);
        command.arg("hold").stdin(Stdio::piped()).stdout(Stdio::piped());
        lab.agent.attach(&mut command);
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
