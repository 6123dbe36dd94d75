//! What an engine knows of all its agents, and what it does about events. No waiting here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use agentnet_common::{abi::MAX_AGENTS, user::Record};
use jiff::Timestamp;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    acts::Acts,
    agent::{Agent, Phase},
    detection::Detection,
    end::EndError,
    follow::Followers,
    line::SecondLine,
    selectors::Selecting,
    slots::Slots,
    sources::{Item, Population},
};
use crate::{
    agent::{
        AgentName,
        cgroup::{CgroupError, Hierarchy},
        registry::EngineKind,
    },
    alert::clock::Clock,
    control::caller::Groups,
    detect::secrets::source::Source,
    kernel::Kernel,
    policy::host::Host,
    store::{
        self, Readers,
        archive::{Archive, Log},
    },
};

/// Ticks between two looks at an agent's counters and links; a tick is [`super::serve::TICK`].
const TICKS_PER_CHECK: u32 = 10;

/// Ticks between two comparisons of the clocks.
const TICKS_PER_CLOCK: u32 = 600;

/// Ticks between two keepings of what agents told whom.
const TICKS_PER_KEEPING: u32 = 600;

/// After so many ticks a client is told that processes of its agent do not die.
const TICKS_TO_DIE: u32 = 100;

/// After so many ticks it is tried again to take down what could not be taken down.
const TICKS_PER_RETRY: u32 = 100;

/// The number that the first agent gets.
pub(super) const FIRST_ID: u32 = 1;

/// What differs between engines.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it keeps what outlives it.
    pub state: PathBuf,
    /// Where policies are looked up by name; `None` if it takes them as clients send them.
    pub policies: Option<PathBuf>,
    /// Who may ask what, besides root.
    pub groups: Groups,
    /// Where it keeps alerts and flows, and how many.
    pub store: store::Options,
    /// Where the secrets of this host are.
    pub secrets: Vec<Source>,
}

/// The state of an engine.
pub struct Engine {
    pub(super) kind: EngineKind,
    pub(super) kernel: Kernel,
    pub(super) line: SecondLine,
    pub(super) agents: BTreeMap<u32, Agent>,
    pub(super) slots: Slots,
    pub(super) followers: Followers,
    pub(super) settings: Settings,
    pub(super) archive: Archive,
    pub(super) hierarchy: Hierarchy,
    /// What policies have to know of this host.
    pub(super) host: Host,
    /// Why it is not known whom this host asks for names.
    pub(super) unknown_resolvers: Option<String>,
    pub(super) clock: Clock,
    pub(super) started: Timestamp,
    /// What is not as it should be with the engine itself.
    pub(super) problems: Vec<String>,
    /// What the policies select by themselves.
    pub(super) selecting: Selecting,
    /// What was done by hand.
    pub(super) acts: Acts,
    /// What watches what is allowed.
    pub(super) detection: Detection,
    /// Numbers of agents of which nothing else is known.
    pub(super) reserved: Vec<u32>,
    /// How often the policies were read anew.
    pub(super) reloads: u64,
    /// Why the agent that it governs alone cannot be taken down.
    pub(super) failed: Option<EndError>,
    /// Where the end of an agent's last process is told.
    watches: mpsc::Sender<u32>,
    /// The tasks that wait for it.
    pub(super) watchers: JoinSet<()>,
    ticks: u32,
}

impl Engine {
    /// An engine without agents. The receiver is told of agents whose cgroups have emptied or filled.
    ///
    /// # Errors
    /// If there is no hierarchy of cgroups.
    pub fn new(
        kind: EngineKind,
        kernel: Kernel,
        settings: Settings,
        host: Host,
    ) -> Result<(Self, mpsc::Receiver<u32>), CgroupError> {
        let (watches, watched) = mpsc::channel(64);
        let engine = Self {
            kind,
            kernel,
            line: SecondLine::default(),
            agents: BTreeMap::new(),
            slots: Slots::default(),
            followers: Followers::default(),
            archive: Archive::new(settings.store.clone()),
            settings,
            hierarchy: Hierarchy::find()?,
            host,
            unknown_resolvers: None,
            clock: Clock::measure(),
            started: Timestamp::now(),
            problems: Vec::new(),
            selecting: Selecting::default(),
            acts: Acts::default(),
            detection: Detection::default(),
            reserved: Vec::new(),
            reloads: 0,
            failed: None,
            watches,
            watchers: JoinSet::new(),
            ticks: 0,
        };
        Ok((engine, watched))
    }

    /// Where alerts and flows of an agent of user `uid` are written.
    pub(super) fn log(&self, name: &AgentName, uid: u32) -> Log {
        self.archive.log(name, Readers { group: self.settings.groups.read, user: Some(uid) })
    }

    /// A number for another agent: one that no agent has, so that its counters can begin at zero.
    pub(super) fn free_id(&self) -> Option<u32> {
        (FIRST_ID..MAX_AGENTS).find(|id| !self.agents.contains_key(id) && !self.reserved.contains(id))
    }

