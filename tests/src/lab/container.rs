//! Containers: agents in a network namespace of their own, guarded at the host's end of their interface.
//!
//! Kernel programs are driven by agentnet's library, without an engine, so that one line of defence can be tried
//! without the other.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use agentnet::{
    agent::AgentName,
    kernel::{
        Kernel,
        mounts::ensure_bpffs,
        tcx::{Coverage, Tcx},
    },
    policy,
};
use agentnet_common::{abi::AgentCfg, verdict::Reason};
use anyhow::{Context as _, Result, anyhow, ensure};
use tempfile::TempDir;

use super::{
    Lab, cgroup,
    child::{join_cgroup, probe_binary, reports, wait},
    hosts::Hosts,
    net::{FENCE_PORT, Family},
    netns::Namespace,
    policy::Policy,
};
use crate::{
    probe::{Report, Request},
    skip,
};

/// The number of the agent and of its policy's slot.
const AGENT: u32 = 7;
const SLOT: u32 = 3;

/// A container, the host with its bridge, and the servers beyond.
pub struct Site {
    /// What is at both ends; the container is where [`Lab`]'s agents run.
    pub lab: Lab,
    /// Between them.
    pub host: Namespace,
}

impl Site {
    /// Builds one.
    ///
    /// # Errors
    /// Without root, or if the kernel has no veth interfaces or bridges.
    pub fn new() -> Result<Self> {
        let (hosts, host) = Hosts::bridged()?;
        Ok(Self { lab: Lab::on(hosts)?, host })
    }

    /// How many packets with the marker of a request have reached the far end, after a fence.
    ///
    /// # Errors
    /// If the fence does not arrive.
    pub fn arrived(&self, request: &Request) -> Result<usize> {
        self.lab.fence()?;
        Ok(self.lab.sniffer.carrying(request.args.secret()))
    }
}

/// The allowed endpoint, and where the lab's fences go: they take the container's way.
pub fn policy() -> Policy {
    Policy::standard().allow(&Family::V4.allowed().to_string(), &[FENCE_PORT], &["udp"])
}

/// Runs a command in a namespace. `false` if it is not installed or fails, which is said as the reason why `test`
/// is skipped.
///
/// # Errors
/// If there is no command.
pub fn configure(test: &str, namespace: &Namespace, words: &[&str]) -> Result<bool> {
    let (name, args) = words.split_first().context("a command")?;
    let mut command = Command::new(name);
    command.args(args);
    namespace.attach(&mut command);
    Ok(match command.output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip!(test, "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            false
        }
        Err(error) => {
            skip!(test, "{name} is not installed: {error}");
            false
        }
    })
}

/// Fails unless every operation succeeded.
///
/// # Errors
/// With all reports.
pub fn ensure_all_ok(reports: &[Report]) -> Result<()> {
    ensure!(reports.iter().all(|report| report.ok), "refused or failed: {reports:#?}");
    Ok(())
}

/// An agent of the library's: a cgroup, a policy in the kernel, and what is attached on top of it.
pub struct Guard<'a> {
    /// The programs and maps.
    pub kernel: Kernel,
    /// What is attached to interfaces.
    pub tcx: Tcx,
    /// Its name.
    pub name: AgentName,
    /// Its configuration.
    pub cfg: AgentCfg,
    /// Its cgroup.
    pub cgroup: PathBuf,
    pins: PathBuf,
    host: &'a Namespace,
    inside: &'a Namespace,
    dir: TempDir,
}

