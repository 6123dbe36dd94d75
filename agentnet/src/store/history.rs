//! The segments of all agents as one sequence of lines, in the order of writing.
//!
//! Each agent's lines come in the order in which they were written, and lines of different agents in that
//! of their identifiers, which begin with the time. No more is held than a few kilobytes for each agent
//! that wrote at that time, and no file stays open: others go on writing, and may remove segments, at any
//! time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Stream,
    line::{Id, Line},
    segment::{self, Name},
};
use crate::{agent::AgentName, alert::model::Severity};

/// Bytes read at a time.
const CHUNK: usize = 16 << 10;

/// Longest line, in bytes. What is longer no writer has written.
const MAX_LINE: usize = 1 << 20;

/// How much earlier than its segment a line may have been made: it waits to be written.
const SLACK: SignedDuration = SignedDuration::from_secs(10);

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only this agent's.
    pub agent: Option<AgentName>,
    /// Only what happened then or later.
    pub since: Option<Timestamp>,
    /// Only what was written then or later, to the millisecond.
    pub written_since: Option<Timestamp>,
    /// Only what is at least as urgent.
    pub min_severity: Option<Severity>,
}

impl Query {
    /// Whether `line` is wanted.
    pub fn wants(&self, line: &Line) -> bool {
        self.agent.as_ref().is_none_or(|agent| agent.as_str() == line.agent)
            && self.since.is_none_or(|since| line.time >= since)
            && self.written_since.is_none_or(|since| line.id >= Id::first_at(since))
            && self.min_severity.is_none_or(|least| line.is_at_least(least))
    }
}

/// Lines, the earliest first.
#[derive(Debug)]
pub struct History {
    query: Query,
    queue: BinaryHeap<Reverse<Entry>>,
    torn: u64,
    hidden: Vec<Hidden>,
    error: Option<io::Error>,
}

/// An agent whose lines the caller may not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// The agent.
    pub agent: AgentName,
    /// The group that may, if that can be told.
    pub group: Option<u32>,
}

/// Where one agent's lines go on.
#[derive(Debug)]
struct Entry {
    /// Not later than any line that follows.
    earliest: Id,
    agent: AgentName,
    cursor: Cursor,
    /// The next line, if it was read already.
    line: Option<Line>,
}

/// A place in a segment.
#[derive(Debug)]
struct Cursor {
    directory: PathBuf,
    segment: Name,
    /// Of the first byte that was not read.
    offset: u64,
    /// What was read and belongs to no line yet.
    rest: Vec<u8>,
    /// Up to here `rest` has been given out.
    given: usize,
    /// In a line that is too long.
    skipping: bool,
}

enum Step {
    Line(Line),
    /// Something that is no line.
    Torn,
    End,
}

