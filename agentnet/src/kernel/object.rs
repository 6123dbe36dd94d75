//! The object in the kernel: loading, policies, agents, counters.

use std::{
    collections::HashSet,
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use agentnet_common::{
    abi::{AgentCfg, AgentCounters, Ruleset, maps},
    addr::Addr,
};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{ArrayOfMaps, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, RingBuf, lpm_trie::Key},
    programs::ProgramInfo,
};

use super::{links, pins, ring::Ring, sys};
use crate::policy::compile::Compiled;

/// The object as built, or nothing in builds without an eBPF toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agentnet.bpf.o"));

/// Flag of LPM tries, which have no other way of allocation (kernel/bpf/lpm_trie.c).
const BPF_F_NO_PREALLOC: u32 = 1;

/// An error of aya's and what is behind it: which call failed is in the first, what the kernel said in the last.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some repeat their cause themselves.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// What can go wrong between the user side and the kernel. Each message names the object it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Built without the kernel object.
    #[error(
        "this build has no kernel programs in it: build with `cargo xtask build`, or set AGENTNET_EBPF_OBJECT"
    )]
    Stub,
    /// The object cannot be read or its maps cannot be made.
    #[error("cannot load the kernel object: {}", with_causes(.0))]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks a program, or has it with another type.
    #[error("the kernel object has no program {program} of the right type")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {}", with_causes(source))]
    Load {
        /// Its name.
        program: &'static str,
        /// Why, with the verifier's log.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program cannot be attached.
    #[error("cannot attach program {program} to the cgroup: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The cgroup cannot be opened.
    #[error("cannot open cgroup {}: {source}", cgroup.display())]
    Cgroup {
        /// Its directory.
        cgroup: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map is missing, of another shape, or an operation on it failed.
    #[error("map {map}: {}", with_causes(source))]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The agent's configuration cannot be written.
    #[error("cannot write the agent's configuration: {0}")]
    Configure(#[source] io::Error),
    /// What was read back is not what was written.
    #[error("the kernel holds another configuration than the one written: enforcement is not certain")]
    NotInForce,
    /// The pin directory cannot be made.
    #[error("cannot make {}: {source} (is bpffs mounted?)", path.display())]
    PinDirectory {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something cannot be pinned.
    #[error("cannot pin to {}: {source}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Pins cannot be removed.
    #[error("cannot remove the pins below {}: {source}", path.display())]
    Unpin {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The loaded object and what is attached.
///
/// Dropping it ends nothing: links and maps are pinned. [`Kernel::detach`] ends enforcement.
#[derive(Debug)]
pub struct Kernel {
    object: Ebpf,
    pins: PathBuf,
    attached: Vec<links::Attached>,
}

/// The object.
pub(super) fn bytes() -> Result<&'static [u8], KernelError> {
    if OBJECT.is_empty() { Err(KernelError::Stub) } else { Ok(OBJECT) }
}

impl Kernel {
    /// Loads the object and pins its maps below `pins`. Nothing is attached yet.
    ///
    /// # Errors
    /// When this build holds no object, the kernel refuses it, or bpffs cannot be written. Nothing is left
    /// behind then.
    pub fn load(pins: &Path) -> Result<Self, KernelError> {
        let mut object = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            .load(bytes()?)
            .map_err(|error| KernelError::Object(Box::new(error)))?;
        links::load_programs(&mut object)?;
        let kernel = Self { object, pins: pins.to_owned(), attached: Vec::new() };
        let pinned = pins::create(pins).and_then(|()| kernel.pin_maps());
        if let Err(error) = pinned {
            // The first error is the one to tell; what is left is removed by the next clean-up too.
            let _ = pins::clear_pins(pins);
            return Err(error);
        }
        Ok(kernel)
    }

    fn pin_maps(&self) -> Result<(), KernelError> {
        for name in pins::PINNED_MAPS {
            let path = pins::map_path(&self.pins, name);
            let data = map_data(self.map(name)?)
                .ok_or(KernelError::Map { map: name, source: MapError::InvalidMapType { map_type: 0 } })?;
            sys::obj_pin(data.fd().as_fd(), &path).map_err(|source| KernelError::Pin { path, source })?;
        }
        Ok(())
    }

    fn map(&self, name: &'static str) -> Result<&Map, KernelError> {
        self.object.map(name).ok_or_else(|| missing(name))
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, KernelError> {
        self.object.map_mut(name).ok_or_else(|| missing(name))
    }

    /// Fills policy slot `slot`. Verdicts of agents in this slot change with the next packet whose verdict
    /// is not remembered: give them a new generation by [`Kernel::configure`].
    ///
    /// # Errors
    /// When a map cannot be made or filled; the slot then holds what it held before.
    pub fn install(&mut self, slot: u32, policy: &Compiled) -> Result<(), KernelError> {
        let failed = |source| KernelError::Map { map: maps::NETS, source };
        let capacity = u32::try_from(policy.nets.len()).unwrap_or(u32::MAX).max(1);
        let mut trie =
            LpmTrie::<MapData, Addr, Ruleset>::create(capacity, BPF_F_NO_PREALLOC).map_err(failed)?;
        for entry in &policy.nets {
            trie.insert(&Key::new(u32::from(entry.prefix), entry.addr), entry.rules, 0).map_err(failed)?;
        }
        let mut slots =
            ArrayOfMaps::<_, LpmTrie<MapData, Addr, Ruleset>>::try_from(self.map_mut(maps::NETS)?)
                .map_err(failed)?;
        slots.set(slot, &trie, 0).map_err(failed)
    }

    /// Puts a cgroup under a policy: attaches and pins every program, then writes the configuration and
    /// reads it back. Until that write the cgroup sends nothing.
    ///
    /// # Errors
    /// When anything fails; then nothing is attached.
    pub fn attach(&mut self, cgroup: &Path, cfg: AgentCfg) -> Result<(), KernelError> {
        self.register(cfg.agent)?;
        let attached = links::attach_all(&self.object, cgroup)?;
        for link in &attached {
            let path = pins::link_path(&self.pins, link.hook.program);
            sys::obj_pin(link.link.as_fd(), &path).map_err(|source| KernelError::Pin { path, source })?;
        }
        self.attached = attached;
        self.configure(cgroup, cfg)
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
    pub fn configure(&mut self, cgroup: &Path, cfg: AgentCfg) -> Result<(), KernelError> {
        let id = cgroup_id(cgroup)?;
        let data = map_data(self.map(maps::CFG)?).ok_or_else(|| missing(maps::CFG))?;
        sys::map_update(data.fd().as_fd(), &id, &cfg).map_err(KernelError::Configure)?;
        if self.held(id)? == cfg { Ok(()) } else { Err(KernelError::NotInForce) }
    }

    /// The configuration that the kernel holds for a cgroup.
    fn held(&self, id: u64) -> Result<AgentCfg, KernelError> {
        let data = map_data(self.map(maps::CFG)?).ok_or_else(|| missing(maps::CFG))?;
        sys::map_lookup(data.fd().as_fd(), &id).map_err(KernelError::Configure)
    }

    /// Everything that stands between `cgroup` and being governed by `cfg` now, as the kernel tells it, not as
    /// this process remembers it; empty if it is enforced and stays so without this process.
    pub fn problems(&self, cgroup: &Path, cfg: &AgentCfg) -> Vec<String> {
        let id = match cgroup_id(cgroup) {
            Ok(id) => id,
            Err(error) => return vec![error.to_string()],
        };
        let policy = match self.held(id) {
            Ok(held) if held == *cfg => None,
            Ok(_) => Some(KernelError::NotInForce.to_string()),
            Err(error) => Some(error.to_string()),
        };
        links::problems(&self.pins, id).into_iter().chain(policy).collect()
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

    /// Cookies of the TCP sockets that may hold refused data. Destroy them before [`Kernel::detach`]:
    /// the kernel would deliver it.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn refused(&self) -> Result<HashSet<u64>, KernelError> {
        pins::read_refused(self.map(maps::REFUSED)?)
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
        self.object
            .program(program)
            .ok_or(KernelError::NoProgram { program })?
            .info()
            .map_err(|source| KernelError::Load { program, source: Box::new(source) })
    }

    /// What is guarded now, in words.
    pub fn attached(&self) -> Vec<&'static str> {
        self.attached.iter().map(|attached| attached.hook.door).collect()
    }

    /// Ends enforcement: removes links and pins. Call it last.
    ///
    /// # Errors
    /// When a pin cannot be removed; then enforcement may go on.
    pub fn detach(self) -> Result<(), KernelError> {
        let Self { object, pins, attached } = self;
        pins::clear_pins(&pins).map_err(|source| KernelError::Unpin { path: pins, source })?;
        drop(attached);
        drop(object);
        Ok(())
    }
}

/// The id of a cgroup: the inode number of its directory (kernfs, 64-bit).
pub(super) fn cgroup_id(cgroup: &Path) -> Result<u64, KernelError> {
    let metadata = fs::metadata(cgroup);
    Ok(metadata.map_err(|source| KernelError::Cgroup { cgroup: cgroup.to_owned(), source })?.ino())
}

const fn missing(map: &'static str) -> KernelError {
    KernelError::Map { map, source: MapError::KeyNotFound }
}

/// The map's descriptor, for the kinds that are pinned or written by hand.
const fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::CgroupStorage(data) | Map::HashMap(data) | Map::PerCpuArray(data) | Map::ArrayOfMaps(data) => {
            Some(data)
        }
        _ => None,
    }
}
