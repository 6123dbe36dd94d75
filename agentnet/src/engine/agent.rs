//! One agent as its engine knows it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use agentnet_common::{
    abi::{AgentCfg, AgentCounters, CFG_UNIX_ANY, MODE_AUDIT, MODE_ENFORCE},
    user::{DecodeError, Record},
};
use jiff::Timestamp;
use tokio::task::AbortHandle;

use super::{
    explain::Explainer,
    follow::Followers,
    host::Footprint,
    line::SecondLine,
    selection::{Origin, Selection},
    selectors::{Selected, id_of},
};
use crate::{
    act::Act,
    agent::{AgentName, cgroup::Cgroup, process::monotonic, registry::Meta},
    alert::{
        by_hand::Change,
        class::{Enforcement, LATE},
        clock::Clock,
        model::Output,
        pipeline::Pipeline,
        summary::Summary,
    },
    control::{
        outbox::Outbox,
        protocol::{Ready, Reply, Status},
    },
    kernel::Kernel,
    policy::{Policy, resolvers::Resolution},
    store::{archive::Log, trouble::Trouble},
};

/// How far an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its cgroup was found, and stays.
    Attached,
    /// The command of a client runs.
    Running,
    /// Its client is gone without having said that the command has ended.
    Orphaned,
    /// The command has ended, and what it has left running is waited for.
    Waiting,
    /// The command has ended, and what it has left running was killed.
    Ending,
}

/// The client that waits for the end of its command.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) connection: u64,
    pub(super) outbox: Outbox,
}

/// An agent under its policy.
pub(super) struct Agent {
    pub(super) name: AgentName,
    /// What the kernel was told.
    pub(super) cfg: AgentCfg,
    pub(super) policy: Arc<Policy>,
    /// What is in its slot: the policy without the names that are blocked.
    pub(super) narrowed: Arc<Policy>,
    /// Those names.
    pub(super) closed: BTreeSet<String>,
    pub(super) origin: Origin,
    /// Whether it was asked only to report, whatever the policy says.
    pub(super) only_audit: bool,
    /// Whom it asks for names, where that is not what this host does: read once, when it came under its policy.
    pub(super) own: Option<Resolution>,
    pub(super) cgroup: Cgroup,
    /// The cgroup's id: another one that is made at the same place later has another. `None` if it was gone.
    pub(super) place: Option<u64>,
    /// How it was selected, unless somebody asked for it.
    pub(super) selected: Option<Selected>,
    pub(super) footprint: Footprint,
    pub(super) phase: Phase,
    pub(super) session: Option<Session>,
    /// What is not as it should be although the policy is in force: told by `status`.
    pub(super) notes: Vec<String>,
    /// Why a newer policy is not in force.
    pub(super) outdated: Option<String>,
    /// Why what was done to it by hand is not in force.
    pub(super) unacted: Option<String>,
    /// Why it was not taken down.
    pub(super) stuck: Option<String>,
    /// Ticks since its command ended, or since it could not be taken down.
    pub(super) waited: u32,
    /// The task that waits for its last process.
    pub(super) watch: Option<AbortHandle>,
    pub(super) pipeline: Pipeline,
    log: Log,
    /// Whether the log could be written when the agent began.
    logged: bool,
    warnings: Vec<String>,
    /// Whether it was told that the policy is not in force.
    inactive: bool,
    /// Flows that the kernel had only counted when its series were looked at.
    repeats: u64,
    /// When that began to be its number, nanoseconds of `CLOCK_MONOTONIC`; 0 if before this engine.
    began: u64,
}

/// What an agent begins with.
pub(super) struct Beginning {
    pub(super) name: AgentName,
    pub(super) cfg: AgentCfg,
    pub(super) selection: Selection,
    pub(super) footprint: Footprint,
    pub(super) phase: Phase,
    pub(super) log: Log,
    /// What was done to it by hand before it began.
    pub(super) acts: Vec<Act>,
    /// What is in its slot.
    pub(super) narrowed: Arc<Policy>,
}

impl Agent {
    /// An agent that is about to begin.
    pub(super) fn new(beginning: Beginning, clock: Clock) -> Self {
        let Beginning { name, cfg, selection, footprint, phase, mut log, acts, narrowed } = beginning;
        let Selection { policy, origin, audit, own, note } = selection;
        // A disk that is full or read-only is no reason to leave an agent ungoverned.
        let unwritable = log.prepare().err();
        let logged = unwritable.is_none();
        let warnings = unwritable.map(|error| {
            format!("alerts cannot be written for now, which is tried again with each: {error}")
        });
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let closed = acts.iter().filter_map(Act::blocks_name).map(str::to_owned).collect();
        let explainer = Explainer::new(Arc::clone(&policy), acts);
        let pipeline = Pipeline::new(name.as_str(), &host, Arc::new(explainer), clock);
        let cgroup = Cgroup::at(&footprint.meta().cgroup);
        Self {
            name,
            cfg,
            policy,
            narrowed,
            closed,
            origin,
            place: id_of(cgroup.path()),
            selected: None,
            only_audit: audit,
            own,
            cgroup,
            footprint,
            phase,
            session: None,
            notes: note.into_iter().collect(),
            outdated: None,
            unacted: None,
            stuck: None,
            waited: 0,
            watch: None,
            pipeline,
            log,
            logged,
            warnings: warnings.into_iter().collect(),
            inactive: false,
            repeats: 0,
            began: monotonic(),
        }
    }

