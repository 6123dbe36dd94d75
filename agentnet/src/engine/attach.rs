//! Governing cgroups that exist, and letting them go.

use jiff::Timestamp;

use super::{
    agent::Phase,
    existing::{self, ExistingError, Occasion, Question, Report},
    selection::Selection,
    serve::Rings,
    start::{Claim, StartError},
    state::Engine,
};
use crate::{
    agent::{
        AgentName,
        cgroup::Cgroup,
        registry::{EngineKind, Meta},
        target::{Target, TargetError},
    },
    alert::class::Enforcement,
    control::{
        peer::Peer,
        protocol::{Attach, Failure},
    },
    kernel::marks::Marks,
};

/// Why a cgroup was not put under a policy. It is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It cannot be told which is meant.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Only the daemon stays for long enough.
    #[error("only the daemon attaches agents; start it with `systemctl start agentnet` or `agentnet daemon`")]
    NoDaemon,
    /// It has a policy.
    #[error("the cgroup {} is governed as agent `{agent}` already", cgroup.path().display())]
    Governed {
        /// The cgroup.
        cgroup: Cgroup,
        /// Its agent.
        agent: AgentName,
    },
    /// The daemon would govern itself.
    #[error("the daemon itself lives in the cgroup {}", .0.path().display())]
    Own(Cgroup),
    /// It could not be put under its policy.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Connections that the policy does not allow are there still.
    #[error("connections that the policy does not allow cannot be closed: {0}")]
    Sockets(#[from] ExistingError),
}

/// Who asks for an agent, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// What it is to be called.
    pub(super) name: &'a AgentName,
    /// The process that asks.
    pub(super) client: i32,
    /// Its user.
    pub(super) uid: u32,
    /// Whether connections that the policy does not allow stay open.
    pub(super) keep_established: bool,
}

impl Engine {
    /// Puts a cgroup under a policy and says so.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing is changed then.
    pub(super) fn attach(&mut self, attach: &Attach, client: Peer) -> Result<String, AttachError> {
        if self.kind != EngineKind::Daemon {
            return Err(AttachError::NoDaemon);
        }
        let target = Target::resolve(&self.hierarchy, &attach.target, attach.whole_cgroup)?;
        let cgroup = target.cgroup.clone();
        let selection = self.select(attach.policy.as_ref(), attach.audit, target.any_process())?;
        let asked = Asked {
            name: &attach.agent,
            client: client.pid,
            uid: client.uid,
            keep_established: attach.keep_established,
        };
        let (id, report, open) = self.attach_target(asked, &target, selection, None)?;
        let Some(agent) = self.agents.get(&id) else { return Ok(String::new()) };
        let (name, policy, place) = (&agent.name, &agent.meta().policy, cgroup.path().display());
        let what = if agent.is_audit() { "audited" } else { "governed" };
        let mut done = format!("agent {name} is {what} by policy {policy} at {place}");
        match report.destroyed.len() {
            0 => {}
            1 => done.push_str("; 1 connection that it does not allow was closed"),
            more => done.push_str(&format!("; {more} connections that it does not allow were closed")),
        }
        for notice in target.notices.iter().chain(&agent.notes).chain(&open) {
            done.push_str("; ");
            done.push_str(notice);
        }
        Ok(done)
    }

    /// Guards the agent at the interfaces by which its processes send.
    pub(super) fn guard(&mut self, id: u32) {
        let Self { agents, kernel, line, hierarchy, .. } = self;
        if let Some(agent) = agents.get(&id) {
            line.look(kernel, hierarchy, agent, true);
        }
    }

    /// Tells where it is not guarded, and returns that.
    pub(super) fn tell_open(&mut self, id: u32) -> Vec<String> {
        let Self { agents, followers, line, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return Vec::new() };
        agent.tell_open(line, Timestamp::now(), followers);
        let open = line.doors(&agent.name, id).map(|doors| doors.open).unwrap_or_default();
        open.into_iter().map(|door| format!("not guarded: {door}")).collect()
    }

