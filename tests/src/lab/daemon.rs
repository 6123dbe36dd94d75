//! A daemon with a place of its own: its runtime directory, state, policies, groups and pins are nobody else's, so
//! that many of them run side by side.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change},
    process::{Pid, Signal, kill_process},
    thread::{UnshareFlags, unshare_unsafe},
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Lab,
    child::{Finished, agentnet_binary, become_user, finish, wait},
    hosts::Hosts,
    net::Family,
    netns::Namespace,
};
use crate::eventually::{DEADLINE, eventually};

/// A group whose members may read, in the daemon's place.
pub const READERS: u32 = 60_001;
/// A group whose members may run.
pub const RUNNERS: u32 = 60_002;

/// What the lab's denied host is called, in the daemon's place.
pub const DENIED_NAME: &str = "denied.lab.example";
/// What the metadata services are called there.
pub const METADATA_NAME: &str = "metadata.lab.example";

/// How long it may take until a daemon serves: it first reads what happened while there was none.
const UP: Duration = Duration::from_secs(60);

/// Directories of the host that are the daemon's own, each with its name below the lab's directory.
const PLACES: [(&str, &str); 3] =
    [("run", "/run/agentnet"), ("state", "/var/lib/agentnet"), ("policies", "/etc/agentnet/policies")];

/// What is a lab and a daemon in it.
pub struct Served {
    /// The lab.
    pub lab: Lab,
    /// The daemon.
    pub daemon: Daemon,
}

impl Served {
    /// Builds a lab and starts a daemon in it.
    ///
    /// # Errors
    /// Without root, or if the daemon does not come up.
    pub fn new() -> Result<Self> {
        Self::new_under(&[])
    }

    /// The same with a daemon that is executed by another command.
    ///
    /// # Errors
    /// Without root, or if the daemon does not come up.
    pub fn new_under(command: &[&str]) -> Result<Self> {
        let mut hosts = Hosts::new()?;
        let dir = TempDir::with_prefix("agentnet-daemon-")?;
        hosts.agent.set_mounts(place(dir.path())?);
        let host = hosts.agent.clone();
        Self::start(hosts, dir, host, command)
    }

    /// The same with a container: the lab's agents run in it, and the daemon on the host between it and the servers,
    /// which is returned as well.
    ///
    /// # Errors
    /// As [`Served::new`], or if the kernel has no bridges.
    pub fn with_container() -> Result<(Self, Namespace)> {
        let (hosts, mut host) = Hosts::bridged()?;
        let dir = TempDir::with_prefix("agentnet-daemon-")?;
        host.set_mounts(place(dir.path())?);
        Ok((Self::start(hosts, dir, host.clone(), &[])?, host))
    }

    fn start(hosts: Hosts, dir: TempDir, namespace: Namespace, under: &[&str]) -> Result<Self> {
        let mut daemon = Daemon {
            dir,
            namespace,
            child: None,
            said: Arc::default(),
            name: hosts.name.clone(),
            under: under.iter().map(|&word| word.to_owned()).collect(),
        };
        let lab = Lab::on(hosts)?;
        daemon.start()?;
        Ok(Self { lab, daemon })
    }
}

/// A daemon, running or not.
pub struct Daemon {
    dir: TempDir,
    namespace: Namespace,
    child: Option<Child>,
    said: Arc<Mutex<String>>,
    name: String,
    /// What executes it, with its arguments.
    under: Vec<String>,
}