    /// The number of the agent called `name`.
    pub(super) fn id_of(&self, name: &AgentName) -> Option<u32> {
        self.agents.values().find(|agent| agent.name == *name).map(Agent::id)
    }

    /// Takes records of the kernel.
    pub fn records(&mut self, items: Vec<Item>) {
        let now = Timestamp::now();
        for item in items {
            match &item {
                Ok(record) => match self.agents.get_mut(&agent_of(record)) {
                    Some(agent) => {
                        agent.record(Ok(record), now, &mut self.followers);
                        self.detect(record);
                    }
                    // Of an agent that was taken down since.
                    None => tracing::debug!(?record, "a record of no agent"),
                },
                // It does not say whose it is: everybody may have lost something.
                Err(error) => {
                    for agent in self.agents.values_mut() {
                        agent.record(Err(error), now, &mut self.followers);
                    }
                }
            }
        }
    }

    /// Lets time pass; to be called with the rings drained. Says which agents have nothing left.
    pub fn tick(&mut self) -> Vec<u32> {
        let now = Timestamp::now();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_KEEPING) {
            self.keep_ledgers();
        }
        let Self { agents, kernel, followers, line, hierarchy, .. } = self;
        let again = self.ticks.is_multiple_of(TICKS_PER_RETRY);
        line.tick(kernel, again);
        if self.ticks.is_multiple_of(TICKS_PER_CHECK) {
            line.look_at_host(kernel);
        }
        if self.ticks.is_multiple_of(TICKS_PER_CLOCK) {
            self.clock = Clock::measure();
            agents.values_mut().for_each(|agent| agent.set_clock(self.clock));
        }
        if self.ticks.is_multiple_of(TICKS_PER_CHECK)
            && let Some(trouble) = self.archive.tick(now)
        {
            // It is about all of them; one has to tell.
            match agents.values_mut().next() {
                Some(agent) => agent.disorder(&trouble, now, followers),
                None => tracing::error!(error = trouble.error, "the store is not in good order"),
            }
        }
        let mut ended = Vec::new();
        for (&id, agent) in agents {
            // Not all at once.
            if (self.ticks.wrapping_add(id)).is_multiple_of(TICKS_PER_CHECK) {
                agent.count(kernel, now, followers);
                if has_ended(agent) {
                    ended.push(id);
                } else {
                    // What was lost is told before it is mended.
                    agent.check(kernel, line, now, followers);
                    line.look(
                        kernel,
                        hierarchy,
                        agent,
                        (self.ticks / TICKS_PER_CHECK).is_multiple_of(TICKS_PER_CHECK),
                    );
                    agent.tell_open(line, now, followers);
                }
            }
            agent.tick(now, followers);
            if agent.phase == Phase::Ending {
                agent.waited = agent.waited.saturating_add(1);
                if agent.waited == TICKS_TO_DIE {
                    agent.notice("the agent still has processes; agentnet waits until they are gone");
                }
            }
        }
        // What could not be taken down is not tried again with every tick.
        ended.retain(|id| {
            self.agents
                .get(id)
                .is_some_and(|agent| agent.stuck.is_none() || self.ticks.is_multiple_of(TICKS_PER_RETRY))
        });
        ended
    }

    /// Whether the agent has nothing left that could be governed.
    pub fn has_ended(&self, id: u32) -> bool {
        self.agents.get(&id).is_some_and(has_ended)
    }

    /// Whether there is no agent.
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    /// Waits, in a task, for the end of the agent's last process.
    pub(super) fn watch(&mut self, id: u32) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let mut population = match Population::new(agent.cgroup.clone()) {
            Ok(population) => population,
            // It is looked at every second as well.
            Err(error) => return tracing::warn!(agent = %agent.name, %error, "cannot watch its processes"),
        };
        let watches = self.watches.clone();
        agent.watch = Some(self.watchers.spawn(async move {
            while population.changed().await.is_ok() {
                if watches.send(id).await.is_err() {
                    return;
                }
            }
        }));
    }

    /// The file in which the engine keeps something about an agent.
    pub(super) fn state_file(&self, name: &AgentName, extension: &str) -> PathBuf {
        state_file(&self.settings.state, name, extension)
    }
}

/// The file below `state` in which an engine keeps something about an agent.
pub(super) fn state_file(state: &Path, name: &AgentName, extension: &str) -> PathBuf {
    state.join("agents").join(format!("{name}.{extension}"))
}

fn agent_of(record: &Record) -> u32 {
    record.header().agent
}

/// An agent whose cgroup was found ends with the cgroup; one whose cgroup was made ends when its client is
/// through with it and its last process is gone. As long as the kernel does not say, there are processes.
fn has_ended(agent: &Agent) -> bool {
    match agent.phase {
        Phase::Attached => !agent.is_there(),
        Phase::Running => false,
        Phase::Orphaned | Phase::Waiting | Phase::Ending => !agent.cgroup.is_populated().unwrap_or(true),
    }
}