impl<'a> Guard<'a> {
    /// Loads programs and policy for an agent that runs `inside`. Nothing is attached yet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(name: &str, host: &'a Namespace, inside: &'a Namespace, policy: &Policy) -> Result<Self> {
        let compiled = policy::Policy::from_text("lab.toml", &policy.text(), &[])
            .map_err(|problems| anyhow!(problems.render(false)))?
            .compiled;
        let name: AgentName = format!("{name}-box").parse()?;
        let pins = ensure_bpffs()?.join(format!("agentnet-{name}"));
        let cgroup = cgroup::mount_point()?.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        let mut kernel = Kernel::load(&pins)?;
        kernel.install(SLOT, &compiled)?;
        let (cfg, tcx) = (compiled.agent_cfg(AGENT, SLOT, 1), Tcx::load(&mut kernel)?);
        let dir = TempDir::with_prefix("agentnet-lab-")?;
        Ok(Self { kernel, tcx, name, cfg, cgroup, pins, host, inside, dir })
    }

    /// Guards the container from the host.
    ///
    /// # Errors
    /// If it cannot be guarded.
    pub fn container(&mut self) -> Result<Coverage> {
        let Self { kernel, tcx, name, cfg, inside, .. } = self;
        self.host.run(|| Ok(tcx.guard_container(kernel, name, *cfg, inside.fd())?))
    }

    /// Guards the interfaces of the host, on which the agent lives.
    ///
    /// # Errors
    /// If they cannot be guarded.
    pub fn host(&mut self) -> Result<Vec<u32>> {
        let Self { kernel, tcx, name, cfg, cgroup, .. } = self;
        self.host.run(|| Ok(tcx.guard_host(kernel, name, *cfg, cgroup)?))
    }

    /// What is wrong with it, as the kernel says.
    ///
    /// # Errors
    /// If the lab's threads fail.
    pub fn problems(&self) -> Result<Vec<String>> {
        self.host.run(|| {
            let mut problems = self.tcx.problems(&self.kernel, &self.name);
            problems.extend(self.tcx.host_problems(&self.kernel));
            Ok(problems)
        })
    }

    /// Runs operations of the probe in the agent's place: in its cgroup or a descendant, with all privilege.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn attempt(&self, cgroup: &Path, requests: &[Request]) -> Result<Vec<Report>> {
        let mut command = self.suite(requests)?;
        join_cgroup(&mut command, cgroup)?;
        reports(command, requests)
    }

    /// The same by a neighbour that is not the agent.
    ///
    /// # Errors
    /// If the probe itself fails.
    pub fn attempt_outside(&self, requests: &[Request]) -> Result<Vec<Report>> {
        reports(self.suite(requests)?, requests)
    }

    /// Starts an echo server in the container, in the agent's cgroup, which ends when dropped.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn serve(&self, at: SocketAddr) -> Result<Serving> {
        let at = at.to_string();
        let mut command = Command::new(probe_binary()?);
        command.args(["serve", "--tcp", &at, "--udp", &at]);
        self.inside.attach(&mut command);
        join_cgroup(&mut command, &self.cgroup)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let serving = Serving(child);
        ensure!(line.contains("ready"), "the server did not come up: {line:?}");
        Ok(serving)
    }

    fn suite(&self, requests: &[Request]) -> Result<Command> {
        let file = self.dir.path().join("suite.json");
        fs::write(&file, serde_json::to_vec(requests)?)?;
        let mut command = Command::new(probe_binary()?);
        command.arg("suite").arg(file);
        self.inside.attach(&mut command);
        Ok(command)
    }

    /// How often something was refused for this reason.
    ///
    /// # Errors
    /// If the counters cannot be read.
    pub fn refused(&self, reason: Reason) -> Result<u64> {
        let counters = self.kernel.counters(self.cfg.agent)?;
        counters.denied.get(reason as usize).copied().context("a reason without a counter")
    }

    /// Links that are pinned, by their paths.
    pub fn pinned(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in fs::read_dir(self.pins.join("links")).into_iter().flatten().flatten() {
            found.extend(
                fs::read_dir(directory.path()).into_iter().flatten().flatten().map(|file| file.path()),
            );
        }
        found
    }

    /// Ends the second line and checks that nothing of it is left.
    ///
    /// # Errors
    /// If something is.
    pub fn release(&mut self) -> Result<()> {
        let Self { kernel, tcx, name, .. } = self;
        self.host.run(|| Ok(tcx.release(kernel, name)?))?;
        let pinned = self.pinned();
        ensure!(pinned.is_empty(), "still pinned: {pinned:?}");
        Ok(())
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let _ = self.release();
        // Also after a failure that left something.
        for path in self.pinned() {
            let _ = fs::remove_file(path);
        }
        for name in [self.name.as_str(), "@host"] {
            let _ = fs::remove_dir(self.pins.join("links").join(name));
        }
        let _ = agentnet::kernel::clear_pins(&self.pins);
        for child in [self.cgroup.join("child"), self.cgroup.clone()] {
            let _ = fs::remove_dir(child);
        }
    }
}

/// A server in a container.
pub struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = wait(&mut self.0);
    }
}
