//! `agentnet alerts --follow` while a test goes on.

use std::{
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::child::{agentnet_binary, wait};
use crate::eventually::{DEADLINE, eventually};

/// `agentnet … --follow`, and the lines it has printed so far.
pub struct Follower {
    child: Child,
    lines: Lines,
    said: Lines,
}

type Lines = Arc<Mutex<Vec<String>>>;

fn gather(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let seen = Arc::clone(&lines);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if let Ok(mut seen) = seen.lock() {
                seen.push(line);
            }
        }
    });
    lines
}

/// Fails if one line is there twice.
///
/// # Errors
/// If so, or if a line has no identifier.
pub fn ensure_no_repetition(lines: &[String]) -> Result<()> {
    let mut ids: Vec<&str> =
        lines.iter().filter_map(|line| line.split("\"id\":\"").nth(1)?.split('"').next()).collect();
    ids.sort_unstable();
    let before = ids.len();
    ids.dedup();
    ensure!(ids.len() == before && before == lines.len(), "{} lines are shown twice", before - ids.len());
    Ok(())
}

impl Follower {
    /// Starts agentnet with these arguments.
    ///
    /// # Errors
    /// If it was not built.
    pub fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(agentnet_binary()?);
        command.args(args);
        Self::of(command)
    }

    /// Starts a command that follows.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn of(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = gather(child.stdout.take().context("no stdout")?);
        let said = gather(child.stderr.take().context("no stderr")?);
        Ok(Self { child, lines, said })
    }

    /// What it has shown so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().map(|lines| lines.clone()).unwrap_or_default()
    }

    /// Waits until it has said something with this in it.
    ///
    /// # Errors
    /// With what it has said.
    pub fn ensure_says(&self, words: &str) -> Result<()> {
        eventually(DEADLINE, words, || {
            let said = self.said.lock().map(|said| said.join("\n")).unwrap_or_default();
            if said.contains(words) { Ok(()) } else { Err(said) }
        })
    }

    /// Waits until it has.
    ///
    /// # Errors
    /// With what it has shown.
    pub fn ensure_shows(&self, agent: &str, port: u16) -> Result<()> {
        eventually(DEADLINE, "it is shown", || self.shows(agent, port))
    }

    /// Whether it has shown an alert about an attempt of the agent to reach this port.
    ///
    /// # Errors
    /// With what it has shown, if it has not.
    pub fn shows(&self, agent: &str, port: u16) -> Result<(), String> {
        let (agent, port) = (format!("\"agent\":\"{agent}\""), format!("\"port\":{port},"));
        let lines = self.lines();
        let found = lines.iter().any(|line| line.contains(&agent) && line.contains(&port));
        if found { Ok(()) } else { Err(format!("{lines:#?}")) }
    }

    /// Ends it as Ctrl-C does, and gives what it has shown.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn interrupt(mut self) -> Result<Vec<String>> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let status = wait(&mut self.child)?;
        ensure!(status.success(), "{status:?}");
        Ok(self.lines())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // One that has ended is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
