//! What the engine of one agent knows, and what it does about an event. No waiting here.

use std::{collections::VecDeque, path::PathBuf, sync::Arc};

use agentnet_common::abi::MODE_AUDIT;
use jiff::Timestamp;

use super::{
    AGENT, STATE_DIRECTORY, explain::Explainer, make_directory, outbox::Outbox, sources::Item,
    start::Governed,
};
use crate::{
    agent::AgentName,
    alert::{
        class::Enforcement,
        clock::Clock,
        log::{Log, Options},
        model::Output,
        pipeline::Pipeline,
        summary::Summary,
    },
    control::protocol::{Failure, Ready, Reply, Request, Status},
};

/// Ticks between two looks at the counters; a tick is [`super::serve::TICK`].
const TICKS_PER_COUNT: u32 = 10;

/// Ticks between two comparisons of the clocks.
const TICKS_PER_CLOCK: u32 = 600;

/// The state of an engine.
pub struct State {
    name: AgentName,
    pub(super) governed: Governed,
    pipeline: Pipeline,
    log: Option<Log>,
    log_path: PathBuf,
    outbox: Outbox,
    ticks: u32,
    /// Whether it was told that the policy is not in force.
    inactive: bool,
    warnings: Vec<String>,
}

impl State {
    /// The state of an engine that has just put `governed` under its policy.
    pub fn new(name: AgentName, governed: Governed, mut outbox: Outbox) -> Self {
        let log_path = PathBuf::from(STATE_DIRECTORY).join("alerts").join(format!("{name}.jsonl"));
        let mut warnings = Vec::new();
        // A disk that is full or read-only is no reason to leave an agent ungoverned.
        let made = log_path.parent().map_or(Ok(()), |parent| make_directory(parent, 0o755));
        let opened = made
            .map_err(|error| error.to_string())
            .and_then(|()| Log::open(&log_path, Options::default()).map_err(|error| error.to_string()));
        let log = opened
            .map_err(|error| {
                warnings.push(format!("alerts are not written to {}: {error}", log_path.display()));
            })
            .ok();
        outbox.set_logged(log.is_some());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let policy = Arc::new(Explainer(governed.policy.clone()));
        let pipeline = Pipeline::new(name.as_str(), &host, policy, Clock::measure());
        Self { name, governed, pipeline, log, log_path, outbox, ticks: 0, inactive: false, warnings }
    }

    /// Tells the client that its process may go on.
    pub fn begin(&mut self) {
        let audit = self.is_audit();
        let meta = &self.governed.meta;
        tracing::info!(agent = %self.name, policy = meta.policy, audit, uid = meta.uid, "governed");
        self.outbox.send(Reply::Ready(Ready {
            agent: self.name.clone(),
            cgroup: meta.cgroup.display().to_string(),
            policy: meta.policy.clone(),
            audit,
            log: self.log.as_ref().map(|_| self.log_path.display().to_string()),
            hooks: self.hooks(),
            warnings: std::mem::take(&mut self.warnings),
        }));
        let change = if audit { Enforcement::Auditing } else { Enforcement::Started };
        self.change(&change);
    }

    /// Takes records of the kernel.
    pub fn records(&mut self, items: Vec<Item>) {
        let now = Timestamp::now();
        for item in items {
            let outputs = match item {
                Ok(record) => self.pipeline.on_record(&record, now),
                Err(error) => self.pipeline.on_decode_error(&error, now),
            };
            self.publish(outputs, now);
        }
    }

    /// Lets time pass; to be called with the rings drained.
    pub fn tick(&mut self) {
        let now = Timestamp::now();
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(TICKS_PER_CLOCK) {
            self.pipeline.set_clock(Clock::measure());
        }
        if self.ticks.is_multiple_of(TICKS_PER_COUNT) {
            self.count(now);
            self.check();
        }
        let outputs = self.pipeline.tick(now);
        self.publish(outputs, now);
    }

