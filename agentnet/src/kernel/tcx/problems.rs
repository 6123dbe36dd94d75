//! Whether the second line stands, as the kernel tells it.

use agentnet_common::abi::{AgentCfg, Uplink, maps};

use super::{FRAME, FROM, Guarded, Place, TO, Tcx, TcxError, table::read};
use crate::{
    agent::AgentName,
    kernel::{Kernel, KernelError, interfaces},
};

impl Tcx {
    /// Everything that stands between the agent and the second line it was given, as the kernel tells it, not as
    /// this process remembers it; without the interfaces of the host, which its agents share:
    /// [`Tcx::host_problems`]. Interfaces that were never guarded are no problem but a gap: [`Tcx::coverage`].
    pub fn problems(&self, kernel: &Kernel, agent: &AgentName) -> Vec<String> {
        let Some(guarded) = self.agents.get(agent) else {
            return vec!["interfaces: nothing was ever attached".to_owned()];
        };
        self.look(kernel, agent, guarded).unwrap_or_else(|error| vec![error.to_string()])
    }

    /// What is wrong at the interfaces of the host, where packet sockets of all its agents are judged.
    pub fn host_problems(&self, kernel: &Kernel) -> Vec<String> {
        let links = self.host_links();
        let problem = |index, name: &str| links.problem(kernel, Place::egress(FRAME, index), name);
        if self.host.iter().all(|index| problem(*index, "").is_none()) {
            return Vec::new();
        }
        match interfaces::list(None) {
            Ok(outside) => {
                let guarded = outside.iter().filter(|interface| self.host.contains(&interface.index));
                guarded.filter_map(|interface| problem(interface.index, &interface.name)).collect()
            }
            Err(error) => vec![error.to_string()],
        }
    }

    fn look(&self, kernel: &Kernel, agent: &AgentName, guarded: &Guarded) -> Result<Vec<String>, TcxError> {
        let mut problems = Vec::new();
        // Names are asked for only if there is something to say.
        let indexes = &guarded.coverage.guarded;
        let mut found = false;
        for index in indexes {
            found |= !self.of_interface(kernel, agent, guarded, *index, "")?.is_empty();
        }
        if found {
            let outside = interfaces::list(None)?;
            // One that is gone needs no guard.
            for interface in outside.iter().filter(|interface| indexes.contains(&interface.index)) {
                problems.extend(self.of_interface(
                    kernel,
                    agent,
                    guarded,
                    interface.index,
                    &interface.name,
                )?);
            }
        }
        if let Some(cgroup) = guarded.cgroup
            && read(kernel, maps::HOSTCG, &cgroup)? != Some(guarded.cfg.agent)
        {
            problems.push("packet sockets: the cgroup is not known to be the agent's".to_owned());
        }
        if read::<_, AgentCfg>(kernel, maps::AGENTS, &guarded.cfg.agent)? != Some(guarded.cfg) {
            problems.push(KernelError::NotInForce.to_string());
        }
        Ok(problems)
    }

    fn of_interface(
        &self,
        kernel: &Kernel,
        agent: &AgentName,
        guarded: &Guarded,
        index: u32,
        name: &str,
    ) -> Result<Vec<String>, TcxError> {
        let mut problems = Vec::new();
        let uplink: Option<Uplink> = read(kernel, maps::IFACE, &index)?;
        if uplink.is_none_or(|uplink| uplink.agent != guarded.cfg.agent) {
            problems.push(format!("{name}: not known to be the agent's"));
        }
        let links = self.links_of(agent);
        let places = [Place::ingress(FROM, index), Place::egress(TO, index)];
        problems.extend(places.into_iter().filter_map(|place| links.problem(kernel, place, name)));
        Ok(problems)
    }
}
