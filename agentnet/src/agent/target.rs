//! What a person names, and the cgroup that is meant: `attach --cgroup`, `--pid`, `--unit`, `--container`.
//!
//! Nothing is ever moved. What cannot be governed without governing somebody else too is refused with a
//! sentence that says whom.

mod error;
mod sharers;
mod unit;

use std::{
    fs::{self, File},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FsWord, statfs},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};

pub use self::{
    error::TargetError,
    sharers::{Member, Sharers},
};
use super::{
    cgroup::{Cgroup, Hierarchy},
    container::{self, Container},
    process::lives,
};

/// Filesystem types (include/uapi/linux/magic.h).
const CGROUP_MAGIC: FsWord = 0x0027_e0eb;
const CGROUP2_MAGIC: FsWord = 0x6367_7270;

/// What a person names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spec {
    /// A cgroup: its directory below the mount, or its path from the top of the hierarchy.
    Cgroup(PathBuf),
    /// The cgroup that a process lives in.
    Pid(i32),
    /// A systemd unit.
    Unit(String),
    /// A container.
    Container(String),
}

/// What is to be governed.
#[derive(Debug)]
pub struct Target {
    /// The cgroup.
    pub cgroup: Cgroup,
    /// Its id: another cgroup that is made at the same place later has another one.
    pub id: u64,
    /// The processes in it and below, as of now.
    pub processes: Vec<Member>,
    /// The network namespaces they are in, each once.
    pub namespaces: Vec<NetNs>,
    /// What it is, in a few words: `the cgroup of process 4211 (node)`.
    pub description: String,
    /// What whoever asked should know.
    pub notices: Vec<String>,
    /// The process that was named, so that its number cannot come to mean another.
    process: Option<(i32, OwnedFd)>,
}

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    /// Device and inode of it, which tell it from others while it lives.
    pub id: (u64, u64),
    /// Open, so that it does live.
    pub fd: OwnedFd,
    /// Whether it is the one agentnet itself is in.
    pub is_hosts: bool,
    /// Processes of the target in it.
    pub processes: usize,
}

type Result<T, E = TargetError> = std::result::Result<T, E>;

impl Target {
    /// Finds what `spec` means. Reads `/proc` and asks systemd or container runtimes, which may take seconds: not
    /// for a task that has to answer others. `whole_cgroup` takes those too that share a process's cgroup.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn resolve(hierarchy: &Hierarchy, spec: &Spec, whole_cgroup: bool) -> Result<Self> {
        match spec {
            Spec::Cgroup(path) => {
                let cgroup = open(hierarchy, &locate(hierarchy, path)?)?;
                let description = format!("the cgroup {}", name(hierarchy, &cgroup));
                Self::new(hierarchy, cgroup, description)
            }
            Spec::Unit(unit) => {
                let (unit, path) = unit::find(hierarchy, unit)?;
                let cgroup = open(hierarchy, &path)?;
                Self::new(hierarchy, cgroup, format!("the unit {unit}"))
            }
            Spec::Pid(pid) => {
                let pidfd = hold(*pid)?;
                let cgroup = open(hierarchy, &home(hierarchy, *pid)?)?;
                Self::of_process(hierarchy, cgroup, *pid, pidfd, whole_cgroup, |comm, cgroup| {
                    format!("the cgroup {cgroup} of process {pid} ({comm})")
                })
            }
            Spec::Container(name) => Self::of_container(hierarchy, &container::find(name)?, whole_cgroup),
        }
    }

    /// The cgroup of a container, or of its first process where the runtime gave it none of its own.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn of_container(hierarchy: &Hierarchy, container: &Container, whole_cgroup: bool) -> Result<Self> {
        let pidfd = hold(container.pid)?;
        let home = home(hierarchy, container.pid)?;
        let described =
            |_: &str, _: &str| format!("the container {} of {}", container.name, container.runtime);
        match container_cgroup(&home, &container.id) {
            Some(path) => {
                let cgroup = open(hierarchy, path)?;
                let mut target = Self::new(hierarchy, cgroup, described("", ""))?;
                target.guard(container.pid, pidfd)?;
                Ok(target)
            }
            None => {
                let cgroup = open(hierarchy, &home)?;
                Self::of_process(hierarchy, cgroup, container.pid, pidfd, whole_cgroup, described)
            }
        }
    }

    fn of_process(
        hierarchy: &Hierarchy,
        cgroup: Cgroup,
        pid: i32,
        pidfd: OwnedFd,
        whole_cgroup: bool,
        describe: impl Fn(&str, &str) -> String,
    ) -> Result<Self> {
        let mut target = Self::new(hierarchy, cgroup, String::new())?;
        let comm = target.processes.iter().find(|member| member.pid == pid).map(|member| member.comm.clone());
        let named = name(hierarchy, &target.cgroup);
        target.description = describe(comm.as_deref().unwrap_or("?"), &named);
        let tree = sharers::tree(pid);
        let (own, others): (Vec<_>, Vec<_>) =
            target.processes.iter().cloned().partition(|member| tree.contains(&member.pid));
        if !others.is_empty() {
            let others = Sharers(others);
            if !whole_cgroup {
                return Err(TargetError::Shared { pid, cgroup: named, others });
            }
            target.notices.push(format!("governed as well, being in the same cgroup: {others}"));
        }
        let elsewhere = tree.len().saturating_sub(own.len());
        if elsewhere > 0 {
            target.notices.push(format!(
                "{elsewhere} of the processes that {pid} started live in other cgroups and are not governed"
            ));
        }
        target.guard(pid, pidfd)?;
        Ok(target)
    }

    fn new(hierarchy: &Hierarchy, cgroup: Cgroup, description: String) -> Result<Self> {
        let id = id(&cgroup)?;
        let processes: Vec<_> = cgroup.pids()?.into_iter().map(Member::of).collect();
        if processes.iter().any(|member| member.pid == 1) {
            return Err(TargetError::Init { cgroup: name(hierarchy, &cgroup) });
        }
        let namespaces = namespaces(&processes).map_err(TargetError::Namespaces)?;
        Ok(Self { cgroup, id, processes, namespaces, description, notices: Vec::new(), process: None })
    }

    /// Keeps hold of the process, if it is still there after all that was read about it.
    fn guard(&mut self, pid: i32, pidfd: OwnedFd) -> Result<()> {
        if !lives(&pidfd) {
            return Err(TargetError::NoProcess { pid });
        }
        self.process = Some((pid, pidfd));
        Ok(())
    }

    /// A process of it, the one that was named if one was.
    pub fn any_process(&self) -> Option<i32> {
        let named = self.process.as_ref().map(|(pid, _)| *pid);
        named.or_else(|| self.processes.first().map(|member| member.pid))
    }

    /// Whether it is still what was resolved: to be asked once it is governed, because the process may have
    /// been moved, or the cgroup made anew, in between.
    ///
    /// # Errors
    /// What has changed.
    pub fn confirm(&self, hierarchy: &Hierarchy) -> Result<()> {
        if id(&self.cgroup)? != self.id {
            return Err(TargetError::Missing { path: self.cgroup.path().to_owned() });
        }
        let Some((pid, pidfd)) = &self.process else { return Ok(()) };
        let now = home(hierarchy, *pid);
        if !lives(pidfd) {
            return Err(TargetError::NoProcess { pid: *pid });
        }
        if !now?.starts_with(self.cgroup.path()) {
            return Err(TargetError::Moved { pid: *pid });
        }
        Ok(())
    }
}

