//! Cgroups that are there before agentnet knows of them, and processes in them.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, ensure};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use super::{
    cgroup,
    child::{join_cgroup, probe_binary, reports, wait},
    expect::Expected,
    hosts::Hosts,
    script::script,
};
use crate::{
    eventually::{DEADLINE, eventually},
    probe::{
        Report, Request,
        script::{Came, Step},
        talk::Said,
    },
};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// A cgroup that a test has made. It goes, with all below, when it is dropped.
pub struct Found<'hosts> {
    /// Its directory.
    pub path: PathBuf,
    /// Its name, unique on this machine, fit for an agent.
    pub name: String,
    hosts: &'hosts Hosts,
    dir: TempDir,
}

impl<'hosts> Found<'hosts> {
    /// Makes one at the top of the hierarchy.
    ///
    /// # Errors
    /// Without root.
    pub fn new(hosts: &'hosts Hosts) -> Result<Self> {
        Self::below(hosts, &cgroup::mount_point()?)
    }

    /// Makes one below another.
    ///
    /// # Errors
    /// If that is gone.
    pub fn below(hosts: &'hosts Hosts, parent: &Path) -> Result<Self> {
        let name = format!("{}-found-{}", hosts.name, NEXT.fetch_add(1, Ordering::Relaxed));
        let path = parent.join(&name);
        fs::create_dir(&path)?;
        Ok(Self { path, name, hosts, dir: TempDir::with_prefix("agentnet-found-")? })
    }

    /// Its directory as an argument.
    pub fn arg(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// Makes a command start there, on the agents' host.
    ///
    /// # Errors
    /// If the cgroup is gone.
    pub fn join(&self, command: &mut Command) -> Result<()> {
        self.hosts.agent.attach(command);
        join_cgroup(command, &self.path)
    }

    /// Starts the probe there and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, args: &[&str]) -> Result<Resident> {
        let mut command = Command::new(probe_binary()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        self.join(&mut command)?;
        Resident::spawn(command)
    }

    /// Runs operations there, each in a process of its own.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn attempt(&self, requests: &[Request]) -> Result<Vec<Report>> {
        let file = self.dir.path().join(format!("suite-{}.json", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::write(&file, serde_json::to_vec(requests)?)?;
        let mut command = Command::new(probe_binary()?);
        command.arg("suite").arg(file);
        self.join(&mut command)?;
        reports(command, requests)
    }

    /// Runs a script of the probe there; what came of each step.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn script(&self, steps: &[Step]) -> Result<Vec<Came>> {
        script(self.hosts, Some(&self.path), steps)
    }

    /// What [`Found::attempt`] does, compared with what is expected.
    ///
    /// # Errors
    /// If something is not as expected.
    pub fn expect(&self, expected: &Expected) -> Result<()> {
        expected.check(&self.attempt(expected.requests())?)
    }

    /// Removes it.
    ///
    /// # Errors
    /// If a process stays in it.
    pub fn remove(&self) -> Result<()> {
        eventually(DEADLINE, "the cgroup empties", || match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        })
    }
}

impl Drop for Found<'_> {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let _ = self.remove();
    }
}

/// A probe that runs until it is told to end.
pub struct Resident {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Resident {
    /// Starts the probe by `command` and waits until it says that it is ready.
    pub(super) fn spawn(mut command: Command) -> Result<Self> {
        let mut child = command.spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        let mut resident = Self { child, output };
        let line = resident.line()?;
        ensure!(line.contains("ready"), "the probe did not come up: {line:?}");
        Ok(resident)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if let Some(output) = &mut self.output {
            output.read_line(&mut line)?;
        }
        Ok(line)
    }

    /// Has it write `text` to its connection number `index`.
    ///
    /// # Errors
    /// If it is gone.
    pub fn say(&mut self, index: usize, text: &str) -> Result<Said> {
        if let Some(input) = &mut self.child.stdin {
            writeln!(input, "{index} {text}")?;
            input.flush()?;
        }
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| anyhow::anyhow!("{error}: {line:?}"))
    }

    /// Ends its input and returns its last line.
    ///
    /// # Errors
    /// If it does not end in time, or the line is something else.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        drop(self.child.stdin.take());
        let line = self.line()?;
        wait(&mut self.child)?;
        serde_json::from_str(&line).map_err(|error| anyhow::anyhow!("{error}: {line:?}"))
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
