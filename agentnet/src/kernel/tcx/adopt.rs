//! Taking over what an engine before this one has left.

use agentnet_common::abi::{AgentCfg, maps};

use super::{
    Tcx, TcxError, interfaces,
    table::{agents_on_host, delete, read},
};
use crate::{agent::AgentName, kernel::Kernel};

impl Tcx {
    /// Takes over the second line of the agent with the number `id`: its links are moved to the programs of
    /// `kernel`, with no packet in between. Nothing if it has none. Of its containers only the interfaces are known:
    /// to be followed by [`Tcx::guard_container`] for those that have processes.
    ///
    /// # Errors
    /// See [`TcxError`]; links that were not moved judge as they did.
    pub fn adopt(&mut self, kernel: &Kernel, agent: &AgentName, id: u32) -> Result<(), TcxError> {
        let cgroup = agents_on_host(kernel)?.into_iter().find(|(_, of)| *of == id).map(|(cgroup, _)| cgroup);
        if cgroup.is_none() && self.links_of(agent).pinned()?.is_empty() {
            return Ok(());
        }
        // What the programs go by, until it is replaced.
        let held = read(kernel, maps::AGENTS, &id)?.unwrap_or_default();
        self.entry(agent, AgentCfg { agent: id, ..held }).cgroup = cgroup;
        let outside = interfaces::list(None)?;
        self.cover(kernel, agent, &outside)?;
        if cgroup.is_some() {
            self.cover_host(kernel, &outside)?;
        }
        Ok(())
    }

    /// Forgets agents on the host that ended while there was no engine: all but those whose numbers are `kept`. With
    /// the last one the links of the host's interfaces go.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn prune(&mut self, kernel: &Kernel, kept: impl Fn(u32) -> bool) -> Result<(), TcxError> {
        let (kept, gone): (Vec<_>, Vec<_>) =
            agents_on_host(kernel)?.into_iter().partition(|(_, agent)| kept(*agent));
        gone.iter().try_for_each(|(cgroup, _)| delete(kernel, maps::HOSTCG, cgroup))?;
        if kept.is_empty() {
            self.host_links().clear()?;
            self.host.clear();
        }
        Ok(())
    }
}
