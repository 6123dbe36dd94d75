//! `agentnet run` as a command: whose everything stays the command's own, and what it says when it cannot.

mod clients;
mod command;
mod confined;
mod crowd;
mod disk;
mod end;
mod host;
mod names;
mod refused;
mod root;
mod signals;

use std::{path::PathBuf, process::Child};

use agentnet_tests::lab::{agent::Agent, child::Finished, residue::Residue};
use anyhow::{Context as _, Result, ensure};
use rustix::process::Pid;

/// What agentnet says when it fails itself.
pub(crate) const AGENTNET_FAILED: i32 = 125;

pub(crate) fn pid(child: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("no such process")
}

/// A command that leaves a trace when it runs: [`witness_file`].
pub(crate) fn witness(agent: &Agent<'_>) -> [String; 2] {
    ["touch".to_owned(), witness_file(agent).display().to_string()]
}

pub(crate) fn witness_file(agent: &Agent<'_>) -> PathBuf {
    agent.policy_file().with_file_name("witness")
}

/// agentnet failed with this exit code and said this, nothing else.
pub(crate) fn ensure_refused(finished: &Finished, code: i32, said: &str) -> Result<()> {
    ensure!(
        finished.status.code() == Some(code) && finished.stderr == said,
        "expected {code} and {said:?}: {finished:?}"
    );
    Ok(())
}

/// The witness did not run, and of the agent there is no cgroup, no pin, no entry and no process.
pub(crate) fn ensure_nothing_happened(agent: &Agent<'_>) -> Result<()> {
    ensure!(!witness_file(agent).exists(), "the command ran");
    let residue = Residue::named(&agent.name);
    let left = residue.left()?;
    // The engine that said no ends after having said so.
    ensure!(left.iter().all(|line| line.starts_with("process ")), "something is left: {left:?}");
    residue.ensure_gone()
}