/// Its path from the top of the hierarchy, with a slash before it.
fn name(hierarchy: &Hierarchy, cgroup: &Cgroup) -> String {
    let top = hierarchy.top();
    let below = cgroup.path().strip_prefix(top.path()).unwrap_or(cgroup.path());
    Path::new("/").join(below).display().to_string()
}

fn id(cgroup: &Cgroup) -> Result<u64> {
    match fs::metadata(cgroup.path()) {
        Ok(metadata) => Ok(metadata.ino()),
        Err(_) => Err(TargetError::Missing { path: cgroup.path().to_owned() }),
    }
}

/// Where the cgroup is that a person calls `path`.
fn locate(hierarchy: &Hierarchy, path: &Path) -> Result<PathBuf> {
    let top = hierarchy.top();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(TargetError::Climbs { path: path.to_owned() });
    }
    if path.starts_with(top.path()) {
        return Ok(path.to_owned());
    }
    if path.is_absolute() && filesystem(path) == Some(CGROUP_MAGIC) {
        return Err(TargetError::Version1 { path: path.to_owned(), top: top.path().to_owned() });
    }
    Ok(top.path().join(path.strip_prefix("/").unwrap_or(path)))
}

fn filesystem(path: &Path) -> Option<FsWord> {
    statfs(path).ok().map(|found| found.f_type)
}

/// The cgroup at `path`, if it can be governed.
fn open(hierarchy: &Hierarchy, path: &Path) -> Result<Cgroup> {
    let missing = || TargetError::Missing { path: path.to_owned() };
    // The mount point itself may be reached through a link.
    let top = fs::canonicalize(hierarchy.top().path()).map_err(|_| missing())?;
    let real = fs::canonicalize(path).map_err(|_| missing())?;
    let Ok(below) = real.strip_prefix(&top) else {
        return Err(TargetError::Outside { path: path.to_owned() });
    };
    if !real.is_dir() || filesystem(&real) != Some(CGROUP2_MAGIC) {
        return Err(TargetError::NoCgroup { path: path.to_owned() });
    }
    if below.as_os_str().is_empty() {
        return Err(TargetError::Root);
    }
    let cgroup = Cgroup::at(hierarchy.top().path().join(below));
    let named = name(hierarchy, &cgroup);
    let own = hierarchy.of(std::process::id().cast_signed())?;
    if own.path().starts_with(cgroup.path()) {
        return Err(TargetError::Own { cgroup: named });
    }
    let kind = fs::read_to_string(cgroup.path().join("cgroup.type")).map_err(|_| missing())?;
    match kind.trim_end() {
        "domain" | "domain threaded" => Ok(cgroup),
        "threaded" => {
            let domain = cgroup.path().ancestors().skip(1).find(|above| {
                fs::read_to_string(above.join("cgroup.type")).is_ok_and(|kind| kind.trim_end() != "threaded")
            });
            let domain = name(hierarchy, &Cgroup::at(domain.unwrap_or(&top)));
            Err(TargetError::Threaded { cgroup: named, domain })
        }
        kind => Err(TargetError::Invalid { cgroup: named, kind: kind.to_owned() }),
    }
}

