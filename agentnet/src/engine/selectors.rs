//! `[[agents]]` of the policies in force: cgroups and containers are governed as they come.
//!
//! What the policies select is compared with what is there: at the start, whenever policies are read, and for each
//! cgroup or container that appears. What is newly selected is governed first and what is selected no more let go
//! last, so that nothing is free in between. What was attached by hand is left alone.

mod rules;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub(super) use self::sources::{Change, Sources};
use self::{rules::Rules, sources::Sight};
use super::{
    agent::Agent,
    attach::{Asked, AttachError},
    existing::Occasion,
    selection::Origin,
    serve::Rings,
    state::Engine,
};
use crate::{
    agent::{
        AgentName,
        cgroup::Cgroup,
        container::{Container, Runtime},
        registry::{EngineKind, Registry},
        selector::{Match, Selectors, Timing, timing},
        target::{Spec, Target},
    },
    alert::class::Enforcement,
    control::protocol::PolicySource,
};

/// How an agent was selected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Selected {
    /// The selector as it is written.
    pub(super) selector: String,
    /// Whether its processes may have sent something before.
    pub(super) late: bool,
}

/// What the policies select, and what stands in the way of it.
#[derive(Debug)]
pub(super) struct Selecting {
    rules: Rules,
    selectors: Arc<Selectors<String>>,
    containers: BTreeMap<(Runtime, String), Container>,
    /// Selected and let go by hand, with the ids of the cgroups: until policies are read the next time.
    released: BTreeMap<PathBuf, u64>,
    /// What is not governed although it is selected, or not let go, by what it is about.
    failed: BTreeMap<String, String>,
    sight: Sight,
}

impl Default for Selecting {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            selectors: Arc::new(Selectors::new(Vec::new())),
            containers: BTreeMap::new(),
            released: BTreeMap::new(),
            failed: BTreeMap::new(),
            sight: Sight::default(),
        }
    }
}

impl Selecting {
    /// Everything that is not as it should be.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.rules.problems().chain(self.failed.values()).chain(self.sight.problems())
    }

    /// Notes that what was selected was let go by hand.
    pub(super) fn release(&mut self, cgroup: &Cgroup) {
        if let Some(id) = id_of(cgroup.path()) {
            self.released.insert(cgroup.path().to_owned(), id);
        }
    }
}

/// What reading the selectors has changed.
#[derive(Debug, Default)]
pub(super) struct Reselected {
    /// How many agents began.
    pub(super) begun: usize,
    /// How many were let go.
    pub(super) ended: usize,
    /// What is wrong, in sentences.
    pub(super) wrong: Vec<String>,
}

