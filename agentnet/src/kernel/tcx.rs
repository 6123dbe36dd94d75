//! The second line: programs on the host's interfaces, for what has no socket of the agent's.
//!
//! An agent in a container is guarded at the host's ends of the container's interfaces, one that lives in the host's
//! network namespace at all interfaces of the host. Links are pinned beside those of the cgroup, as
//! `links/AGENT/tcx-INDEX-{in,out}`; the links of the host's interfaces, which its agents share, below
//! `links/@host`, which no agent can be called.
//!
//! Everything here acts in the network namespace of the calling thread, which is always the same.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use agentnet_common::abi::{AgentCfg, HOSTCG_DEPTH, Uplink, maps};
use aya::{Ebpf, programs::Program};

use self::{
    links::{Links, Place},
    table::{agents_on_host, delete, forget_visitors, read, write},
};
use super::{
    Kernel, KernelError,
    interfaces::{self, Event, Gap, HostSide, Interface},
    mounts::cgroup2_mount,
};
use crate::agent::AgentName;

mod adopt;
mod error;
mod links;
mod problems;
mod table;

pub use self::error::TcxError;

/// Every program that is attached to interfaces, and what it guards.
pub const PROGRAMS: [(&str, &str); 3] =
    [(FROM, "container, packets out"), (TO, "container, packets in"), (FRAME, "packet sockets")];

const FROM: &str = "an_tcx_from";
const TO: &str = "an_tcx_to";
const FRAME: &str = "an_tcx_frame";

/// The directory of links that the host's agents share.
const HOST: &str = "@host";

/// How much of what an agent sends the second line sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Indexes of the host's interfaces where it is judged.
    pub guarded: Vec<u32>,
    /// The container's interfaces that have no end on the host.
    pub gaps: Vec<Gap>,
}

/// The interfaces that guard agents.
#[derive(Debug)]
pub struct Tcx {
    links: PathBuf,
    /// Interfaces of the host where packet sockets are judged.
    host: Vec<u32>,
    agents: BTreeMap<AgentName, Guarded>,
}

/// An agent. It may live in several places: on the host, and in containers that it started.
#[derive(Debug)]
struct Guarded {
    cfg: AgentCfg,
    /// The id of its cgroup, if it lives in the host's network namespace.
    cgroup: Option<u64>,
    /// The network namespaces of its containers, each once. They stay as long as the agent is guarded.
    namespaces: Vec<OwnedFd>,
    coverage: Coverage,
}

fn load_programs(object: &mut Ebpf) -> Result<(), KernelError> {
    for (program, _) in PROGRAMS {
        match object.program_mut(program) {
            Some(Program::SchedClassifier(classifier)) => {
                classifier
                    .load()
                    .map_err(|source| KernelError::Load { program, source: Box::new(source) })?;
            }
            _ => return Err(KernelError::NoProgram { program }),
        }
    }
    Ok(())
}

impl Tcx {
    /// Loads the programs into the kernel. Nothing is guarded yet; links will be pinned beside those of `kernel`.
    ///
    /// # Errors
    /// When the kernel refuses a program.
    pub fn load(kernel: &mut Kernel) -> Result<Self, KernelError> {
        load_programs(kernel.object_mut())?;
        Ok(Self { links: kernel.pins().join("links"), host: Vec::new(), agents: BTreeMap::new() })
    }

    fn links_of(&self, agent: &AgentName) -> Links {
        Links::new(self.links.join(agent))
    }

    fn host_links(&self) -> Links {
        Links::new(self.links.join(HOST))
    }

    /// Guards the container in the network namespace `netns`, which is not that of the calling thread: judges what
    /// leaves it and notes who comes. Links that are pinned already are moved to the programs of `kernel`, with no
    /// packet in between.
    ///
    /// # Errors
    /// See [`TcxError`]; then what was attached before still is, and nothing else.
    pub fn guard_container(
        &mut self,
        kernel: &Kernel,
        agent: &AgentName,
        cfg: AgentCfg,
        netns: BorrowedFd<'_>,
    ) -> Result<Coverage, TcxError> {
        let outside = interfaces::list(None)?;
        let is_new = !self.agents.contains_key(agent) && self.links_of(agent).pinned()?.is_empty();
        let guarded = self.entry(agent, cfg);
        let is_known = is_among(netns, &guarded.namespaces).map_err(TcxError::Namespace)?;
        if !is_known {
            guarded.namespaces.push(netns.try_clone_to_owned().map_err(TcxError::Namespace)?);
        }
        write(kernel, maps::AGENTS, &cfg.agent, &cfg)
            .and_then(|()| self.cover(kernel, agent, &outside))
            .inspect_err(|_| {
                // It must not stand in the way of the agent's other containers.
                if !is_known && let Some(guarded) = self.agents.get_mut(agent) {
                    guarded.namespaces.pop();
                }
                self.give_up(kernel, agent, is_new);
            })
    }

