//! Child processes: where the binaries are, where a child is placed before it starts, how it ends.

use std::{
    env,
    fs::File,
    io::{Read, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::{
    eventually::eventually,
    probe::{Report, Request},
};

/// How long a command may take, its supervisor's end included.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

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
    /// The lines of standard output of what succeeded and had nothing to remark.
    ///
    /// # Errors
    /// If it did not.
    pub fn clean_lines(&self) -> Result<Vec<String>> {
        ensure!(self.status.success() && self.stderr.is_empty(), "{self:?}");
        Ok(self.stdout.lines().map(str::to_owned).collect())
    }

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

/// Runs a probe that reports on each of these.
pub(super) fn reports(command: Command, requests: &[Request]) -> Result<Vec<Report>> {
    let finished = finish(command, None)?;
    let reports = finished.reports()?;
    ensure!(
        finished.status.success() && reports.len() == requests.len(),
        "the probe did not finish: {finished:?}"
    );
    Ok(reports)
}

/// Gives up all privilege of the child, once it is where it is to be.
pub fn become_user(command: &mut Command, user: Option<u32>) {
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

/// Has a command start with every signal as it is by default: agentnet leaves ignored what its caller ignores, as nohup
/// does with SIGHUP, and a shell cannot trap that.
pub fn default_signals(command: &mut Command) {
    let reset = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGPIPE]
        {
            // SAFETY: the default is no function.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: system calls alone.
    unsafe { command.pre_exec(reset) };
}

/// Starts `command` in a cgroup.
pub fn join_cgroup(command: &mut Command, cgroup: &Path) -> Result<()> {
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

pub(super) fn gather(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
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

/// Runs agentnet to its end, as a user without any privilege or as root.
///
/// # Errors
/// If agentnet was not built or does not end in time.
pub fn agentnet(user: Option<u32>, args: &[&str]) -> Result<Finished> {
    let mut command = Command::new(agentnet_binary()?);
    command.args(args);
    become_user(&mut command, user);
    finish(command, None)
}

/// Waits for a child to end by itself, as long as the slowest may take.
///
/// # Errors
/// If it does not; it is then killed.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    let waited = eventually(LIMIT, "the command ends", || match child.try_wait() {
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
