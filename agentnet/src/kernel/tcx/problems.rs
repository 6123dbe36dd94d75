//! Whether the second line stands, as the kernel tells it.

use std::os::fd::AsFd as _;

use agentnet_common::abi::{AgentCfg, maps};

use super::{FRAME, FROM, Guarded, Place, TO, Tcx, TcxError, table::read};
use crate::{
    agent::AgentName,
    kernel::{
        Kernel, KernelError,
        interfaces::{self, Interface},
    },
};

impl Tcx {
    /// Everything that stands between the agent and its second line, as the kernel tells it, not as this process
    /// remembers it. Interfaces without an end on the host are no problem but a gap: [`Tcx::coverage`].
    pub fn problems(&self, kernel: &Kernel, agent: &AgentName) -> Vec<String> {
        let Some(guarded) = self.agents.get(agent) else {
            return vec!["interfaces: nothing was ever attached".to_owned()];
        };
        self.look(kernel, agent, guarded).unwrap_or_else(|error| vec![error.to_string()])
    }

    fn look(&self, kernel: &Kernel, agent: &AgentName, guarded: &Guarded) -> Result<Vec<String>, TcxError> {
        let outside = interfaces::list(None)?;
        let mut problems = self.of_containers(kernel, agent, guarded, &outside)?;
        problems.extend(self.of_host(kernel, guarded, &outside)?);
        if read::<_, AgentCfg>(kernel, maps::AGENTS, &guarded.cfg.agent)? != Some(guarded.cfg) {
            problems.push(KernelError::NotInForce.to_string());
        }
        Ok(problems)
    }

    fn of_containers(
        &self,
        kernel: &Kernel,
        agent: &AgentName,
        guarded: &Guarded,
        outside: &[Interface],
    ) -> Result<Vec<String>, TcxError> {
        let mut indexes = guarded.coverage.guarded.clone();
        for netns in &guarded.namespaces {
            let ends = interfaces::host_side(netns.as_fd(), outside)?.ends;
            indexes.extend(ends.into_iter().map(|(_, index)| index));
        }
        let links = self.links_of(agent);
        let mut problems = Vec::new();
        for Interface { index, name, .. } in outside.iter().filter(|end| indexes.contains(&end.index)) {
            if read(kernel, maps::IFACE, index)? != Some(guarded.cfg.agent) {
                problems.push(format!("{name}: not known to be the agent's"));
            }
            let places = [Place::ingress(FROM, *index), Place::egress(TO, *index)];
            problems.extend(places.into_iter().filter_map(|place| links.problem(kernel, place, name)));
        }
        Ok(problems)
    }

    fn of_host(
        &self,
        kernel: &Kernel,
        guarded: &Guarded,
        outside: &[Interface],
    ) -> Result<Vec<String>, TcxError> {
        let Some(cgroup) = guarded.cgroup else { return Ok(Vec::new()) };
        let is_known = read(kernel, maps::HOSTCG, &cgroup)? == Some(guarded.cfg.agent);
        let unknown =
            (!is_known).then(|| "packet sockets: the cgroup is not known to be the agent's".to_owned());
        let links = self.host_links();
        let doors = outside.iter().filter_map(|interface| {
            links.problem(kernel, Place::egress(FRAME, interface.index), &interface.name)
        });
        Ok(doors.chain(unknown).collect())
    }
}
