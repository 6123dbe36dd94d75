//! Containers as they start and end: podman and docker are asked every few seconds.
//!
//! Polling, because both can do it, without a service to be up all the time or a stream of events to be caught up
//! with: what is missed once is seen the next time. A runtime that is not installed has no containers; one
//! that fails keeps those it had.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{Container, Runtime};
use crate::agent::{process::lives, tool::ToolError};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A container runs that did not.
    Started(Container),
    /// A container has ended.
    Ended(Container),
    /// A runtime that is installed does not answer. To be reported: its containers are not seen.
    Blind {
        /// The runtime.
        runtime: Runtime,
        /// Why, in one sentence.
        why: String,
    },
    /// A runtime that did not answer does again.
    Sees {
        /// The runtime.
        runtime: Runtime,
    },
}

/// Asks the runtimes.
#[derive(Debug)]
pub struct Poll {
    interval: Interval,
    /// Kept while it runs, so that whoever stops waiting does not start it anew.
    asking: Option<JoinHandle<Vec<Answer>>>,
    known: BTreeMap<(Runtime, String), Known>,
    blind: BTreeMap<Runtime, String>,
    changes: VecDeque<Change>,
}

/// A container with a handle on its first process: one that was started anew has the same id.
#[derive(Debug)]
struct Known {
    container: Container,
    process: OwnedFd,
}

/// What a runtime said.
type Answer = (Runtime, Result<Listing, ToolError>);

#[derive(Debug)]
struct Listing {
    running: HashSet<String>,
    fresh: Vec<Container>,
}

impl Poll {
    /// Asks at once, then `every` so often. Takes a tokio runtime.
    pub fn start(every: Duration) -> Self {
        let mut interval = interval(every);
        // A runtime that takes long is not asked twice as often afterwards.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            interval,
            asking: None,
            known: BTreeMap::new(),
            blind: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// The next change. Nothing is lost if it is dropped while it waits.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return change;
            }
            if self.asking.is_none() {
                self.interval.tick().await;
                self.forget_ended();
                let known: HashSet<_> = self.known.keys().cloned().collect();
                self.asking = Some(tokio::task::spawn_blocking(move || ask(&known)));
            }
            if let Some(asking) = &mut self.asking {
                // It ends without an answer only where the runtime is shut down, and nobody waits then.
                let answers = asking.await.unwrap_or_default();
                self.asking = None;
                answers.into_iter().for_each(|(runtime, answer)| self.take(runtime, answer));
            }
        }
    }

    /// Containers whose first process has ended have ended, whatever their runtimes say.
    fn forget_ended(&mut self) {
        let ended = self.known.extract_if(.., |_, known| !lives(&known.process));
        self.changes.extend(ended.map(|(_, known)| Change::Ended(known.container)));
    }

    fn take(&mut self, runtime: Runtime, answer: Result<Listing, ToolError>) {
        let Listing { running, fresh } = match answer {
            Ok(listing) => listing,
            Err(error) => {
                let why = error.to_string();
                if self.blind.insert(runtime, why.clone()).as_ref() != Some(&why) {
                    self.changes.push_back(Change::Blind { runtime, why });
                }
                return;
            }
        };
        if self.blind.remove(&runtime).is_some() {
            self.changes.push_back(Change::Sees { runtime });
        }
        let ended = self.known.extract_if(.., |(of, id), _| *of == runtime && !running.contains(id));
        self.changes.extend(ended.map(|(_, known)| Change::Ended(known.container)));
        for container in fresh {
            // One that has ended since is found to have, or never was.
            let process = Pid::from_raw(container.pid).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
            let Some(Ok(process)) = process else { continue };
            self.changes.push_back(Change::Started(container.clone()));
            self.known.insert((runtime, container.id.clone()), Known { container, process });
        }
    }
}

fn ask(known: &HashSet<(Runtime, String)>) -> Vec<Answer> {
    let listing = |runtime| {
        let running = super::running(runtime)?;
        let fresh: Vec<_> =
            running.iter().filter(|id| !known.contains(&(runtime, (*id).clone()))).cloned().collect();
        let fresh = super::describe(runtime, &fresh)?;
        Ok(Listing { running: running.into_iter().collect(), fresh })
    };
    Runtime::MANAGERS.into_iter().map(|runtime| (runtime, listing(runtime))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, pid: u32) -> Container {
        Container {
            runtime: Runtime::Podman,
            id: id.to_owned(),
            name: format!("n-{id}"),
            pid: pid.cast_signed(),
            labels: BTreeMap::new(),
        }
    }

    fn listing(running: &[&str], fresh: &[Container]) -> Result<Listing, ToolError> {
        Ok(Listing { running: running.iter().map(|id| (*id).to_owned()).collect(), fresh: fresh.to_vec() })
    }

    fn silent() -> Result<Listing, ToolError> {
        Err(ToolError::Slow { program: "podman".to_owned() })
    }

    #[tokio::test]
    async fn what_starts_and_ends_is_told_once() {
        let mut poll = Poll::start(Duration::from_secs(3600));
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (a, b) = (container("a", sleep.id()), container("b", std::process::id()));
        let told = |poll: &mut Poll, answer| {
            poll.take(Runtime::Podman, answer);
            poll.changes.drain(..).collect::<Vec<_>>()
        };
        let both = listing(&["a", "b"], &[a.clone(), b.clone()]);
        assert_eq!(told(&mut poll, both), [Change::Started(a.clone()), Change::Started(b.clone())]);
        assert_eq!(told(&mut poll, listing(&["a", "b"], &[])), []);
        let why = "podman did not answer within 10 seconds".to_owned();
        let blind = Change::Blind { runtime: Runtime::Podman, why };
        assert_eq!(told(&mut poll, silent()), std::slice::from_ref(&blind), "they are not taken for ended");
        assert_eq!(told(&mut poll, silent()), []);
        assert_eq!(
            told(&mut poll, listing(&["a"], &[])),
            [Change::Sees { runtime: Runtime::Podman }, Change::Ended(b)]
        );
        assert_eq!(told(&mut poll, silent()), [blind], "anew after an answer");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        poll.forget_ended();
        assert_eq!(poll.changes, [Change::Ended(a)], "started anew in between, it would have the same id");
    }
}