    /// For an agent that another engine has watched until now, and whose counters stand there.
    pub(super) fn resumed(mut self, counters: &AgentCounters) -> Self {
        self.pipeline = self.pipeline.resumed(counters);
        self.began = 0;
        self
    }

    /// Explains what happens from now on by another policy, or by other acts.
    pub(super) fn explain_by(
        &mut self,
        policy: &Arc<Policy>,
        acts: Vec<Act>,
        now: Timestamp,
        followers: &mut Followers,
    ) {
        self.policy = Arc::clone(policy);
        let outputs = self.pipeline.set_policy(Arc::new(Explainer::new(Arc::clone(policy), acts)), now);
        self.publish(outputs, now, followers);
    }

    /// What is written down about it.
    pub(super) const fn meta(&self) -> &Meta {
        self.footprint.meta()
    }

    /// Its number in the maps.
    pub(super) const fn id(&self) -> u32 {
        self.cfg.agent
    }

    /// Whether nothing is refused, but for what somebody has blocked by hand.
    pub(super) const fn is_audit(&self) -> bool {
        self.cfg.mode == MODE_AUDIT
    }

    /// The mode that its policy gives it, whatever was done by hand: `MODE_*`.
    pub(super) fn policy_mode(&self) -> u8 {
        match self.policy.is_unknown() {
            _ if self.only_audit => MODE_AUDIT,
            false => self.policy.compiled.mode,
            true if self.meta().audit => MODE_AUDIT,
            true => MODE_ENFORCE,
        }
    }

    /// What was set up, for the client that asked for it.
    pub(super) fn ready(&mut self, kernel: &Kernel) -> Ready {
        let meta = self.meta();
        Ready {
            agent: self.name.clone(),
            cgroup: meta.cgroup.display().to_string(),
            policy: meta.policy.clone(),
            audit: self.is_audit(),
            log: self.logged.then(|| self.log.directory().display().to_string()),
            hooks: kernel.doors(),
            warnings: std::mem::take(&mut self.warnings).into_iter().chain(self.open_doors(kernel)).collect(),
        }
    }

    /// What `status` says of it, to which `acts` were done.
    pub(super) fn status(&self, kernel: &Kernel, line: &SecondLine, acts: Vec<Act>) -> Status {
        let meta = self.meta();
        let mut problems = self.problems(kernel, line);
        let counters = kernel.counters(self.id()).unwrap_or_else(|error| {
            problems.push(error.to_string());
            Default::default()
        });
        Status {
            agent: self.name.clone(),
            policy: meta.policy.clone(),
            audit: self.is_audit(),
            quarantined: self.cfg.is_quarantined(),
            acts,
            cgroup: meta.cgroup.display().to_string(),
            attached: !meta.made,
            uid: meta.uid,
            started: meta.started,
            hooks: kernel.doors(),
            interfaces: line.doors(&self.name, self.id()),
            problems,
            notes: self.notes().into_iter().chain(self.open_doors(kernel)).collect(),
            selector: self.selected.as_ref().map(|selected| selected.selector.clone()),
            late: self.selected.as_ref().is_some_and(|selected| selected.late),
            processes: self.cgroup.processes().unwrap_or(0),
            allowed_packets: counters.allowed_packets,
            allowed_bytes: counters.allowed_bytes,
            denied: counters.denied.iter().sum(),
            lost: counters.alerts_lost + counters.samples_lost,
        }
    }

    /// Why it may talk to every Unix socket, if its policy does not mean that.
    fn open_doors(&self, kernel: &Kernel) -> Option<String> {
        let why = kernel.unguarded_unix().filter(|_| self.cfg.flags & CFG_UNIX_ANY == 0)?;
        Some(format!("Unix sockets are not guarded: {why}"))
    }

    fn notes(&self) -> Vec<String> {
        let late = self.selected.as_ref().filter(|selected| selected.late).map(|_| LATE.to_owned());
        late.iter().chain(&self.notes).chain(&self.outdated).chain(&self.stuck).cloned().collect()
    }

    /// Takes a record of the kernel.
    pub(super) fn record(
        &mut self,
        record: Result<&Record, &DecodeError>,
        now: Timestamp,
        followers: &mut Followers,
    ) {
        let outputs = match record {
            Ok(record) => self.pipeline.on_record(record, now),
            Err(error) => self.pipeline.on_decode_error(error, now),
        };
        self.publish(outputs, now, followers);
    }

    /// Lets time pass; to be called with the rings drained.
    pub(super) fn tick(&mut self, now: Timestamp, followers: &mut Followers) {
        let outputs = self.pipeline.tick(now);
        self.publish(outputs, now, followers);
    }

    /// Replaces the offset between the clocks.
    pub(super) fn set_clock(&mut self, clock: Clock) {
        self.pipeline.set_clock(clock);
    }

