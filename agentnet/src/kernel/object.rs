//! The object in the kernel: loading, policies, agents, counters.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use agentnet_common::{
    abi::{AgentCfg, AgentCounters, Budget, SAMPLE_BUDGET, SERIES_PLACES, Series, maps},
    event::VerdictEvent,
};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf},
    programs::{ProgramInfo, loaded_programs},
};
use aya_obj::Object;

use super::{
    KernelError, links, pins,
    ring::Ring,
    sys,
    tables::{First, Tables},
    unix,
};
use crate::agent::AgentName;

/// The object as built, or nothing in builds without an eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agentnet.bpf.o"));

/// Flag of LPM tries, which have no other way of allocation (kernel/bpf/lpm_trie.c).
pub(super) const BPF_F_NO_PREALLOC: u32 = 1;

/// The loaded object: programs for any number of agents, and the maps they share.
///
/// Dropping it ends nothing: links and maps are pinned. [`Kernel::detach`] ends the enforcement of one agent,
/// [`Kernel::close`] removes everything.
#[derive(Debug)]
pub struct Kernel {
    object: Ebpf,
    unix: unix::Programs,
    tables: Tables,
    /// The agent that has room already.
    roomy: Option<u32>,
    pins: PathBuf,
    sample_most: u64,
}

/// The object.
pub(super) fn bytes() -> Result<&'static [u8], KernelError> {
    if OBJECT.is_empty() { Err(KernelError::Stub) } else { Ok(OBJECT) }
}

fn parse() -> Result<Object, KernelError> {
    Object::parse(bytes()?).map_err(|error| KernelError::Object(Box::new(error.into())))
}

impl Kernel {
    /// Loads the object with maps of its own and pins them below `pins`. Nothing is attached yet.
    ///
    /// # Errors
    /// When this build holds no object, the kernel refuses it, or bpffs cannot be written. Nothing is left
    /// behind then.
    pub fn load(pins: &Path) -> Result<Self, KernelError> {
        Self::load_fresh(pins, None)
    }

    /// As [`Kernel::load`], for one agent: its policy is installed and it has room when this returns, which takes
    /// less than one after the other.
    ///
    /// # Errors
    /// As [`Kernel::load`] and [`Kernel::install`].
    pub fn load_for(pins: &Path, first: &First<'_>) -> Result<Self, KernelError> {
        Self::load_fresh(pins, Some(first))
    }

    fn load_fresh(pins: &Path, first: Option<&First<'_>>) -> Result<Self, KernelError> {
        Self::load_on(pins, first).inspect_err(|_| {
            // The first error is the one to tell; what is left is removed by the next clean-up too.
            let _ = pins::clear_pins(pins);
        })
    }

    /// Loads the object on the maps that are pinned below `pins`, so that the new programs know everything the
    /// old ones knew. A map that an older version did not have is made. What is attached stays as it is until
    /// [`Kernel::relink`].
    ///
    /// # Errors
    /// As [`Kernel::load`], and when a pinned map has another shape. Whatever is pinned stays.
    pub fn adopt(pins: &Path) -> Result<Self, KernelError> {
        pins::check_shapes(pins, &parse()?)?;
        Self::load_on(pins, None)
    }

    fn load_on(pins: &Path, first: Option<&First<'_>>) -> Result<Self, KernelError> {
        pins::create(pins)?;
        let mut loader = EbpfLoader::new();
        // Nothing in the object is relocated against the kernel's types.
        loader.btf(None).verifier_log_level(VerifierLogLevel::DISABLE);
        // Every map: whoever comes next finds all that the programs know.
        let parsed = parse()?;
        for name in parsed.maps.keys().filter(|name| !name.starts_with('.')) {
            loader.map_pin_path(name, pins::map_path(pins, name));
        }
        let mut object = loader.load(bytes()?).map_err(|error| KernelError::Object(Box::new(error)))?;
        let tables = Tables::of(&object)?;
        // Two have the kernel verify programs, and the third has it wait.
        let unix = thread::scope(|scope| {
            let unix = scope.spawn(|| unix::Programs::load(parsed, pins));
            let prepared = scope.spawn(|| first.map_or(Ok(()), |first| tables.prepare(first)));
            links::load_programs(&mut object)?;
            prepared.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            unix.join().unwrap_or_else(|panic| resume_unwind(panic)).map_err(KernelError::Unix)
        })?;
        let roomy = first.map(|first| first.agent);
        Ok(Self { object, unix, tables, roomy, pins: pins.to_owned(), sample_most: SAMPLE_BUDGET })
    }