impl Daemon {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// With what it said, if it ends.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.daemon()?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        self.said = Arc::default();
        let said = Arc::clone(&self.said);
        let stderr = child.stderr.take().context("no pipe")?;
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                if let Ok(mut said) = said.lock() {
                    said.push_str(&line);
                    said.push('\n');
                }
            }
        });
        let up = eventually(UP, "the daemon serves", || {
            let said = self.said();
            match child.try_wait() {
                Ok(None) if said.contains("serving") => Ok(Ok(())),
                Ok(None) => Err(said),
                ended => Ok(Err(anyhow!("the daemon ended ({ended:?}): {said}"))),
            }
        });
        self.child = Some(child);
        up?
    }

    /// What it has said since it was started.
    pub fn said(&self) -> String {
        self.said.lock().map(|said| said.clone()).unwrap_or_default()
    }

    /// Its process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<Pid> {
        let id = self.child.as_ref().context("the daemon does not run")?.id();
        Pid::from_raw(i32::try_from(id)?).context("no process")
    }

    /// How much memory it has, in bytes (`VmRSS`).
    ///
    /// # Errors
    /// If it does not run.
    pub fn resident_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()?.as_raw_nonzero()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    }

    /// Kills it without warning.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL).map(drop)
    }

    /// Has it end by a signal.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        kill_process(self.pid()?, signal)?;
        wait(self.child.as_mut().context("the daemon does not run")?).inspect(|_| self.child = None)
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        wait(self.child.as_mut().context("the daemon does not run")?).inspect(|_| self.child = None)
    }

    /// A directory of the daemon's own: `run`, `state` or `policies`.
    pub fn directory(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where it answers.
    pub fn socket(&self) -> PathBuf {
        self.directory("run").join("daemon").join("control.sock")
    }

    /// Writes a policy to where the daemon looks policies up.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_policy(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory("policies").join(format!("{name}.toml"));
        // As editors do: whoever reads it sees one whole file.
        let fresh = path.with_extension("new");
        fs::write(&fresh, text)?;
        Ok(fs::rename(fresh, path)?)
    }

    /// `agentnet …` in the daemon's place.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(agentnet_binary()?);
        command.args(args);
        self.settle(&mut command);
        Ok(command)
    }

    fn daemon(&self) -> Result<Command> {
        let Some((first, rest)) = self.under.split_first() else { return self.command(&["daemon"]) };
        let mut command = Command::new(first);
        command.args(rest).arg(agentnet_binary()?).arg("daemon");
        self.settle(&mut command);
        Ok(command)
    }

    /// Has a command run in the daemon's place.
    fn settle(&self, command: &mut Command) {
        for variable in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND", "RUST_LOG"] {
            command.env_remove(variable);
        }
        self.namespace.attach(command);
    }

    /// The same as a user without privilege, who is in these groups as well.
    ///
    /// # Errors
    /// If agentnet was not built.
    pub fn command_for(&self, user: u32, groups: &[u32], args: &[&str]) -> Result<Command> {
        let mut command = self.command(args)?;
        become_user_in(&mut command, user, groups);
        Ok(command)
    }

    /// Runs `agentnet …` to its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub fn ask(&self, args: &[&str]) -> Result<Finished> {
        finish(self.command(args)?, None)
    }

    /// Runs `agentnet …`, which must succeed.
    ///
    /// # Errors
    /// With what it said, if it does not.
    pub fn tell(&self, args: &[&str]) -> Result<Finished> {
        let finished = self.ask(args)?;
        ensure!(finished.status.success(), "{args:?}: {finished:?}\nthe daemon said: {}", self.said());
        Ok(finished)
    }

    /// Runs another program in the daemon's place, which must succeed.
    ///
    /// # Errors
    /// With what it said, if it does not.
    pub fn run_in_place(&self, program: &str, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program);
        command.args(args);
        self.namespace.attach(&mut command);
        let finished = finish(command, None)?;
        ensure!(finished.status.success(), "{program} {args:?}: {finished:?}");
        Ok(finished)
    }

    /// Links to interfaces that are pinned in the daemon's place, by their paths.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn pinned_interfaces(&self) -> Result<Vec<PathBuf>> {
        let mut find = Command::new("find");
        find.args(["/sys/fs/bpf/agentnet", "-name", "tcx-*"]);
        self.namespace.attach(&mut find);
        let found = find.output()?;
        Ok(String::from_utf8(found.stdout)?.lines().map(PathBuf::from).collect())
    }

    /// What `agentnet status --json` says of each agent.
    ///
    /// # Errors
    /// If it says something else.
    pub fn status(&self) -> Result<Vec<Value>> {
        let finished = self.ask(&["status", "--json"])?;
        let lines = finished.stdout.lines().map(serde_json::from_str);
        lines.collect::<std::result::Result<_, _>>().with_context(|| format!("{finished:?}"))
    }

    /// What `agentnet status` says of one agent.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn status_of(&self, agent: &str) -> Result<Value> {
        let all = self.status()?;
        let found = all.iter().find(|row| row["agent"] == agent);
        found.cloned().with_context(|| format!("no agent {agent} in {all:?}"))
    }

    /// The alerts and flows that the daemon has logged of an agent, in the order of writing.
    ///
    /// # Errors
    /// If there is none or a line is not JSON.
    pub fn log_of(&self, agent: &str) -> Result<Vec<Value>> {
        let mut log = Vec::new();
        for stream in ["alerts", "flows"] {
            let directory = self.directory("state").join(stream).join(agent);
            for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
                let path = entry?.path();
                if path.extension().is_none_or(|extension| extension != "jsonl") {
                    continue;
                }
                for line in fs::read_to_string(&path)?.lines() {
                    log.push(serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?);
                }
            }
        }
        log.sort_by_key(|line| line["id"].as_str().unwrap_or_default().to_owned());
        Ok(log)
    }

    /// Waits until no agent is registered and none has links.
    ///
    /// # Errors
    /// With what is left.
    pub fn ensure_no_agents(&self) -> Result<()> {
        eventually(DEADLINE, "no agent is left", || {
            let left: Vec<_> = fs::read_dir(self.directory("run").join("agents"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().display().to_string())
                .collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("; ")) }
        })?;
        let cgroups = super::cgroup::named(&super::cgroup::mount_point()?.join("agentnet"), &self.name);
        ensure!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Gives up all privilege of the child, but for some groups.