impl History {
    /// The lines of `stream` in the store at `store`; none if there is no such directory.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn open(store: &Path, stream: Stream, query: Query) -> io::Result<Self> {
        let stream = stream.directory(store);
        let agents = match &query.agent {
            Some(agent) => vec![agent.clone()],
            None => segment::agents(&stream)?,
        };
        // Not much earlier than the line was written, so that it bounds the segment as well.
        let since = query.since.max(query.written_since);
        let mut history = Self { query, queue: BinaryHeap::new(), torn: 0, hidden: Vec::new(), error: None };
        for agent in agents {
            let directory = stream.join(&agent);
            match first_segment(&directory, since) {
                Ok(None) => {}
                Ok(Some(segment)) => history.push(agent, Cursor::new(directory, segment), None),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    let group = directory.metadata().ok().map(|metadata| metadata.gid());
                    history.hidden.push(Hidden { agent, group });
                }
                Err(error) => history.error = history.error.or(Some(error)),
            }
        }
        Ok(history)
    }

    /// How many lines were found that are none, cut short by a crash or a full disk.
    pub const fn torn(&self) -> u64 {
        self.torn
    }

    /// Agents whose lines the caller may not read.
    pub fn hidden(&self) -> &[Hidden] {
        &self.hidden
    }

    /// Why not everything could be read.
    pub const fn error(&self) -> Option<&io::Error> {
        self.error.as_ref()
    }

    /// Why not everything could be read.
    pub fn into_error(self) -> Option<io::Error> {
        self.error
    }

    fn push(&mut self, agent: AgentName, cursor: Cursor, line: Option<Line>) {
        let earliest = match &line {
            Some(line) => line.id,
            None => Id::first_at(cursor.segment.time().saturating_sub(SLACK).unwrap_or(Timestamp::MIN)),
        };
        self.queue.push(Reverse(Entry { earliest, agent, cursor, line }));
    }

    /// Reads on where one agent's lines go on.
    fn advance(&mut self, agent: AgentName, mut cursor: Cursor) {
        loop {
            match cursor.next() {
                Ok(Step::Line(line)) => return self.push(agent, cursor, Some(line)),
                Ok(Step::Torn) => self.torn += 1,
                Ok(Step::End) => break,
                Err(error) => {
                    // Removed meanwhile: what was to be read is not kept any more.
                    if error.kind() != io::ErrorKind::NotFound {
                        self.error = self.error.take().or(Some(error));
                    }
                    break;
                }
            }
        }
        match segment::list(&cursor.directory) {
            Ok(names) => {
                if let Some(next) = names.into_iter().filter(|name| *name > cursor.segment).min() {
                    self.push(agent, Cursor::new(cursor.directory, next), None);
                }
            }
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

impl Iterator for History {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let Reverse(Entry { agent, cursor, line, .. }) = self.queue.pop()?;
            self.advance(agent, cursor);
            if let Some(line) = line.filter(|line| self.query.wants(line)) {
                return Some(line);
            }
        }
    }
}

/// The first segment of a directory that may have lines of `since` or later: all lines of a segment were
/// written before the next one began.
fn first_segment(directory: &Path, since: Option<Timestamp>) -> io::Result<Option<Name>> {
    let mut names = segment::list(directory)?;
    names.sort();
    let before = since.map_or(0, |since| names.partition_point(|name| name.time() <= since));
    Ok(names.get(before.saturating_sub(1)).copied())
}

impl Cursor {
    const fn new(directory: PathBuf, segment: Name) -> Self {
        Self { directory, segment, offset: 0, rest: Vec::new(), given: 0, skipping: false }
    }

    fn next(&mut self) -> io::Result<Step> {
        let mut searched = self.given;
        loop {
            let unsearched = self.rest.get(searched..).unwrap_or_default();
            if let Some(length) = unsearched.iter().position(|&byte| byte == b'\n') {
                let end = searched + length;
                let line = self.rest.get(self.given..end).unwrap_or_default();
                let read = if line.is_empty() && !self.skipping { None } else { Some(Line::parse(line)) };
                self.given = end + 1;
                searched = self.given;
                match (read, std::mem::take(&mut self.skipping)) {
                    // What is before a line that follows a torn one.
                    (None, _) => continue,
                    (Some(Some(line)), false) => return Ok(Step::Line(line)),
                    (Some(_), _) => return Ok(Step::Torn),
                }
            }
            self.rest.drain(..self.given);
            self.given = 0;
            if self.rest.len() > MAX_LINE {
                self.skipping = true;
                self.rest.clear();
            }
            searched = self.rest.len();
            if self.fill()? == 0 {
                let torn = !self.rest.is_empty() || self.skipping;
                self.rest.clear();
                self.skipping = false;
                return Ok(if torn { Step::Torn } else { Step::End });
            }
        }
    }

    /// Reads a chunk, and says how much of it there was.
    fn fill(&mut self) -> io::Result<usize> {
        let path = segment::path(&self.directory, self.segment);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let before = self.rest.len();
        self.rest.resize(before + CHUNK, 0);
        let read = file.read_at(self.rest.get_mut(before..).unwrap_or_default(), self.offset);
        self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
        let read = read?;
        self.offset += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.earliest, &self.agent).cmp(&(other.earliest, &other.agent))
    }
}