    /// Puts what was found under a policy, `selector` being why if nobody asked for it. The number of the agent,
    /// what became of its connections, and where it is not guarded.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing is changed then.
    pub(super) fn attach_target(
        &mut self,
        asked: Asked<'_>,
        target: &Target,
        selection: Selection,
        selector: Option<&str>,
    ) -> Result<(u32, Report, Vec<String>), AttachError> {
        let cgroup = &target.cgroup;
        self.may_be_governed(cgroup)?;
        let claim = Claim::of(asked.name).map_err(AttachError::from)?;
        let meta = Meta {
            cgroup: cgroup.path().to_owned(),
            pins: self.kernel.pins().to_owned(),
            started: Timestamp::now(),
            policy: selection.policy.compiled.name.clone(),
            audit: selection.is_audit(),
            client: asked.client,
            uid: asked.uid,
            id: 0,
            engine: self.kind,
            made: false,
        };
        let footprint = claim.footprint(asked.name, &meta)?;
        let id = self.govern(asked.name, footprint, selection, Phase::Attached)?;
        if let Some(selector) = selector {
            self.is_selected(id, selector);
        }
        // Only now is it certain that what is governed is what was meant.
        let settled = target.confirm(&self.hierarchy).map_err(AttachError::from).and_then(|()| {
            Ok(self.settle(id, Occasion::Attach { keep_established: asked.keep_established })?)
        });
        let report = settled.inspect_err(|_| self.abandon(id))?;
        self.guard(id);
        self.begin(id, None);
        let open = self.tell_open(id);
        self.tell_spared(id, &report);
        Ok((id, report, open))
    }

    fn may_be_governed(&self, cgroup: &Cgroup) -> Result<(), AttachError> {
        let own = self.hierarchy.of(rustix::process::getpid().as_raw_nonzero().get());
        if own.is_ok_and(|own| own.path().starts_with(cgroup.path())) {
            return Err(AttachError::Own(cgroup.clone()));
        }
        match self.agents.values().find(|agent| agent.cgroup == *cgroup) {
            Some(agent) => Err(AttachError::Governed { cgroup: cgroup.clone(), agent: agent.name.clone() }),
            None => Ok(()),
        }
    }

    /// Destroys the agent's connections that its policy does not allow, and marks what stays.
    ///
    /// # Errors
    /// If one of them may still be there.
    pub(super) fn settle(&self, id: u32, occasion: Occasion) -> Result<Report, ExistingError> {
        let Some(agent) = self.agents.get(&id) else { return Ok(Report::default()) };
        // Without marks nothing can stay that needs one; that is the safe side.
        let marks = Marks::open(self.kernel.pins())
            .inspect_err(|error| tracing::warn!(%error, "sockets cannot be marked"))
            .ok();
        existing::settle(
            &Question {
                tables: &self.kernel.opened(id, &agent.narrowed.compiled),
                is_known: !agent.policy.is_unknown(),
                acts: &self.acts.in_force(&agent.name),
                cfg: agent.cfg,
                cgroup: &agent.cgroup,
                marks: marks.as_ref(),
            },
            occasion,
        )
    }

    /// Tells of connections that live on although the policy does not allow them.
    fn tell_spared(&mut self, id: u32, report: &Report) {
        /// Peers that are named.
        const NAMED: usize = 5;
        let Self { agents, followers, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return };
        if report.spared.is_empty() || agent.is_audit() {
            return;
        }
        let peers: Vec<String> =
            report.spared.iter().take(NAMED).map(|existing| existing.remote.to_string()).collect();
        let more = report.spared.len().saturating_sub(peers.len());
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let to = format!("{}{more}", peers.join(", "));
        agent.change(&Enforcement::Spared(to), Timestamp::now(), followers);
    }

    /// Takes an attached agent out of its policy and says so.
    ///
    /// # Errors
    /// If there is no such agent, or it stays governed because what it holds back cannot be destroyed.
    pub(super) fn detach(&mut self, name: &AgentName, rings: &mut Rings) -> Result<String, Failure> {
        let Some(id) = self.id_of(name) else {
            return Err(Failure::new(format!("the daemon has no agent `{name}`; see `agentnet status`")));
        };
        if !self.agents.get(&id).is_some_and(super::agent::Agent::is_attached) {
            return Err(Failure::new(format!(
                "agent `{name}` was started by `agentnet run` and ends with its command; end that instead"
            )));
        }
        let selected = self.agents.get(&id).filter(|agent| agent.selected.is_some());
        let selected = selected.map(|agent| (agent.cgroup.clone(), agent.meta().policy.clone()));
        self.end(id, rings)
            .map_err(|error| Failure::new(format!("agent `{name}` stays under its policy: {error}")))?;
        let mut done = format!("agent {name} is not governed any more");
        if let Some((cgroup, policy)) = selected {
            self.selecting.release(&cgroup);
            done.push_str(&format!(
                "; policy {policy} selects it, and it is governed again when policies are read the next time"
            ));
        }
        Ok(done)
    }
}
