//! Scripts of the probe, run where agents run.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use tempfile::NamedTempFile;

use super::{
    child::{finish, join_cgroup, probe_binary},
    hosts::Hosts,
};
use crate::probe::script::{Came, Step};

/// Runs `steps` on the agents' host, in `cgroup` where there is one; what came of each.
///
/// # Errors
/// If the probe itself fails.
pub fn script(hosts: &Hosts, cgroup: Option<&Path>, steps: &[Step]) -> Result<Vec<Came>> {
    let (command, _file) = command(hosts, cgroup, steps)?;
    let finished = finish(command, None)?;
    ensure!(finished.status.success(), "{finished:?}");
    finished.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What runs them, and the file with them, which it reads.
///
/// # Errors
/// If the file cannot be written, the probe was not built, or the cgroup is gone.
pub(super) fn command(
    hosts: &Hosts,
    cgroup: Option<&Path>,
    steps: &[Step],
) -> Result<(Command, NamedTempFile)> {
    let file = NamedTempFile::new()?;
    serde_json::to_writer(&file, steps)?;
    let mut command = Command::new(probe_binary()?);
    command.arg("script").arg(file.path());
    hosts.agent.attach(&mut command);
    if let Some(cgroup) = cgroup {
        join_cgroup(&mut command, cgroup)?;
    }
    Ok((command, file))
}
