//! The store on a real file system.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::{
    Limits, Options, Readers, Stream,
    archive::{Archive, Log},
    history::{History, Query},
    line::Line,
    tail::Tail,
};
use crate::{
    agent::AgentName,
    alert::{
        class::Enforcement,
        clock::Clock,
        model::{Alert, Output, Severity},
        pipeline::Pipeline,
    },
    engine::explain::Explainer,
    policy::Policy,
};

mod access;
mod file;
mod follow;
mod history;
mod retention;
mod tail;
mod writer;

/// Some seconds after the beginning of a day.
fn at(seconds: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

/// A store that goes with the test.
struct Store {
    _home: TempDir,
    options: Options,
}

impl Store {
    /// With room for so many bytes of each stream, kept for ten days.
    fn of(bytes: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let limits = Limits { bytes, age: SignedDuration::from_hours(240) };
        let options = Options { directory: home.path().join("agentnet"), alerts: limits, flows: limits };
        Self { _home: home, options }
    }

    fn log(&self, agent: &str) -> Log {
        Archive::new(self.options.clone()).log(&name(agent), Readers::default())
    }

    fn directory(&self, agent: &str) -> PathBuf {
        Stream::Alerts.directory(&self.options.directory).join(agent)
    }

    /// The segments of an agent's alerts, oldest first.
    fn segments(&self, agent: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory(agent)).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        paths.sort();
        paths
    }

    fn history(&self, query: Query) -> History {
        History::open(&self.options.directory, Stream::Alerts, query).unwrap()
    }

    /// What every line of the alerts says last in its sentence, in the order of the history.
    fn read(&self) -> Vec<String> {
        self.history(Query::default()).map(|line| mark(&line)).collect()
    }
}

/// Alerts of one agent, each with a mark by which it is known again.
struct Source {
    pipeline: Pipeline,
}

impl Source {
    fn of(agent: &str) -> Self {
        let policy = Policy::audit(&crate::policy::host::Host::default());
        let policy = std::sync::Arc::new(Explainer::new(std::sync::Arc::new(policy), Vec::new()));
        Self { pipeline: Pipeline::new(agent, "host1", policy, Clock::new(Timestamp::UNIX_EPOCH)) }
    }

    fn alert(&mut self, mark: &str, now: Timestamp) -> Output {
        self.alert_of(mark, Severity::Critical, now)
    }

    fn alert_of(&mut self, mark: &str, severity: Severity, now: Timestamp) -> Output {
        let change = Enforcement::Inactive(format!("<{mark}>"));
        let mut outputs = self.pipeline.on_enforcement(&change, now);
        let Some(Output::Alert(alert)) = outputs.pop() else { panic!("no alert") };
        Output::Alert(Box::new(Alert { severity, ..*alert }))
    }
}

/// What is between `<` and `>`.
fn mark(line: &Line) -> String {
    let (_, rest) = line.text.split_once('<').unwrap();
    rest.split_once('>').unwrap().0.to_owned()
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}
