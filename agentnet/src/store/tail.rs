//! What is stored and what engines tell live as one sequence without gaps and without repetition.
//!
//! Engines write a line before they tell it. So what was written until an engine begins to tell is read
//! from the segments, and what it tells afterwards is new unless it was read as well. What an engine had
//! not sent when it died, and agents that live too shortly to be noticed, are read from the segments too.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Stream,
    follow::{Engine, Event},
    history::{Hidden, History, Query},
    line::{Id, Line},
    segment,
};
use crate::agent::AgentName;

/// Lines that may be told twice: what is on the way from engines when the segments are read.
const RECENT: usize = 1 << 16;

/// How much earlier than the last line of an engine another of it may have been made.
const SLACK: SignedDuration = SignedDuration::from_secs(10);

/// Everything from a time on.
#[derive(Debug)]
pub struct Tail {
    store: PathBuf,
    stream: Stream,
    query: Query,
    from: Timestamp,
    /// The newest line shown of each agent: what was written before it was shown or missed.
    shown: BTreeMap<String, Id>,
    recent: Recent,
    /// When each engine told its last line.
    told: BTreeMap<Engine, Timestamp>,
    directories: BTreeMap<AgentName, (i64, i64)>,
    hidden: Vec<Hidden>,
    error: Option<io::Error>,
}

/// Something to be said beside the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// An engine that was followed is there again; so many lines were read from the segments.
    Back(Engine, u64),
    /// An engine has something to say about what it tells.
    Note(Engine, String),
    /// An engine is not there any more.
    Gone(Engine),
    /// An engine could not tell so many lines.
    Missed(Engine, u64),
    /// An engine does not tell the caller.
    Refused(Engine, String),
}

impl Tail {
    /// The lines of `stream` that `query` wants and that were written at `from` or later.
    pub fn new(store: PathBuf, stream: Stream, query: Query, from: Timestamp) -> Self {
        Self {
            store,
            stream,
            query,
            from,
            shown: BTreeMap::new(),
            recent: Recent::default(),
            told: BTreeMap::new(),
            directories: BTreeMap::new(),
            hidden: Vec::new(),
            error: None,
        }
    }

    /// Takes what an engine does, gives new lines to `show`, and says what else there is to say.
    ///
    /// # Errors
    /// If `show` fails.
    pub fn on(
        &mut self,
        event: Event,
        show: &mut impl FnMut(&Line) -> io::Result<()>,
    ) -> io::Result<Option<Remark>> {
        Ok(match event {
            Event::Begun(engine, note) => {
                let before = self.told.contains_key(&engine);
                let lines = self.read_for(&engine, show)?;
                self.told.entry(engine.clone()).or_insert(self.from);
                let back = before && engine == Engine::Daemon;
                match note {
                    _ if back => Some(Remark::Back(engine, lines)),
                    note => note.map(|note| Remark::Note(engine, note)),
                }
            }
            Event::Output(engine, output) => {
                if let Some(line) = Line::of(&output)
                    && self.query.wants(&line)
                {
                    self.told.insert(engine, line.id.time());
                    if self.recent.insert(line.id) {
                        self.note(&line);
                        show(&line)?;
                    }
                }
                None
            }
            Event::Missed(engine, count) => Some(Remark::Missed(engine, count)),
            Event::Refused(engine, why) => Some(Remark::Refused(engine, why)),
            Event::Gone(engine) => {
                self.read_for(&engine, show)?;
                // The engine of `run` ends with its agent, and has said so.
                (engine == Engine::Daemon).then_some(Remark::Gone(engine))
            }
        })
    }

    /// Notes which agents write, before engines are looked for; to be given to [`Self::read_changed`]
    /// afterwards. An engine listens before it writes: whose engine is not there then has ended, and all of
    /// it is in the segments.
    pub fn changed(&mut self) -> Vec<AgentName> {
        let stream = self.stream.directory(&self.store);
        let mut now = BTreeMap::new();
        for agent in segment::agents(&stream).unwrap_or_default() {
            if let Ok(metadata) = fs::symlink_metadata(stream.join(&agent)) {
                now.insert(agent, (metadata.mtime(), metadata.mtime_nsec()));
            }
        }
        let changed = now.iter().filter(|(agent, time)| self.directories.get(*agent) != Some(time));
        let changed = changed.map(|(agent, _)| agent.clone()).collect();
        self.directories = now;
        changed
    }

    /// Reads what is new of these agents.
    ///
    /// # Errors
    /// If `show` fails.
    pub fn read_changed(
        &mut self,
        agents: Vec<AgentName>,
        show: &mut impl FnMut(&Line) -> io::Result<()>,
    ) -> io::Result<()> {
        for agent in agents {
            if self.query.agent.as_ref().is_none_or(|only| *only == agent) {
                let shown = self.shown.get(agent.as_str()).and_then(|id| id.time().checked_sub(SLACK).ok());
                let from = shown.map_or(self.from, |shown| shown.max(self.from));
                self.read(Some(agent), from, show)?;
            }
        }
        Ok(())
    }

    /// Reads all there is.
    ///
    /// # Errors
    /// If `show` fails.
    pub fn read_all(&mut self, show: &mut impl FnMut(&Line) -> io::Result<()>) -> io::Result<()> {
        self.read(self.query.agent.clone(), self.from, show).map(drop)
    }

    /// Agents that were found and may not be read, since this was last asked.
    pub fn take_hidden(&mut self) -> Vec<Hidden> {
        std::mem::take(&mut self.hidden)
    }

    /// Why not everything could be read, since this was last asked.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    fn read_for(
        &mut self,
        engine: &Engine,
        show: &mut impl FnMut(&Line) -> io::Result<()>,
    ) -> io::Result<u64> {
        let told = self.told.get(engine).and_then(|told| told.checked_sub(SLACK).ok());
        let from = told.map_or(self.from, |told| told.max(self.from));
        let agent = match engine {
            Engine::Daemon => self.query.agent.clone(),
            Engine::Run(agent) => Some(agent.clone()),
        };
        self.read(agent, from, show)
    }

    /// Reads what was written at `from` or later, of all agents or one, and shows what is new.
    fn read(
        &mut self,
        agent: Option<AgentName>,
        from: Timestamp,
        show: &mut impl FnMut(&Line) -> io::Result<()>,
    ) -> io::Result<u64> {
        let query = Query { agent, written_since: Some(from), ..self.query.clone() };
        let mut history = match History::open(&self.store, self.stream, query) {
            Ok(history) => history,
            Err(error) => {
                self.error = Some(error);
                return Ok(0);
            }
        };
        let mut lines = 0;
        for line in history.by_ref() {
            let old = self.shown.get(&line.agent).is_some_and(|shown| line.id <= *shown);
            if !old && self.recent.insert(line.id) {
                self.note(&line);
                show(&line)?;
                lines += 1;
            }
        }
        self.hidden.extend_from_slice(history.hidden());
        self.error = history.into_error().or(self.error.take());
        Ok(lines)
    }

    fn note(&mut self, line: &Line) {
        match self.shown.get_mut(&line.agent) {
            Some(shown) => *shown = line.id.max(*shown),
            None => {
                self.shown.insert(line.agent.clone(), line.id);
            }
        }
    }
}

/// The identifiers of the last lines.
#[derive(Debug, Default)]
struct Recent {
    known: HashSet<Id>,
    order: VecDeque<Id>,
}

impl Recent {
    /// Whether it is new.
    fn insert(&mut self, id: Id) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        if self.order.len() >= RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
        true
    }
}
