//! An agent of the library's, without an engine: the test reads the rings itself.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use agentnet::{
    agent::AgentName,
    kernel::{Kernel, Ring, clear_pins, mounts::ensure_bpffs},
    policy::{self, compile::Compiled},
};
use agentnet_common::{
    abi::{AgentCfg, AgentCounters, maps},
    event::{FlowEnd, Way},
    user::{Record, SampleRecord},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Map, MapData, SockHash};

use super::{
    cgroup,
    child::{Finished, finish, join_cgroup, probe_binary},
    found::Resident,
    hosts::Hosts,
    policy::Policy,
};
use crate::{
    eventually::{DEADLINE, eventually},
    probe::script::{Came, Step},
};

const AGENT: u32 = 9;
const SLOT: u32 = 2;

fn compiled(policy: &Policy) -> Result<Compiled> {
    let read = policy::Policy::from_text("lab.toml", &policy.text(), &[]);
    Ok(read.map_err(|problems| anyhow!(problems.render(false)))?.compiled)
}

/// A cgroup under a policy, and the rings of its programs.
pub struct Watched<'a> {
    /// The programs and maps.
    pub kernel: Kernel,
    /// Its configuration.
    pub cfg: AgentCfg,
    hosts: &'a Hosts,
    name: AgentName,
    cgroup: PathBuf,
    pins: PathBuf,
    alerts: Ring,
    samples: Ring,
    seen: Vec<Record>,
}

impl<'a> Watched<'a> {
    /// Puts a new cgroup under a policy.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(hosts: &'a Hosts, policy: &Policy) -> Result<Self> {
        let compiled = compiled(policy)?;
        let name: AgentName = format!("{}-watched", hosts.name).parse()?;
        let pins = ensure_bpffs()?.join(format!("agentnet-{name}"));
        let cgroup = cgroup::mount_point()?.join(&name);
        fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
        let mut kernel = Kernel::load(&pins)?;
        kernel.install(SLOT, &compiled)?;
        let cfg = compiled.agent_cfg(AGENT, SLOT, 1);
        kernel.attach(&name, &cgroup, cfg)?;
        let (alerts, samples) = kernel.rings()?;
        Ok(Self { kernel, cfg, hosts, name, cgroup, pins, alerts, samples, seen: Vec::new() })
    }

    /// Runs the probe in the cgroup and waits for it.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new(probe_binary()?);
        command.args(args).stdin(Stdio::null());
        self.hosts.agent.attach(&mut command);
        join_cgroup(&mut command, &self.cgroup)?;
        let finished = finish(command, None)?;
        ensure!(finished.status.success(), "{args:?}: {finished:?}");
        Ok(())
    }

    /// Runs any command in the cgroup and waits for it, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started, or does not end.
    pub fn finish(&self, mut command: Command, input: Option<&[u8]>) -> Result<Finished> {
        self.hosts.agent.attach(&mut command);
        join_cgroup(&mut command, &self.cgroup)?;
        finish(command, input)
    }

    /// Runs a script of the probe in the cgroup; what came of each step.
    ///
    /// # Errors
    /// If it fails.
    pub fn script(&self, steps: &[Step]) -> Result<Vec<Came>> {
        let file = tempfile::NamedTempFile::new()?;
        serde_json::to_writer(&file, steps)?;
        let mut command = Command::new(probe_binary()?);
        command.arg("script").arg(file.path());
        self.hosts.agent.attach(&mut command);
        join_cgroup(&mut command, &self.cgroup)?;
        let finished = finish(command, None)?;
        ensure!(finished.status.success(), "{finished:?}");
        finished.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Starts the probe in the cgroup and waits until it says that it is ready.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn start(&self, args: &[&str]) -> Result<Resident> {
        let mut command = Command::new(probe_binary()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        self.hosts.agent.attach(&mut command);
        join_cgroup(&mut command, &self.cgroup)?;
        Resident::spawn(command)
    }

    /// Changes its configuration, under a new generation.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn configure(&mut self, cfg: AgentCfg) -> Result<()> {
        self.cfg = AgentCfg { generation: self.cfg.generation + 1, ..cfg };
        Ok(self.kernel.configure(&self.cgroup, self.cfg)?)
    }

    /// Puts another policy in place of its own, under a new generation.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn reload(&mut self, policy: &Policy) -> Result<()> {
        let compiled = compiled(policy)?;
        self.kernel.install(SLOT, &compiled)?;
        let cfg = compiled.agent_cfg(AGENT, SLOT, 0);
        self.configure(AgentCfg { flags: cfg.flags | self.cfg.flags, ..cfg })
    }

    /// Reads the rings and returns all records that were ever read.
    ///
    /// # Errors
    /// If one cannot be decoded.
    pub fn records(&mut self) -> Result<&[Record]> {
        for ring in [&mut self.alerts, &mut self.samples] {
            while let Some(record) = ring.next_record() {
                self.seen.push(record?);
            }
        }
        Ok(&self.seen)
    }

    /// The ends of flows, once there are `count`.
    ///
    /// # Errors
    /// If there are not in time.
    pub fn ends(&mut self, count: usize) -> Result<Vec<FlowEnd>> {
        eventually(DEADLINE, "flows end", || {
            let ends: Vec<FlowEnd> = self
                .records()
                .map_err(|error| error.to_string())?
                .iter()
                .filter_map(|record| match record {
                    Record::FlowEnd(end) => Some(*end),
                    _ => None,
                })
                .collect();
            if ends.len() >= count { Ok(ends) } else { Err(format!("{} ended", ends.len())) }
        })
    }

    /// What was sampled one way.
    ///
    /// # Errors
    /// If a record cannot be decoded.
    pub fn samples(&mut self, way: Way) -> Result<Vec<SampleRecord>> {
        Ok(self
            .records()?
            .iter()
            .filter_map(|record| match record {
                Record::Sample(sample) if sample.way == way => Some(sample.clone()),
                _ => None,
            })
            .collect())
    }

    /// How many connections have yet to say a name in TLS, or have just done so.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn held(&self) -> Result<usize> {
        let data = MapData::from_pin(self.pins.join("maps").join(maps::HELLOS))?;
        let map = Map::SockHash(data);
        let held = SockHash::<_, u64>::try_from(&map)?.keys().collect::<Result<Vec<_>, _>>()?;
        Ok(held.len())
    }

    /// Its counters.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn counters(&self) -> Result<AgentCounters> {
        Ok(self.kernel.counters(self.cfg.agent)?)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let _ = self.kernel.detach(&self.name, &self.cgroup);
        let _ = clear_pins(&self.pins);
        // Whoever has just ended may be in it for a moment longer.
        let _ = eventually(DEADLINE, "the cgroup empties", || {
            fs::remove_dir(&self.cgroup).map_err(|error| error.to_string())
        });
    }
}