    /// From now on agents that are attached get `bytes` a second of payload sampled, at least one.
    pub fn sample_at_most(&mut self, bytes: u64) {
        self.sample_most = bytes.max(1);
    }

    /// Gives an agent its budget of samples.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn give_budget(&self, agent: u32) -> Result<(), KernelError> {
        let failed = |error| KernelError::Map { map: maps::BUDGETS, source: MapError::IoError(error) };
        let data = map_data(self.map(maps::BUDGETS)?).ok_or_else(|| missing(maps::BUDGETS))?;
        let budget = Budget { most: self.sample_most, ..Budget::default() };
        sys::map_update(data.fd().as_fd(), &agent, &budget).map_err(failed)
    }

    /// The programs at Unix sockets.
    pub(super) const fn unix(&self) -> &unix::Programs {
        &self.unix
    }

    /// Its arrays of maps.
    pub(super) const fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The directory of its pins.
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// What is guarded when an agent is attached, in words.
    pub fn doors(&self) -> Vec<String> {
        links::doors(&self.unix)
    }

    /// The object, for programs that not every engine loads.
    pub(super) const fn object_mut(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    pub(super) fn map(&self, name: &'static str) -> Result<&Map, KernelError> {
        self.object.map(name).ok_or_else(|| missing(name))
    }

    pub(super) fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, KernelError> {
        self.object.map_mut(name).ok_or_else(|| missing(name))
    }

    /// Puts a cgroup under a policy: writes the configuration, reads it back, and attaches and pins every program.
    ///
    /// # Errors
    /// When anything fails; then nothing is attached.
    pub fn attach(&mut self, agent: &AgentName, cgroup: &Path, cfg: AgentCfg) -> Result<(), KernelError> {
        self.prepare(cgroup, cfg.agent)?;
        self.enforce(agent, cgroup, cfg)
    }

    /// The first half of [`Kernel::attach`]: the number `agent` begins with nothing that another one knew. Nothing is
    /// attached yet.
    ///
    /// # Errors
    /// When a map cannot be made or written.
    pub fn prepare(&mut self, cgroup: &Path, agent: u32) -> Result<(), KernelError> {
        self.register(agent)?;
        if self.roomy.take() != Some(agent) {
            self.make_room(agent)?;
        }
        self.give_budget(agent)?;
        self.disarm(cgroup_id(cgroup)?)?;
        self.tell_by_number(agent, &AgentCfg::default())
    }

    /// The second half of [`Kernel::attach`].
    ///
    /// # Errors
    /// When anything fails; then nothing is attached.
    pub fn enforce(&self, agent: &AgentName, cgroup: &Path, cfg: AgentCfg) -> Result<(), KernelError> {
        links::attach_all(&self.object, &self.unix, &self.pins, agent, cgroup, || self.configure(cgroup, cfg))
    }

    /// Moves the agent's links to the programs of this object, with no packet in between that nobody judges.
    ///
    /// # Errors
    /// When a link stays with its old program, which goes on judging.
    pub fn relink(&self, agent: &AgentName, cgroup: &Path) -> Result<(), KernelError> {
        links::update_all(&self.object, &self.unix, &self.pins, agent, cgroup)
    }

    /// Ends the enforcement of one agent whose cgroup is or was `cgroup`: nothing judges it when this returns.
    ///
    /// # Errors
    /// When a pin cannot be removed; then enforcement may go on.
    pub fn detach(&mut self, agent: &AgentName, cgroup: &Path) -> Result<(), KernelError> {
        let number = self.configuration_of(agent).map_or(0, |cfg| cfg.agent);
        links::detach_all(&self.pins, agent)
            .map_err(|source| KernelError::Unpin { path: pins::links_of(&self.pins, agent), source })?;
        if number != 0 {
            self.tell_by_number(number, &AgentCfg::default())?;
        }
        match cgroup_id(cgroup) {
            Ok(id) => self.disarm(id),
            // With the cgroup its storage is gone.
            Err(_) => Ok(()),
        }
    }

    /// Makes sure that nothing an earlier agent left with the cgroup speaks for the next one.
    fn disarm(&self, id: u64) -> Result<(), KernelError> {
        let data = map_data(self.map(maps::CFG)?).ok_or_else(|| missing(maps::CFG))?;
        match sys::map_update(data.fd().as_fd(), &id, &AgentCfg::default()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::Configure(error)),
            _ => Ok(()),
        }
    }

    /// Starts the agent's counters at zero.
    fn register(&mut self, agent: u32) -> Result<(), KernelError> {
        let failed = |source| KernelError::Map { map: maps::COUNTERS, source };
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| failed(MapError::IoError(error)))?;
        let zero = PerCpuValues::try_from(vec![AgentCounters::default(); cpus])
            .map_err(|error| failed(MapError::IoError(error)))?;
        PerCpuArray::<_, AgentCounters>::try_from(self.map_mut(maps::COUNTERS)?)
            .map_err(failed)?
            .set(agent, zero, 0)
            .map_err(failed)
    }

    /// Changes the configuration of a governed cgroup, as a whole and at once.
    ///
    /// # Errors
    /// When it cannot be written, or does not read back as written.
    pub fn configure(&self, cgroup: &Path, cfg: AgentCfg) -> Result<(), KernelError> {
        let id = cgroup_id(cgroup)?;
        let data = map_data(self.map(maps::CFG)?).ok_or_else(|| missing(maps::CFG))?;
        // What has no cgroup to go by first: a program that finds both differs for a moment only.
        self.tell_by_number(cfg.agent, &cfg)?;
        sys::map_update(data.fd().as_fd(), &id, &cfg).map_err(KernelError::Configure)?;
        if self.held(id)? == cfg { Ok(()) } else { Err(KernelError::NotInForce) }
    }

    /// Writes the configuration where programs look that know an agent's number alone.
    fn tell_by_number(&self, agent: u32, cfg: &AgentCfg) -> Result<(), KernelError> {
        let failed = |error| KernelError::Map { map: maps::AGENTS, source: MapError::IoError(error) };
        let data = map_data(self.map(maps::AGENTS)?).ok_or_else(|| missing(maps::AGENTS))?;
        sys::map_update(data.fd().as_fd(), &agent, cfg).map_err(failed)
    }

    /// The configuration that the kernel holds for `cgroup`.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn configuration(&self, cgroup: &Path) -> Result<AgentCfg, KernelError> {
        self.held(cgroup_id(cgroup)?)
    }

    /// The configuration of an agent that is known by its links alone; `None` if its cgroup is gone.
    pub fn configuration_of(&self, agent: &AgentName) -> Option<AgentCfg> {
        links::guarded(&self.pins, agent).and_then(|id| self.held(id).ok())
    }

    fn held(&self, id: u64) -> Result<AgentCfg, KernelError> {
        let data = map_data(self.map(maps::CFG)?).ok_or_else(|| missing(maps::CFG))?;
        sys::map_lookup(data.fd().as_fd(), &id).map_err(KernelError::Configure)
    }

    /// Everything that stands between `cgroup` and being governed by `cfg` now, as the kernel tells it, not as
    /// this process remembers it; empty if it is enforced and stays so without this process.
    pub fn problems(&self, agent: &AgentName, cgroup: &Path, cfg: &AgentCfg) -> Vec<String> {
        let id = match cgroup_id(cgroup) {
            Ok(id) => id,
            Err(error) => return vec![error.to_string()],
        };
        let policy = match self.held(id) {
            Ok(held) if held == *cfg => None,
            Ok(_) => Some(KernelError::NotInForce.to_string()),
            Err(error) => Some(error.to_string()),
        };
        links::problems(&self.pins, agent, id).into_iter().chain(policy).collect()
    }

    /// The agent's counters, summed over the CPUs.
    ///
    /// # Errors
    /// When the map cannot be read or does not know the agent.
    pub fn counters(&self, agent: u32) -> Result<AgentCounters, KernelError> {
        let failed = |source| KernelError::Map { map: maps::COUNTERS, source };
        let values = PerCpuArray::<_, AgentCounters>::try_from(self.map(maps::COUNTERS)?)
            .map_err(failed)?
            .get(&agent, 0)
            .map_err(failed)?;
        Ok(values.iter().fold(AgentCounters::default(), AgentCounters::plus))
    }

    /// The series of allowed flows that the kernel follows for `agent` and that began at `since` or later,
    /// nanoseconds of `CLOCK_MONOTONIC`: an earlier agent may have had the number.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn series(&self, agent: u32, since: u64) -> Result<Vec<VerdictEvent>, KernelError> {
        let failed = |source| KernelError::Map { map: maps::SERIES, source };
        let map = PerCpuArray::<_, Series>::try_from(self.map(maps::SERIES)?).map_err(failed)?;
        let mut found = Vec::new();
        for place in 0..SERIES_PLACES {
            let values = map.get(&place, 0).map_err(failed)?;
            let first = values.iter().map(|series| series.first);
            found.extend(first.filter(|first| first.header.agent == agent && first.header.time >= since));
        }
        Ok(found)
    }

    /// Cookies of the TCP sockets that may hold refused data, with the number of the agent. Destroy an agent's
    /// before [`Kernel::detach`]: the kernel would deliver it.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn refused(&self) -> Result<HashMap<u64, u32>, KernelError> {
        pins::read_refused(self.map(maps::REFUSED)?)
    }

    /// Forgets sockets that are gone, so that there is room for others.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn forget_refused(&self, cookies: impl IntoIterator<Item = u64>) -> Result<(), KernelError> {
        let data = map_data(self.map(maps::REFUSED)?).ok_or_else(|| missing(maps::REFUSED))?;
        for cookie in cookies {
            match sys::map_delete(data.fd().as_fd(), &cookie) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(KernelError::Map { map: maps::REFUSED, source: MapError::IoError(error) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Readers of the alert ring and of the sample ring. To be called once.
    ///
    /// # Errors
    /// When they were taken already.
    pub fn rings(&mut self) -> Result<(Ring, Ring), KernelError> {
        let mut take = |name: &'static str| {
            let map = self.object.take_map(name).ok_or_else(|| missing(name))?;
            RingBuf::try_from(map).map(Ring::new).map_err(|source| KernelError::Map { map: name, source })
        };
        Ok((take(maps::ALERTS)?, take(maps::SAMPLES)?))
    }

    /// What the kernel says of one of the programs.
    ///
    /// # Errors
    /// When there is no such program.
    pub(super) fn program_info(&self, program: &'static str) -> Result<ProgramInfo, KernelError> {
        let failed = |source| KernelError::Load { program, source: Box::new(source) };
        if let Some(program) = self.object.program(program).filter(|program| program.fd().is_ok()) {
            return program.info().map_err(failed);
        }
        // Those at Unix sockets are not the library's.
        let (_, loaded) = self
            .unix
            .each()
            .find(|(hook, _)| hook.program == program)
            .ok_or(KernelError::NoProgram { program })?;
        let id = sys::program_id(loaded.as_fd()).map_err(|error| failed(error.into()))?;
        loaded_programs()
            .filter_map(Result::ok)
            .find(|info| info.id() == id)
            .ok_or(KernelError::NoProgram { program })
    }

    /// A loaded program.
    pub(super) fn program(&self, program: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        let loaded = self.object.program(program).and_then(|program| program.fd().ok());
        loaded.map(|fd| fd.as_fd()).ok_or(KernelError::NoProgram { program })
    }

    /// The descriptor of a map.
    pub(super) fn map_fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        Ok(map_data(self.map(name)?).ok_or_else(|| missing(name))?.fd().as_fd())
    }

    /// Removes everything that is pinned: **all enforcement by this object ends**. Call it last.
    ///
    /// # Errors
    /// When a pin cannot be removed; then enforcement may go on.
    pub fn close(self) -> Result<(), KernelError> {
        let Self { object, unix, tables, pins, .. } = self;
        for agent in pins::agents(&pins).unwrap_or_default() {
            links::detach_all(&pins, &agent)
                .map_err(|source| KernelError::Unpin { path: pins.clone(), source })?;
        }
        pins::clear_pins(&pins).map_err(|source| KernelError::Unpin { path: pins, source })?;
        drop((object, unix, tables));
        Ok(())
    }
}

/// The id of a cgroup: the inode number of its directory (kernfs, 64-bit).
pub(super) fn cgroup_id(cgroup: &Path) -> Result<u64, KernelError> {
    let metadata = fs::metadata(cgroup);
    Ok(metadata.map_err(|source| KernelError::Cgroup { cgroup: cgroup.to_owned(), source })?.ino())
}

pub(super) const fn missing(map: &'static str) -> KernelError {
    KernelError::Map { map, source: MapError::KeyNotFound }
}

/// The map's descriptor, for the kinds that are pinned or written by hand.
pub(super) const fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::CgroupStorage(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::ArrayOfMaps(data)
        | Map::LpmTrie(data)
        | Map::SkStorage(data)
        | Map::SockHash(data) => Some(data),
        _ => None,
    }
}
