//! An agent of the library's, without an engine: the test reads the rings itself.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    mem::offset_of,
    net::IpAddr,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use agentnet::{
    agent::AgentName,
    kernel::{Kernel, Ring, clear_pins, mounts::ensure_bpffs},
    policy::{self, compile::Compiled},
};
use agentnet_common::{
    abi::{AgentCfg, AgentCounters, Pin, Pins, Queries, Query, maps},
    event::{FlowEnd, Way},
    user::{Record, SampleRecord},
};
use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{self as aya_maps, MapData, SockHash};

use super::{
    bpf::Map,
    cgroup,
    child::{Finished, finish, join_cgroup, probe_binary, wait},
    found::Resident,
    hosts::Hosts,
    policy::Policy,
    script,
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
    /// The cgroup.
    pub cgroup: PathBuf,
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
        script::script(self.hosts, Some(&self.cgroup), steps)
    }

    /// Runs a script in the cgroup that has one [`Step::Wait`]: then `meanwhile` is called with the probe's process.
    ///
    /// # Errors
    /// If either fails.
    pub fn script_with_pause(
        &self,
        steps: &[Step],
        meanwhile: impl FnOnce(u32) -> Result<()>,
    ) -> Result<Vec<Came>> {
        let (mut command, _file) = script::command(self.hosts, Some(&self.cgroup), steps)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let pause = steps.iter().position(|step| matches!(step, Step::Wait)).context("no pause")?;
        let mut came = Vec::new();
        let mut more = |count: usize| -> Result<Vec<Came>> {
            lines.by_ref().take(count).map(|line| Ok(serde_json::from_str(&line?)?)).collect()
        };
        came.extend(more(pause + 1)?);
        let done = meanwhile(child.id());
        child.stdin.take().context("no input")?.write_all(b"\n")?;
        came.extend(more(steps.len())?);
        let status = wait(&mut child)?;
        ensure!(status.success(), "{status:?} {came:?}");
        done.map(|()| came)
    }

    /// One of its maps.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn map(&self, name: &str) -> Result<Map> {
        Map::open(&self.pins.join("maps").join(name))
    }

    /// Ends what names have opened, as time does.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn expire(&self, ip: IpAddr) -> Result<()> {
        let (pins, key) = self.pins(ip)?;
        let mut value = pins.get(&key, size_of::<Pins>())?;
        for pin in value.chunks_exact_mut(size_of::<Pin>()) {
            // A second after the machine was started.
            pin[offset_of!(Pin, expiry)..][..4].copy_from_slice(&1_u32.to_ne_bytes());
        }
        pins.set(&key, &value)
    }

    /// When the first name that has opened an address does so no more, seconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// As bpf(2), if none has.
    pub fn expiry(&self, ip: IpAddr) -> Result<u32> {
        let (pins, key) = self.pins(ip)?;
        let value = pins.get(&key, size_of::<Pins>())?;
        Ok(u32::from_ne_bytes(value[offset_of!(Pin, expiry)..][..4].try_into()?))
    }

    /// Where it is kept by which names an address is open.
    fn pins(&self, ip: IpAddr) -> Result<(Map, [u8; 16])> {
        let pins = self.map(maps::PINS)?.inner(&self.cfg.agent.to_ne_bytes())?;
        let key = match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Ok((pins, key))
    }

    /// Makes all queries that a process waits for older by `seconds`.
    ///
    /// # Errors
    /// As bpf(2); if the process has no socket with queries.
    pub fn age_queries(&self, pid: u32, seconds: u64) -> Result<()> {
        let queries = self.map(maps::QUERIES)?;
        let process = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process")?;
        let process = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
        let mut aged = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let number: i32 = entry?.file_name().to_string_lossy().parse()?;
            let flags = rustix::process::PidfdGetfdFlags::empty();
            let socket = rustix::process::pidfd_getfd(&process, number, flags)?;
            let key = socket.as_raw_fd().to_ne_bytes();
            // Whatever is no socket, or asks nobody.
            let Ok(mut value) = queries.get(&key, size_of::<Queries>()) else { continue };
            for query in value.chunks_exact_mut(size_of::<Query>()) {
                let time = &mut query[offset_of!(Query, time)..][..8];
                let then = u64::from_ne_bytes(time.try_into()?).saturating_sub(seconds * 1_000_000_000);
                time.copy_from_slice(&then.to_ne_bytes());
            }
            queries.set(&key, &value)?;
            aged += 1;
        }
        ensure!(aged > 0, "no socket of {pid} waits for anything");
        Ok(())
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
        let map = aya_maps::Map::SockHash(data);
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

/// Runs a script where agents run, without agentnet: what fails by itself proves nothing. What came of each step.
///
/// # Errors
/// If the probe fails.
pub fn script_ungoverned(hosts: &Hosts, steps: &[Step]) -> Result<Vec<Came>> {
    script::script(hosts, None, steps)
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let _ = self.kernel.detach(&self.name, &self.cgroup);
        let _ = clear_pins(&self.pins);
        // Whoever was in it may still be on the way out.
        let _ = eventually(DEADLINE, "the cgroup empties", || match fs::remove_dir(&self.cgroup) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        });
    }
}