    /// Looks at the counters.
    pub(super) fn count(&mut self, kernel: &Kernel, now: Timestamp, followers: &mut Followers) {
        match kernel.counters(self.id()) {
            Ok(counters) => {
                let mut outputs = self.pipeline.on_counters(&counters, now);
                if self.repeats != counters.repeats {
                    match kernel.series(self.id(), self.began) {
                        Ok(series) => {
                            self.repeats = counters.repeats;
                            outputs.extend(self.pipeline.on_series(&series, now));
                        }
                        Err(error) => tracing::warn!(agent = %self.name, %error, "cannot read the series"),
                    }
                }
                self.publish(outputs, now, followers);
            }
            Err(error) => tracing::warn!(agent = %self.name, %error, "cannot read the counters"),
        }
    }

    /// Asks the kernel whether the policy is still in force, and tells once if it is not.
    pub(super) fn check(
        &mut self,
        kernel: &Kernel,
        line: &SecondLine,
        now: Timestamp,
        followers: &mut Followers,
    ) {
        let problems = self.problems(kernel, line);
        if !problems.is_empty() && !self.inactive {
            tracing::error!(agent = %self.name, ?problems, "the policy is not in force");
            self.change(&Enforcement::Inactive(problems.join("; ")), now, followers);
        }
        self.inactive = !problems.is_empty();
    }

    /// What stands between it and its policy.
    fn problems(&self, kernel: &Kernel, line: &SecondLine) -> Vec<String> {
        let mut problems = kernel.problems(&self.name, self.cgroup.path(), &self.cfg);
        problems.extend(line.problems(kernel, &self.name));
        problems.extend(self.unacted.clone());
        problems
    }

    /// Tells of interfaces by which it may send what has no socket of its own, each once.
    pub(super) fn tell_open(&mut self, line: &mut SecondLine, now: Timestamp, followers: &mut Followers) {
        let open = line.newly_open(&self.name, self.id());
        if !open.is_empty() {
            tracing::warn!(agent = %self.name, ?open, "not guarded at every interface");
            self.change(&Enforcement::Exposed(open.join("; ")), now, followers);
        }
    }

    /// Says that enforcement changed.
    pub(super) fn change(&mut self, change: &Enforcement, now: Timestamp, followers: &mut Followers) {
        let outputs = self.pipeline.on_enforcement(change, now);
        self.publish(outputs, now, followers);
    }

    /// Tells of something that was done by hand, or has ended.
    pub(super) fn act(&mut self, change: &Change<'_>, now: Timestamp, followers: &mut Followers) {
        let outputs = self.pipeline.on_act(change, now);
        self.publish(outputs, now, followers);
    }

    /// Has the client that waits for it told something at its start.
    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Takes note that the store is not as it should be.
    pub(super) fn disorder(&mut self, trouble: &Trouble, now: Timestamp, followers: &mut Followers) {
        let outputs = self.pipeline.on_unwritten(trouble.lost, &trouble.error, now);
        self.publish(outputs, now, followers);
    }

    /// Tells the client something in one sentence.
    pub(super) fn notice(&mut self, text: impl Into<String>) {
        if let Some(session) = &mut self.session {
            session.outbox.send(Reply::Notice(text.into()));
        }
    }

    /// Writes to the log, then shows. What the log does not take becomes an output itself.
    pub(super) fn publish(&mut self, outputs: Vec<Output>, now: Timestamp, followers: &mut Followers) {
        let mut queue = VecDeque::from(outputs);
        while let Some(output) = queue.pop_front() {
            if let Some(trouble) = self.log.append(&output, now) {
                queue.extend(self.pipeline.on_unwritten(trouble.lost, &trouble.error, now));
            }
            followers.tell(&self.name, self.footprint.meta().uid, &output);
            if let Some(session) = &mut self.session {
                session.outbox.send(Reply::Output(output));
            }
        }
    }

    /// Everything that is left to be written and shown; and what there was altogether, for whoever waits for it.
    pub(super) fn close(self, now: Timestamp, followers: &mut Followers) -> (Footprint, Closing) {
        let uid = self.meta().uid;
        let Self { name, pipeline, mut log, mut session, footprint, watch, .. } = self;
        if let Some(watch) = watch {
            watch.abort();
        }
        let (outputs, summary) = pipeline.finish(now);
        let mut troubles = Vec::new();
        for output in outputs {
            troubles.extend(log.append(&output, now));
            followers.tell(&name, uid, &output);
            if let Some(session) = &mut session {
                session.outbox.send(Reply::Output(output));
            }
        }
        for trouble in troubles.into_iter().chain(log.close(now)) {
            tracing::error!(lost = trouble.lost, error = trouble.error, "alerts were not written");
        }
        (footprint, Closing { session, summary })
    }
}

/// What a client is told at the very end.
pub(super) struct Closing {
    session: Option<Session>,
    summary: Summary,
}

impl Closing {
    /// Tells it, with `last` after everything else.
    pub(super) fn tell(self, last: Reply) {
        if let Some(Session { outbox, .. }) = self.session {
            outbox.close([Reply::Summary(Box::new(self.summary)), last]);
        }
    }
}