/// A handle on the process `pid`, which stays its own when the number is given to another.
fn hold(pid: i32) -> Result<OwnedFd> {
    let gone = || match thread_of(pid) {
        Some(process) => TargetError::Thread { pid, process },
        None => TargetError::NoProcess { pid },
    };
    // `from_raw` takes no negative number.
    let handle = if pid > 0 { Pid::from_raw(pid) } else { None }.ok_or(TargetError::NoProcess { pid })?;
    let pidfd = pidfd_open(handle, PidfdFlags::empty()).map_err(|_| gone())?;
    if lives(&pidfd) { Ok(pidfd) } else { Err(TargetError::NoProcess { pid }) }
}

/// The process of which `pid` is a thread other than the first.
fn thread_of(pid: i32) -> Option<i32> {
    let process = procfs::process::Process::new(pid).and_then(|process| process.status()).ok()?.tgid;
    (process != pid).then_some(process)
}

/// The directory of the cgroup that `pid` lives in.
fn home(hierarchy: &Hierarchy, pid: i32) -> Result<PathBuf> {
    match hierarchy.of(pid) {
        Ok(cgroup) => Ok(cgroup.path().to_owned()),
        Err(error) => {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"));
            let groups = groups.map_err(|_| TargetError::NoProcess { pid })?;
            let removed = groups.lines().any(|line| line.starts_with("0::") && line.ends_with(" (deleted)"));
            Err(if removed { TargetError::Deleted { pid } } else { error.into() })
        }
    }
}

/// The cgroup that a runtime made for the container `id`: the topmost on the way to `home` that is named after
/// it. Below it a container that runs an init of its own makes further ones.
fn container_cgroup<'a>(home: &'a Path, id: &str) -> Option<&'a Path> {
    let is_its = |path: &&Path| {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        !id.is_empty() && name.contains(id) && !name.contains("conmon")
    };
    home.ancestors().filter(is_its).last()
}

fn namespaces(processes: &[Member]) -> io::Result<Vec<NetNs>> {
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let mut found: Vec<NetNs> = Vec::new();
    for member in processes {
        let path = format!("/proc/{}/ns/net", member.pid);
        // One that has ended has none.
        let Ok(file) = File::open(path) else { continue };
        let metadata = file.metadata()?;
        let id = (metadata.dev(), metadata.ino());
        match found.iter_mut().find(|known| known.id == id) {
            Some(known) => known.processes += 1,
            None => found.push(NetNs {
                id,
                fd: file.into(),
                is_hosts: id == (own.dev(), own.ino()),
                processes: 1,
            }),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_by_its_id_on_the_way() {
        let at = |path: &str, id: &str| {
            container_cgroup(Path::new(path), id).map(|path| path.display().to_string())
        };
        let whole = Some("/cg/machine.slice/libpod-4fa6.scope".to_owned());
        assert_eq!(at("/cg/machine.slice/libpod-4fa6.scope", "4fa6"), whole);
        assert_eq!(at("/cg/machine.slice/libpod-4fa6.scope/container", "4fa6"), whole);
        assert_eq!(at("/cg/machine.slice/libpod-4fa6.scope/container/libpod-4fa6", "4fa6"), whole, "nested");
        assert_eq!(at("/cg/docker/4fa6", "4fa6").as_deref(), Some("/cg/docker/4fa6"));
        assert_eq!(at("/cg/machine.slice/libpod-conmon-4fa6.scope", "4fa6"), None, "its monitor");
        assert_eq!(at("/cg/user.slice", "4fa6"), None);
        assert_eq!(at("/cg/user.slice", ""), None);
    }

    #[test]
    fn paths_are_found_below_the_mount_whatever_their_form() {
        let hierarchy = Hierarchy::at("/cg");
        let at = |path: &str| locate(&hierarchy, Path::new(path)).unwrap();
        for path in ["/cg/agents.slice/a", "/agents.slice/a", "agents.slice/a"] {
            assert_eq!(at(path), Path::new("/cg/agents.slice/a"));
        }
        let climbs = locate(&hierarchy, Path::new("/cg/../etc"));
        assert!(matches!(climbs, Err(TargetError::Climbs { .. })));
    }
}
