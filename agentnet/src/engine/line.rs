//! The second line of attached agents, as the engine keeps it: which network namespaces they live in, which
//! interfaces guard them there, and which do not and why.
//!
//! Agents of `run` have none: their system call filter refuses them packet sockets and all other ways past the hooks.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
};

use agentnet_common::abi::AgentCfg;

use super::agent::Agent;
use crate::{
    agent::{AgentName, cgroup::Hierarchy},
    control::protocol::Doors,
    kernel::{
        Kernel,
        interfaces::{self, Event},
        tcx::{Tcx, TcxError},
    },
};

/// Device and inode of a network namespace.
type NetNsId = (u64, u64);

/// What guards agents at interfaces.
#[derive(Debug, Default)]
pub(super) struct SecondLine {
    tcx: Option<Tcx>,
    /// Why there is none.
    missing: Option<String>,
    agents: BTreeMap<u32, Looked>,
    /// What is wrong at the interfaces of the host, as of the last look.
    on_host: Vec<String>,
    /// Whether interfaces were looked at since the last tick.
    is_fresh: bool,
    /// Whether they have changed since.
    is_due: bool,
}

/// What is known of one agent.
#[derive(Debug, Default)]
struct Looked {
    /// Network namespaces of its processes, each with why it is not guarded.
    namespaces: BTreeMap<NetNsId, Option<String>>,
    /// Why its interfaces are not known any more.
    trouble: Option<String>,
    /// What was told to be open.
    told: Vec<String>,
}

impl SecondLine {
    /// Loads what it takes. Without it agents are governed by the hooks of their cgroups alone.
    pub(super) fn load(kernel: &mut Kernel) -> Self {
        match Tcx::load(kernel) {
            Ok(tcx) => Self { tcx: Some(tcx), ..Self::default() },
            Err(error) => Self { missing: Some(error.to_string()), ..Self::default() },
        }
    }

    /// Takes over what the engine before has left of an agent.
    ///
    /// # Errors
    /// When links stay with the programs of before.
    pub(super) fn adopt(&mut self, kernel: &Kernel, name: &AgentName, id: u32) -> Result<(), TcxError> {
        self.tcx.as_mut().map_or(Ok(()), |tcx| tcx.adopt(kernel, name, id))
    }