    /// Guards an agent that lives in the network namespace of the calling thread: refuses frames of packet sockets
    /// that were made in its `cgroup` or below, on every interface. Returns their indexes.
    ///
    /// # Errors
    /// See [`TcxError`]; then what guarded the agent before still does, and nothing else.
    pub fn guard_host(
        &mut self,
        kernel: &Kernel,
        agent: &AgentName,
        cfg: AgentCfg,
        cgroup: &Path,
    ) -> Result<Vec<u32>, TcxError> {
        let id = shallow(cgroup)?;
        let is_new = !self.agents.contains_key(agent) && read::<_, u32>(kernel, maps::HOSTCG, &id)?.is_none();
        self.entry(agent, cfg).cgroup = Some(id);
        write(kernel, maps::AGENTS, &cfg.agent, &cfg)
            .and_then(|()| write(kernel, maps::HOSTCG, &id, &cfg.agent))
            .and_then(|()| self.cover_host(kernel, &interfaces::list(None)?))
            .inspect_err(|_| self.give_up(kernel, agent, is_new))
    }

    fn entry(&mut self, agent: &AgentName, cfg: AgentCfg) -> &mut Guarded {
        let guarded = self.agents.entry(agent.clone()).or_insert_with(|| Guarded {
            cfg,
            cgroup: None,
            namespaces: Vec::new(),
            coverage: Coverage::default(),
        });
        guarded.cfg = cfg;
        guarded
    }

    fn give_up(&mut self, kernel: &Kernel, agent: &AgentName, is_new: bool) {
        if is_new {
            // The error that led here is the one to tell; what is left is removed with the agent's other pins.
            let _ = self.release(kernel, agent);
        }
    }

    /// Attaches to whatever ends the agent's containers have on the host now, and lets go of those that went.
    ///
    /// An end that is there stays the agent's, wherever the other one is now: the agent might have moved it to
    /// a namespace of its own making.
    fn cover(
        &mut self,
        kernel: &Kernel,
        agent: &AgentName,
        outside: &[Interface],
    ) -> Result<Coverage, TcxError> {
        let Some(own) = self.agents.get(agent) else { return Ok(Coverage::default()) };
        let links = self.links_of(agent);
        let before = links.pinned()?;
        let mut found = Coverage::default();
        for netns in &own.namespaces {
            let HostSide { ends, gaps, cookie } = interfaces::host_side(netns.as_fd(), outside)?;
            // The low half.
            let netns = u32::try_from(cookie & u64::from(u32::MAX)).unwrap_or_default();
            found.gaps.extend(gaps);
            for (interface, index) in ends {
                let is_others =
                    |(other, guarded): (&AgentName, &Guarded)| other != agent && guarded.has(index);
                if self.agents.iter().any(is_others) {
                    return Err(TcxError::Shared { interface });
                }
                write(kernel, maps::IFACE, &index, &Uplink { agent: own.cfg.agent, netns })?;
                let attached = links
                    .attach(kernel, Place::ingress(FROM, index))
                    .and_then(|from| Ok(from && links.attach(kernel, Place::egress(TO, index))?));
                match attached {
                    Ok(true) => found.guarded.push(index),
                    // It went while we looked.
                    Ok(false) => forget(kernel, &links, index)?,
                    Err(error) => {
                        if !before.contains(&index) {
                            // The first error is the one to tell.
                            let _ = forget(kernel, &links, index);
                        }
                        return Err(error);
                    }
                }
            }
        }
        for index in before.into_iter().filter(|index| !found.guarded.contains(index)).collect::<Vec<_>>() {
            // Moved to the programs of `kernel` as well.
            if links.is_live(index)
                && links.attach(kernel, Place::ingress(FROM, index))?
                && links.attach(kernel, Place::egress(TO, index))?
            {
                found.guarded.push(index);
            } else {
                forget(kernel, &links, index)?;
            }
        }
        if let Some(own) = self.agents.get_mut(agent) {
            own.coverage = found.clone();
        }
        Ok(found)
    }

    /// Attaches to every interface of the host, and lets go of those that went.
    fn cover_host(&mut self, kernel: &Kernel, outside: &[Interface]) -> Result<Vec<u32>, TcxError> {
        let links = self.host_links();
        let mut guarded = Vec::new();
        for Interface { index, .. } in outside {
            if links.attach(kernel, Place::egress(FRAME, *index))? {
                guarded.push(*index);
            }
        }
        for index in links.pinned()? {
            if !guarded.contains(&index) {
                links.detach(index)?;
            }
        }
        self.host.clone_from(&guarded);
        Ok(guarded)
    }

    /// Changes the configuration of an agent, as a whole; nothing if it has no second line.
    ///
    /// # Errors
    /// When it cannot be written or does not read back as written.
    pub fn configure(&mut self, kernel: &Kernel, cfg: AgentCfg) -> Result<(), TcxError> {
        let Some(guarded) = self.agents.values_mut().find(|guarded| guarded.cfg.agent == cfg.agent) else {
            return Ok(());
        };
        write(kernel, maps::AGENTS, &cfg.agent, &cfg)?;
        if read(kernel, maps::AGENTS, &cfg.agent)? != Some(cfg) {
            return Err(KernelError::NotInForce.into());
        }
        guarded.cfg = cfg;
        Ok(())
    }