/// The id of the cgroup at `path`; `None` if there is none.
pub(super) fn id_of(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

impl Engine {
    /// Reads the selectors of all policies and does what they say.
    pub(super) fn reselect(&mut self, rings: &mut Rings) -> Reselected {
        if self.kind != EngineKind::Daemon {
            return Reselected::default();
        }
        let directory = self.settings.policies.clone().unwrap_or_default();
        self.selecting.rules.read(&directory, &self.host, &self.slots);
        self.selecting.selectors = Arc::new(self.selecting.rules.selectors());
        self.selecting.released.clear();
        self.selecting.sight.refocus();
        let mut done = self.select_all(rings);
        done.wrong.extend(self.selecting.rules.why());
        done
    }

    /// Compares everything that is there with what is selected.
    fn select_all(&mut self, rings: &mut Rings) -> Reselected {
        self.selecting.failed.clear();
        let before = self.agents.len();
        let mut unwanted: BTreeSet<u32> =
            self.agents.values().filter(|agent| !self.is_wanted(agent)).map(Agent::id).collect();
        for path in self.selecting.selectors.there(&self.hierarchy) {
            self.consider(&path, &mut unwanted, rings);
        }
        for container in self.selecting.containers.values().cloned().collect::<Vec<_>>() {
            self.consider_container(&container, &mut unwanted);
        }
        let begun = self.agents.len().saturating_sub(before);
        let mut ended = 0;
        for id in unwanted {
            let Some(name) = self.agents.get(&id).map(|agent| agent.name.clone()) else { continue };
            tracing::info!(agent = %name, "no policy selects it any more");
            match self.end(id, rings) {
                Ok(()) => ended += 1,
                Err(error) => {
                    let problem = format!(
                        "agent {name} is selected no more and stays under its policy: {error}; it is tried again"
                    );
                    self.selecting.failed.insert(name.to_string(), problem);
                }
            }
        }
        Reselected { begun, ended, wrong: self.selecting.failed.values().cloned().collect() }
    }

    /// Takes a change of what is there.
    pub(super) fn selected(&mut self, change: Change, rings: &mut Rings) {
        let mut nothing = BTreeSet::new();
        match change {
            Change::Appeared(cgroup) => self.consider(cgroup.path(), &mut nothing, rings),
            Change::Vanished(cgroup) => {
                let place = cgroup.path();
                self.selecting.failed.remove(&place.display().to_string());
                self.selecting.released.remove(place);
                self.selecting.sight.vanished(place);
                let gone = self.agents.values().filter(|agent| agent.cgroup.path() == place);
                for id in gone.map(Agent::id).collect::<Vec<_>>() {
                    self.end_if_over(id, rings);
                }
            }
            Change::Started(container) => {
                self.consider_container(&container, &mut nothing);
                self.selecting.containers.insert((container.runtime, container.id.clone()), container);
            }
            Change::Ended(container) => {
                self.selecting.failed.remove(&container.id);
                self.selecting.containers.remove(&(container.runtime, container.id));
            }
            Change::Blind { what, why } => {
                if let Some(problem) = self.selecting.sight.blind(what, &why) {
                    self.tell_unseen(&problem);
                }
            }
            Change::Sees(what) => self.selecting.sight.sees(&what),
            Change::Again => {
                self.selecting.sight.again();
                let done = self.select_all(rings);
                if !done.wrong.is_empty() {
                    tracing::warn!(wrong = ?done.wrong, "not everything that is selected is governed");
                }
            }
        }
    }

    /// Whether a policy still wants the agent governed, as far as that can be known; so for all that were not
    /// selected. A policy that cannot be read, or is gone, does not let go of anything.
    fn is_wanted(&self, agent: &Agent) -> bool {
        let (Some(selected), Some(policy)) = (&agent.selected, policy_of(agent)) else { return true };
        if !agent.is_attached() || !self.selecting.rules.is_known(policy) {
            return true;
        }
        let found = self.selecting.selectors.matches(&self.hierarchy, &self.own(), agent.cgroup.path());
        found.iter().any(|found| found.policy == *policy)
            || self.selecting.rules.has_for_containers(policy, &selected.selector)
    }

    fn own(&self) -> PathBuf {
        let own = self.hierarchy.of(rustix::process::getpid().as_raw_nonzero().get());
        own.map_or_else(|_| PathBuf::new(), |own| own.path().to_owned())
    }

    /// Governs the cgroup at `path` if a policy selects it.
    fn consider(&mut self, path: &Path, unwanted: &mut BTreeSet<u32>, rings: &mut Rings) {
        let found = self.selecting.selectors.matches(&self.hierarchy, &self.own(), path);
        if found.is_empty() {
            return;
        }
        // One that was there before, at the same place, has ended if this is another.
        if let Some(id) = self.agents.values().find(|agent| agent.cgroup.path() == path).map(Agent::id) {
            self.end_if_over(id, rings);
        }
        let target = || Target::resolve(&self.hierarchy, &Spec::Cgroup(path.to_owned()), false);
        match target() {
            Ok(target) => self.want(found, &target, &path.display().to_string(), unwanted),
            // It went as it came.
            Err(_) if !path.exists() => {}
            Err(error) => self.fails(&path.display().to_string(), &found, &error.to_string()),
        }
    }

    fn consider_container(&mut self, container: &Container, unwanted: &mut BTreeSet<u32>) {
        let mut found: Vec<Match<String>> = Vec::new();
        for rule in self.selecting.selectors.of_containers() {
            if rule.selector.is_container(&container.name, &container.id, &container.labels)
                && !found.iter().any(|known| known.policy == rule.policy)
            {
                let selector = rule.selector.to_string();
                found.push(Match { policy: rule.policy.clone(), selector, name: container.name.clone() });
            }
        }
        if found.is_empty() {
            return;
        }
        match Target::of_container(&self.hierarchy, container, false) {
            Ok(target) => self.want(found, &target, &container.id, unwanted),
            Err(error) => self.fails(&container.id, &found, &error.to_string()),
        }
    }

    /// Governs what the policies of `found` want, `about` being what it is told under.
    fn want(
        &mut self,
        mut found: Vec<Match<String>>,
        target: &Target,
        about: &str,
        unwanted: &mut BTreeSet<u32>,
    ) {
        let path = target.cgroup.path().to_owned();
        let here = self.agents.values().find(|agent| agent.cgroup.path() == path).map(Agent::id);
        for above in self.agents.values() {
            if path.starts_with(above.cgroup.path())
                && !unwanted.contains(&above.id())
                && let Some(policy) = policy_of(above)
            {
                found.retain(|found| found.policy != *policy);
            }
        }
        let released = self.selecting.released.get(&path).is_some_and(|id| *id == target.id);
        let Some(first) = found.first().filter(|_| !released).cloned() else { return };
        let done = match here {
            Some(id) if unwanted.contains(&id) => self.hand_over(id, &first).inspect(|()| {
                unwanted.remove(&id);
            }),
            Some(id) => self.stays_with(id, &found),
            None => self.begin_selected(&first, target),
        };
        match done {
            Err(_) if !path.exists() => {}
            Err(why) => {
                // It stays as it is rather than free.
                if let Some(id) = here {
                    unwanted.remove(&id);
                }
                self.fails(about, &found, &why);
            }
            Ok(()) if here.is_none() && found.len() > 1 => {
                let others = found.get(1..).unwrap_or_default();
                self.fails(
                    about,
                    others,
                    &format!("policy {} selects it as well, and comes first", first.policy),
                );
            }
            Ok(()) => {}
        }
    }

    /// Notes how an agent that is governed as of now was selected.
    pub(super) fn is_selected(&mut self, id: u32, selector: &str) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        // What cannot be told is not called early.
        let late = timing(&agent.cgroup, false).map_or(true, |timing| timing == Timing::Late);
        agent.selected = Some(Selected { selector: selector.to_owned(), late });
    }

    /// What is governed is not governed by another policy as well.
    fn stays_with(&self, id: u32, found: &[Match<String>]) -> Result<(), String> {
        match self.agents.get(&id) {
            Some(agent) if agent.selected.is_some() => Err(format!(
                "it is governed already, by policy {}, as agent {}",
                agent.meta().policy,
                agent.name
            )),
            // Whoever attached it wanted it so.
            Some(agent) => {
                tracing::debug!(agent = %agent.name, ?found, "selected, and attached by hand");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn begin_selected(&mut self, found: &Match<String>, target: &Target) -> Result<(), String> {
        let told = |error: AttachError| error.to_string();
        let source =
            PolicySource { name: Some(found.policy.clone()), file: String::new(), text: String::new() };
        let selection =
            self.select(Some(&source), false, target.any_process()).map_err(|error| error.to_string())?;
        let name = self.name_for(&found.name, target.id).map_err(|error| error.to_string())?;
        let asked =
            Asked { name: &name, client: std::process::id().cast_signed(), uid: 0, keep_established: false };
        let (id, report, _open) =
            self.attach_target(asked, target, selection, Some(&found.selector)).map_err(told)?;
        let Self { agents, followers, .. } = self;
        let Some(agent) = agents.get_mut(&id) else { return Ok(()) };
        let late = agent.selected.as_ref().is_some_and(|selected| selected.late);
        tracing::info!(agent = %agent.name, selector = found.selector, late, closed = report.destroyed.len(), "selected");
        if late {
            agent.change(&Enforcement::Late, Timestamp::now(), followers);
        }
        Ok(())
    }

    /// Gives an agent that its policy selects no more to another policy, by one write.
    fn hand_over(&mut self, id: u32, to: &Match<String>) -> Result<(), String> {
        let own = self.agents.get(&id).and_then(|agent| agent.own.clone());
        let selection = self.reread(&Origin::Named(to.policy.clone()), None, own.as_ref())?;
        self.switch(id, &selection.policy).map_err(|error| error.to_string())?;
        let Self { agents, followers, .. } = self;
        if let Some(agent) = agents.get_mut(&id) {
            agent.origin = selection.origin;
            agent.outdated = None;
            if let Some(selected) = &mut agent.selected {
                selected.selector.clone_from(&to.selector);
            }
            tracing::info!(agent = %agent.name, policy = to.policy, "selected by another policy");
            agent.change(&Enforcement::Changed, Timestamp::now(), followers);
        }
        self.keep(id);
        if let Err(error) = self.settle(id, Occasion::Reload) {
            // Their packets are refused all the same.
            tracing::warn!(%error, "connections that are not allowed any more were not closed");
        }
        Ok(())
    }

    /// A name that nobody has, as near as can be to what the cgroup or container is called.
    fn name_for(&self, called: &str, id: u64) -> Result<AgentName, crate::agent::registry::RegistryError> {
        let taken: BTreeSet<AgentName> =
            Registry::system().list()?.into_iter().map(|listed| listed.name).collect();
        let plain = AgentName::plain(called);
        let tag = u16::try_from(id & 0xffff).unwrap_or_default();
        let tagged =
            (0..=u16::MAX).map(|more| AgentName::for_command(called.as_ref(), tag.wrapping_add(more)));
        let mut names = std::iter::once(plain.clone()).chain(tagged);
        Ok(names.find(|name| !taken.contains(name)).unwrap_or(plain))
    }

    fn fails(&mut self, about: &str, found: &[Match<String>], why: &str) {
        let policies: Vec<&str> = found.iter().map(|found| found.policy.as_str()).collect();
        let problem = format!("{about} is not governed by {}, which selects it: {why}", policies.join(", "));
        if self.selecting.failed.insert(about.to_owned(), problem.clone()).is_none() {
            tracing::error!(problem);
        }
    }

    /// Tells the agents of the policies that are concerned.
    fn tell_unseen(&mut self, problem: &str) {
        tracing::error!(problem);
        let Self { agents, followers, .. } = self;
        for agent in agents.values_mut().filter(|agent| agent.selected.is_some()) {
            agent.change(&Enforcement::Unseen(problem.to_owned()), Timestamp::now(), followers);
        }
    }
}

/// The policy by which the agent is governed, as selectors know it.
const fn policy_of(agent: &Agent) -> Option<&String> {
    match &agent.origin {
        Origin::Named(name) => Some(name),
        Origin::Nothing | Origin::Text(_) => None,
    }
}