    /// Lets go of agents that ended meanwhile: all but those whose numbers are `kept`.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(super) fn prune(&mut self, kernel: &Kernel, kept: impl Fn(u32) -> bool) -> Result<(), TcxError> {
        self.tcx.as_mut().map_or(Ok(()), |tcx| tcx.prune(kernel, kept))
    }

    /// Guards the agent in every network namespace where it has a process and is not guarded yet; where that has
    /// failed before, only if `again`.
    pub(super) fn look(&mut self, kernel: &Kernel, hierarchy: &Hierarchy, agent: &Agent, again: bool) {
        if !agent.is_attached() {
            return;
        }
        let looked = self.agents.entry(agent.id()).or_default();
        let Some(tcx) = &mut self.tcx else { return };
        if again {
            looked.namespaces.retain(|_, failure| failure.is_none());
        }
        let (Ok(own), Ok(pids)) = (identity("thread-self"), agent.cgroup.pids()) else { return };
        for pid in pids.into_iter().filter(|pid| *pid > 0) {
            // One that has ended has none.
            let Ok(id) = identity(pid) else { continue };
            if looked.namespaces.contains_key(&id) {
                continue;
            }
            let result = if id == own {
                tcx.guard_host(kernel, &agent.name, agent.cfg, agent.cgroup.path()).map(drop)
            } else {
                let Ok(netns) = File::open(path(pid)) else { continue };
                // The number may be another process's by now.
                let is_its = hierarchy.of(pid).is_ok_and(|of| of.path().starts_with(agent.cgroup.path()));
                let is_same = netns.metadata().is_ok_and(|found| (found.dev(), found.ino()) == id);
                if !is_its || !is_same {
                    continue;
                }
                tcx.guard_container(kernel, &agent.name, agent.cfg, netns.as_fd()).map(drop)
            };
            let place = if id == own { "the host's interfaces" } else { "the interfaces of a container" };
            let failure = result.err().map(|error| format!("{place}: {error}"));
            looked.namespaces.insert(id, failure);
        }
    }

    /// Interfaces of the host have changed. They are looked at now, or with the next tick if that was done
    /// already: an agent can have its own come and go as often as it likes.
    pub(super) fn on_interface(&mut self, kernel: &Kernel, event: &Event) {
        if self.is_fresh {
            self.is_due = true;
        } else {
            self.cover(kernel, event);
        }
    }

    /// Looks at the interfaces if they have changed since the last look, or if told to.
    pub(super) fn tick(&mut self, kernel: &Kernel, again: bool) {
        self.is_fresh = false;
        if self.is_due || again {
            self.cover(kernel, &Event::Missed);
        }
    }

    fn cover(&mut self, kernel: &Kernel, event: &Event) {
        let Some(tcx) = &mut self.tcx else { return };
        (self.is_fresh, self.is_due) = (true, false);
        self.agents.values_mut().for_each(|looked| looked.trouble = None);
        for (name, result) in tcx.on_interface(kernel, event) {
            let id = self.agents.iter_mut().find(|(id, _)| tcx.number(&name) == Some(**id));
            match (result, id) {
                (Err(error), Some((_, looked))) => {
                    looked.trouble = Some(format!("interfaces that changed: {error}"));
                }
                (Ok(coverage), _) => tracing::info!(agent = %name, ?coverage, "interfaces changed"),
                (Err(error), None) => tracing::warn!(agent = %name, %error, "interfaces changed"),
            }
        }
    }

    /// Looks at the interfaces that agents on the host share.
    pub(super) fn look_at_host(&mut self, kernel: &Kernel) {
        self.on_host = self.tcx.as_ref().map(|tcx| tcx.host_problems(kernel)).unwrap_or_default();
    }

    /// Changes the configuration of an agent, if it is guarded.
    ///
    /// # Errors
    /// When it cannot be written or does not read back as written.
    pub(super) fn configure(&mut self, kernel: &Kernel, cfg: AgentCfg) -> Result<(), TcxError> {
        self.tcx.as_mut().map_or(Ok(()), |tcx| tcx.configure(kernel, cfg))
    }

    /// Ends the second line of an agent.
    ///
    /// # Errors
    /// When something cannot be removed; it may judge the agent still.
    pub(super) fn release(&mut self, kernel: &Kernel, name: &AgentName, id: u32) -> Result<(), TcxError> {
        self.agents.remove(&id);
        self.tcx.as_mut().map_or(Ok(()), |tcx| tcx.release(kernel, name))
    }

    /// What was guarded and is not any more.
    pub(super) fn problems(&self, kernel: &Kernel, name: &AgentName) -> Vec<String> {
        let Some(tcx) = self.tcx.as_ref().filter(|tcx| tcx.guards(name)) else { return Vec::new() };
        let mut problems = tcx.problems(kernel, name);
        if tcx.on_host(name).is_some() {
            problems.extend(self.on_host.iter().cloned());
        }
        problems
    }

    /// What is open to packets that have no socket of the agent's, a sentence each.
    fn open(&self, name: &AgentName, id: u32) -> Vec<String> {
        let Some(looked) = self.agents.get(&id) else { return Vec::new() };
        let missing = self.missing.iter().cloned();
        let gaps = self.tcx.as_ref().and_then(|tcx| tcx.coverage(name)).map(|coverage| &coverage.gaps);
        let failures = looked.namespaces.values().chain([&looked.trouble]).flatten().cloned();
        let mut open: Vec<String> =
            missing.chain(gaps.into_iter().flatten().map(ToString::to_string)).chain(failures).collect();
        open.sort_unstable();
        open.dedup();
        open
    }

    /// What has come to be open since this was asked last.
    pub(super) fn newly_open(&mut self, name: &AgentName, id: u32) -> Vec<String> {
        let open = self.open(name, id);
        let Some(looked) = self.agents.get_mut(&id) else { return Vec::new() };
        let told = std::mem::replace(&mut looked.told, open);
        looked.told.iter().filter(|sentence| !told.contains(sentence)).cloned().collect()
    }

    /// Which interfaces guard an agent, for people.
    pub(super) fn doors(&self, name: &AgentName, id: u32) -> Option<Doors> {
        self.agents.get(&id)?;
        let mut doors = Doors { open: self.open(name, id), ..Doors::default() };
        let Some(tcx) = &self.tcx else { return Some(doors) };
        let outside = interfaces::list(None).unwrap_or_default();
        let names = |indexes: &[u32]| -> Vec<String> {
            let of = |index: &u32| outside.iter().find(|interface| interface.index == *index);
            indexes.iter().filter_map(|index| of(index).map(|interface| interface.name.clone())).collect()
        };
        doors.containers = names(tcx.coverage(name).map_or(&[], |coverage| &coverage.guarded));
        doors.host = names(tcx.on_host(name).unwrap_or(&[]));
        Some(doors)
    }
}

fn path(process: impl std::fmt::Display) -> String {
    format!("/proc/{process}/ns/net")
}

/// The network namespace of a process.
fn identity(process: impl std::fmt::Display) -> io::Result<NetNsId> {
    fs::metadata(path(process)).map(|metadata| (metadata.dev(), metadata.ino()))
}