    /// Asks the kernel whether the policy is still in force, and tells once if it is not.
    fn check(&mut self) {
        let problems = self.problems();
        if !problems.is_empty() && !self.inactive {
            tracing::error!(?problems, "the policy is not in force");
            self.change(&Enforcement::Inactive(problems.join("; ")));
        }
        self.inactive = !problems.is_empty();
    }

    /// Looks at the counters.
    fn count(&mut self, now: Timestamp) {
        match self.governed.kernel.counters(AGENT) {
            Ok(counters) => {
                let outputs = self.pipeline.on_counters(&counters, now);
                self.publish(outputs, now);
            }
            Err(error) => tracing::warn!(%error, "cannot read the counters"),
        }
    }

    /// Says that enforcement changed.
    pub fn change(&mut self, change: &Enforcement) {
        let now = Timestamp::now();
        let outputs = self.pipeline.on_enforcement(change, now);
        self.publish(outputs, now);
    }

    /// Tells the client something in one sentence.
    pub fn notice(&mut self, text: impl Into<String>) {
        self.outbox.send(Reply::Notice(text.into()));
    }

    /// Answers a request that came by the engine's own socket.
    pub fn answer(&self, request: &Request) -> Reply {
        match request {
            Request::Status => match self.status() {
                Ok(status) => Reply::Status(Box::new(status)),
                Err(message) => Reply::Error(Failure { message, exit: 1 }),
            },
            Request::Run(_) | Request::Finish { .. } => Reply::Error(Failure {
                message: "only the client that started this engine can ask that".to_owned(),
                exit: 1,
            }),
        }
    }

    fn status(&self) -> Result<Status, String> {
        let Governed { kernel, cgroup, meta, .. } = &self.governed;
        let counters = kernel.counters(AGENT).map_err(|error| error.to_string())?;
        Ok(Status {
            agent: self.name.clone(),
            policy: meta.policy.clone(),
            audit: self.is_audit(),
            cgroup: meta.cgroup.display().to_string(),
            started: meta.started,
            hooks: self.hooks(),
            problems: self.problems(),
            processes: cgroup.processes().map_err(|error| error.to_string())?,
            allowed_packets: counters.allowed_packets,
            allowed_bytes: counters.allowed_bytes,
            denied: counters.denied.iter().sum(),
            lost: counters.alerts_lost + counters.samples_lost,
            engine: std::process::id(),
        })
    }

    /// Why the policy may not be in force as it should be.
    fn problems(&self) -> Vec<String> {
        let Governed { kernel, cgroup, cfg, .. } = &self.governed;
        kernel.problems(cgroup.path(), cfg)
    }

    fn hooks(&self) -> Vec<String> {
        self.governed.kernel.attached().into_iter().map(str::to_owned).collect()
    }

    fn is_audit(&self) -> bool {
        self.governed.cfg.mode == MODE_AUDIT
    }

    /// Writes to the log, then shows. What the log does not take becomes an output itself.
    fn publish(&mut self, outputs: Vec<Output>, now: Timestamp) {
        let mut queue = VecDeque::from(outputs);
        while let Some(output) = queue.pop_front() {
            if let Some(trouble) = self.log.as_mut().and_then(|log| log.append(&output, now)) {
                queue.extend(self.pipeline.on_unwritten(trouble.lost, &trouble.error, now));
            }
            self.outbox.send(Reply::Output(output));
        }
    }

    /// Everything that is left to be written and shown, and the parts that outlive the reporting.
    pub(super) fn close(mut self) -> (Governed, Outbox, Summary) {
        let now = Timestamp::now();
        self.count(now);
        let Self { governed, pipeline, mut log, mut outbox, .. } = self;
        let (outputs, summary) = pipeline.finish(now);
        for output in outputs {
            if let Some(log) = &mut log {
                log.append(&output, now);
            }
            outbox.send(Reply::Output(output));
        }
        if let Some(trouble) = log.and_then(|log| log.close(now)) {
            tracing::error!(lost = trouble.lost, error = trouble.error, "alerts were not written");
        }
        (governed, outbox, summary)
    }
}
