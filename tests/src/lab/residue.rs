//! Nothing is left behind: checked after every test, for that test's agents only, since tests run side by
//! side.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

use super::{
    bpf::{self, CgroupLink},
    cgroup,
    running::Running,
};
use crate::eventually::{DEADLINE, eventually};

/// Where agentnet keeps sockets and locks.
const RUN_DIRECTORY: &str = "/run/agentnet";

/// What there is of an agent while it runs, to be gone afterwards.
#[derive(Debug)]
pub struct Residue {
    name: String,
    links: Vec<CgroupLink>,
}

impl Residue {
    /// Of an agent by its name alone.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), links: Vec::new() }
    }

    /// Of a running agent, its links included.
    ///
    /// # Errors
    /// If the links cannot be listed, or there are none: then nothing is enforced.
    pub fn of(name: &str, running: &Running<'_>) -> Result<Self> {
        let links = links_above(&running.cgroup)?;
        ensure!(!links.is_empty(), "no BPF program is attached to {}", running.cgroup.display());
        Ok(Self { name: name.to_owned(), links })
    }

    /// The links that govern the agent.
    pub fn links(&self) -> &[CgroupLink] {
        &self.links
    }

    /// Waits until nothing is left.
    ///
    /// # Errors
    /// With what is left after the deadline.
    pub fn ensure_gone(&self) -> Result<()> {
        eventually(DEADLINE, &format!("nothing is left of agent {}", self.name), || {
            match self.left().map_err(|error| error.to_string())? {
                left if left.is_empty() => Ok(()),
                left => Err(left.join("; ")),
            }
        })
    }

    /// What is left, in words.
    ///
    /// # Errors
    /// If the machine cannot be searched.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left: Vec<String> = Vec::new();
        let mut paths = cgroup::named(&cgroup::mount_point()?, &self.name);
        for mount in cgroup::mounts_of("bpf")?.iter().map(PathBuf::as_path).chain([Path::new(RUN_DIRECTORY)])
        {
            paths.extend(files_named(mount, &self.name));
        }
        left.extend(paths.iter().map(|path| path.display().to_string()));
        left.extend(processes(&self.name));
        let now = bpf::cgroup_links()?;
        left.extend(
            self.links
                .iter()
                .filter(|link| now.iter().any(|other| other.id == link.id))
                .map(|link| format!("{link:?}")),
        );
        Ok(left)
    }
}

/// Links to a cgroup and to those above it, whose names tell that they are agents as well.
///
/// # Errors
/// If the links cannot be listed.
pub fn links_above(cgroup: &Path) -> Result<Vec<CgroupLink>> {
    let mount = cgroup::mount_point()?;
    let mut inodes = Vec::new();
    for dir in cgroup.ancestors().take_while(|dir| *dir != mount) {
        inodes.push(fs::metadata(dir)?.ino());
    }
    Ok(bpf::cgroup_links()?.into_iter().filter(|link| inodes.contains(&link.cgroup)).collect())
}

fn files_named(root: &Path, needle: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(needle) {
                found.push(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

/// Processes whose command line holds `needle`.
fn processes(needle: &str) -> Vec<String> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = numbers.filter_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(needle).then(|| format!("process {}: {line}", entry.file_name().display()))
    });
    lines.collect()
}
