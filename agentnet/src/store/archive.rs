//! What an engine writes: the log of each of its agents, and the limits on all of it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    Options, Readers, Stream,
    access::AccessError,
    retention,
    trouble::{Trouble, Unreported},
    writer::Writer,
};
use crate::{agent::AgentName, alert::model::Output};

/// Longest time between two looks at the limits, for what only ages.
const SWEEP_INTERVAL: SignedDuration = SignedDuration::from_mins(10);

/// The store as one engine uses it.
#[derive(Debug)]
pub struct Archive {
    options: Options,
    /// A segment has ended since the last look at the limits.
    due: Arc<AtomicBool>,
    swept: Option<Timestamp>,
    sweeper: Option<JoinHandle<io::Result<()>>>,
    unreported: Unreported,
}

impl Archive {
    /// A store at the place and with the limits of `options`; nothing of it is made yet.
    pub fn new(options: Options) -> Self {
        Self { options, due: Arc::default(), swept: None, sweeper: None, unreported: Unreported::default() }
    }

    /// The log of an agent, which `readers` may read. Made when the first line is written, or by
    /// [`Log::prepare`].
    pub fn log(&self, agent: &AgentName, readers: Readers) -> Log {
        let writer = |stream: Stream| {
            let directory = stream.directory(&self.options.directory);
            let bytes = self.options.limits(stream).segment_bytes();
            Writer::new(directory, agent.as_ref(), readers, bytes, Arc::clone(&self.due))
        };
        Log { alerts: writer(Stream::Alerts), flows: writer(Stream::Flows) }
    }

    /// Goes on with these limits. The logs that are open stay where they are.
    pub fn reconfigure(&mut self, options: Options) {
        self.options = options;
        self.due.store(true, Ordering::Relaxed);
    }

    /// Has a thread remove what is over the limits when it is time; to be called about once a second. Says
    /// what could not be removed.
    pub fn tick(&mut self, now: Timestamp) -> Option<Trouble> {
        if let Some(sweeper) = self.sweeper.take_if(|sweeper| sweeper.is_finished()) {
            match sweeper.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.unreported.disorder(format!("cannot remove old segments: {error}")),
                Err(_) => self.unreported.disorder("removing old segments failed".to_owned()),
            }
        }
        let waited = |last| now < last || now.duration_since(last) >= SWEEP_INTERVAL;
        if self.sweeper.is_none()
            && (self.swept.is_none_or(waited) || self.due.swap(false, Ordering::Relaxed))
        {
            self.swept = Some(now);
            let options = self.options.clone();
            let sweep = move || {
                let sweep = |stream: Stream| {
                    retention::sweep(&stream.directory(&options.directory), options.limits(stream), now)
                };
                let swept = Stream::ALL.map(sweep);
                swept.into_iter().try_for_each(|swept| swept.map(drop))
            };
            match thread::Builder::new().name("retention".to_owned()).spawn(sweep) {
                Ok(sweeper) => self.sweeper = Some(sweeper),
                Err(error) => self.unreported.disorder(format!("cannot remove old segments: {error}")),
            }
        }
        self.unreported.take(now, false)
    }
}

/// What is written about one agent. A full disk stops nothing: what cannot be written is counted, and
/// writing goes on by itself when it can.
#[derive(Debug)]
pub struct Log {
    alerts: Writer,
    flows: Writer,
}

impl Log {
    /// Makes the directories, to know early whether that can be done.
    ///
    /// # Errors
    /// If it cannot. Lines may be appended all the same.
    pub fn prepare(&mut self) -> Result<(), AccessError> {
        self.alerts.prepare().and_then(|()| self.flows.prepare())
    }

    /// The directory of the agent's alerts.
    pub fn directory(&self) -> &Path {
        self.alerts.directory()
    }

    /// Writes a line. What cannot be written is counted; the trouble comes back when it is time to say so.
    pub fn append(&mut self, output: &Output, now: Timestamp) -> Option<Trouble> {
        match Stream::of(output) {
            Stream::Alerts => self.alerts.append(output, now),
            Stream::Flows => self.flows.append(output, now),
        }
    }

    /// Goes on with other readers and limits.
    pub fn reconfigure(&mut self, options: &Options, readers: Readers) {
        self.alerts.reconfigure(readers, options.alerts.segment_bytes());
        self.flows.reconfigure(readers, options.flows.segment_bytes());
    }

    /// The troubles that were not reported yet.
    pub fn close(self, now: Timestamp) -> Vec<Trouble> {
        [self.alerts.close(now), self.flows.close(now)].into_iter().flatten().collect()
    }
}