    /// Ends the second line of an agent. When this returns, it has ended.
    ///
    /// # Errors
    /// When something cannot be removed; it may judge the agent still.
    pub fn release(&mut self, kernel: &Kernel, agent: &AgentName) -> Result<(), TcxError> {
        let Some(Guarded { cfg, cgroup, .. }) = self.agents.remove(agent) else { return Ok(()) };
        let links = self.links_of(agent);
        for index in links.pinned()? {
            forget(kernel, &links, index)?;
        }
        links.remove_directory()?;
        if let Some(cgroup) = cgroup {
            delete(kernel, maps::HOSTCG, &cgroup)?;
            // Also those of agents that this process has not heard of yet.
            if agents_on_host(kernel)?.is_empty() {
                self.host_links().clear()?;
                self.host.clear();
            }
        }
        // Its configuration stays: the agent may be governed by its cgroup, see [`Kernel::detach`].
        forget_visitors(kernel, cfg.agent)
    }

    /// Follows the host's interfaces; for an event of a container's own namespace say [`Event::Missed`]. Returns
    /// the agents whose coverage changed, and those for whom it is not known any more.
    pub fn on_interface(
        &mut self,
        kernel: &Kernel,
        event: &Event,
    ) -> Vec<(AgentName, Result<Coverage, TcxError>)> {
        // The end on the host is told of when the other one comes up, and of one that moved it is told that it went.
        let pairs = !matches!(event, Event::Added(interface) if !interface.is_pair());
        let names = |wanted: fn(&Guarded) -> bool| -> Vec<AgentName> {
            let of = self.agents.iter().filter(|(_, guarded)| wanted(guarded));
            of.map(|(name, _)| name.clone()).collect()
        };
        let hosts = names(|guarded| guarded.cgroup.is_some());
        let containers = if pairs { names(|guarded| !guarded.namespaces.is_empty()) } else { Vec::new() };
        if containers.is_empty() && hosts.is_empty() {
            return Vec::new();
        }
        let outside = match interfaces::list(None) {
            Ok(outside) => outside,
            Err(error) => {
                let told = error.to_string();
                let all = containers.into_iter().chain(hosts);
                return all.map(|agent| (agent, Err(TcxError::Unlisted(told.clone())))).collect();
            }
        };
        let mut changed = Vec::new();
        for agent in containers {
            let before = self.coverage(&agent).cloned();
            match self.cover(kernel, &agent, &outside) {
                Ok(now) if before.as_ref() == Some(&now) => {}
                result => changed.push((agent, result)),
            }
        }
        if !hosts.is_empty()
            && let Err(error) = self.cover_host(kernel, &outside)
        {
            let told = error.to_string();
            changed.extend(hosts.into_iter().map(|agent| (agent, Err(TcxError::Unlisted(told.clone())))));
        }
        changed
    }

    /// The number of an agent that is guarded.
    pub fn number(&self, agent: &AgentName) -> Option<u32> {
        self.agents.get(agent).map(|guarded| guarded.cfg.agent)
    }

    /// Whether anything of the agent is guarded.
    pub fn guards(&self, agent: &AgentName) -> bool {
        self.agents.contains_key(agent)
    }

    /// Indexes of the host's interfaces where packet sockets of the agent are judged; `None` if it does not live on
    /// the host.
    pub fn on_host(&self, agent: &AgentName) -> Option<&[u32]> {
        self.agents.get(agent)?.cgroup.map(|_| self.host.as_slice())
    }

    /// What is covered of an agent's containers, as of the last look at their interfaces.
    pub fn coverage(&self, agent: &AgentName) -> Option<&Coverage> {
        self.agents.get(agent).map(|guarded| &guarded.coverage)
    }
}

impl Guarded {
    fn has(&self, index: u32) -> bool {
        self.coverage.guarded.contains(&index)
    }
}

/// Takes an interface from an agent: first nothing is judged there, then nobody owns it.
fn forget(kernel: &Kernel, links: &Links, index: u32) -> Result<(), TcxError> {
    links.detach(index)?;
    delete(kernel, maps::IFACE, &index)
}

/// The id of a cgroup, if the program finds it from a socket made below.
fn shallow(cgroup: &Path) -> Result<u64, TcxError> {
    use std::os::unix::fs::MetadataExt as _;
    let failed = |source| TcxError::Cgroup { path: cgroup.to_owned(), source };
    let mount = cgroup2_mount().map_err(|error| failed(io::Error::other(error)))?;
    let depth = cgroup.strip_prefix(mount).unwrap_or(cgroup).components().count();
    if u32::try_from(depth).is_ok_and(|depth| depth <= HOSTCG_DEPTH) {
        Ok(cgroup.metadata().map_err(failed)?.ino())
    } else {
        Err(TcxError::Deep(cgroup.to_owned()))
    }
}

/// Whether `netns` is one of these namespaces.
fn is_among(netns: BorrowedFd<'_>, others: &[OwnedFd]) -> io::Result<bool> {
    let identity = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let own = identity(netns)?;
    for other in others {
        if identity(other.as_fd())? == own {
            return Ok(true);
        }
    }
    Ok(false)
}