pub fn become_user_in(command: &mut Command, user: u32, groups: &[u32]) {
    use std::os::unix::process::CommandExt as _;
    if groups.is_empty() {
        return become_user(command, Some(user));
    }
    let groups: Vec<_> = groups.iter().map(|group| rustix::fs::Gid::from_raw(*group)).collect();
    // Before the user is changed, which takes the right to change groups.
    let change = move || Ok(rustix::thread::set_thread_groups(&groups)?);
    let (uid, gid) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(user));
    let switch = move || {
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
    };
    // SAFETY: system calls alone, and the child has one thread.
    unsafe { command.pre_exec(change).pre_exec(switch) };
}

/// Makes mounts in which the daemon's directories are below `dir`.
fn place(dir: &Path) -> Result<OwnedFd> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for (name, target) in PLACES {
        fs::create_dir(dir.join(name))?;
        // A mount needs something to be mounted on.
        fs::create_dir_all(target)?;
    }
    let mut groups = fs::read_to_string("/etc/group")?;
    groups.push_str(&format!("agentnet:x:{READERS}:\nagentnet-run:x:{RUNNERS}:\n"));
    fs::write(dir.join("group"), groups)?;
    let mut hosts = fs::read_to_string("/etc/hosts")?;
    for family in Family::ALL {
        hosts.push_str(&format!(
            "\n{} {DENIED_NAME}\n{} {METADATA_NAME}\n",
            family.denied(),
            family.metadata()
        ));
    }
    fs::write(dir.join("hosts"), hosts)?;
    let dir = dir.to_owned();
    let maker = thread::spawn(move || -> Result<OwnedFd> {
        // SAFETY: the mounts belong to this thread alone, which ends here.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }?;
        mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        let places = PLACES.iter().map(|(name, target)| (dir.join(name), *target));
        let files = [(dir.join("group"), "/etc/group"), (dir.join("hosts"), "/etc/hosts")];
        for (own, target) in places.chain(files) {
            mount_bind(text(own.as_os_str())?.as_c_str(), text(OsStr::new(target))?.as_c_str())?;
        }
        // A file system of its own: every mount of bpffs is.
        mount(c"bpf", c"/sys/fs/bpf", c"bpf", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0700"))?;
        Ok(File::open("/proc/thread-self/ns/mnt")?.into())
    });
    maker.join().map_err(|_| anyhow!("a thread of the lab panicked"))?
}

fn text(path: &OsStr) -> Result<CString> {
    Ok(CString::new(path.as_bytes())?)
}
