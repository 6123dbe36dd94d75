//! Where the daemon hears of cgroups and containers that come and go, and what it does not see.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::super::state::Engine;
use crate::agent::{
    cgroup::Cgroup,
    container::{
        Container, Runtime,
        poll::{Change as ContainerChange, Poll},
    },
    watch::{Change as CgroupChange, Watch},
};

/// How often container runtimes are asked.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// How often what did not work is tried again.
const TRY_EVERY: Duration = Duration::from_secs(10);

/// What may not be seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum What {
    /// Any cgroup.
    Hierarchy,
    /// What is made in a cgroup.
    Cgroup(PathBuf),
    /// The containers of a runtime.
    Runtime(Runtime),
}

/// What happened.
#[derive(Debug)]
pub(in super::super) enum Change {
    /// A cgroup is there.
    Appeared(Cgroup),
    /// A cgroup was removed.
    Vanished(Cgroup),
    /// A container runs.
    Started(Container),
    /// A container has ended.
    Ended(Container),
    /// Something is not seen.
    Blind {
        /// What.
        what: What,
        /// Why.
        why: String,
    },
    /// It is seen again.
    Sees(What),
    /// What did not work is to be tried again.
    Again,
}

/// The sources of changes, as far as a policy asks for them.
#[derive(Debug)]
pub(in super::super) struct Sources {
    watch: Option<Watch>,
    poll: Option<Poll>,
    again: Interval,
    /// Whether something is to be tried again.
    trying: bool,
}

impl Sources {
    /// None yet. Takes a tokio runtime.
    pub(in super::super) fn new() -> Self {
        let mut again = interval(TRY_EVERY);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { watch: None, poll: None, again, trying: false }
    }

    /// Watches what the policies ask for now; to be called before each wait.
    pub(in super::super) fn follow(&mut self, engine: &mut Engine) {
        let selecting = &mut engine.selecting;
        let trying = !selecting.failed.is_empty() || selecting.sight.is_hindered();
        if trying && !self.trying {
            self.again.reset();
        }
        self.trying = trying;
        if !std::mem::take(&mut selecting.sight.refocus) {
            return;
        }
        if selecting.selectors.of_containers().next().is_none() {
            self.poll = None;
            selecting.containers.clear();
            selecting.sight.unseen.retain(|what, _| !matches!(what, What::Runtime(_)));
        } else if self.poll.is_none() {
            self.poll = Some(Poll::start(ASK_EVERY));
        }
        if selecting.selectors.is_empty() {
            self.watch = None;
            selecting.sight.unseen.retain(|what, _| matches!(what, What::Runtime(_)));
            return;
        }
        let (selectors, hierarchy) = (Arc::clone(&selecting.selectors), engine.hierarchy.clone());
        let interesting = move |path: &Path| selectors.may_be_below(&hierarchy, path);
        match &mut self.watch {
            Some(watch) => watch.refocus(interesting),
            None => match Watch::start(engine.hierarchy.clone(), interesting) {
                Ok(watch) => {
                    self.watch = Some(watch);
                    engine.selected_again();
                }
                Err(error) => engine.not_watching(&error.to_string()),
            },
        }
    }

    /// The next change. Nothing is lost if it is dropped while it waits.
    pub(in super::super) async fn next(&mut self) -> Change {
        let Self { watch, poll, again, trying } = self;
        let cgroups = async {
            match watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        let containers = async {
            match poll {
                Some(poll) => poll.next().await,
                None => std::future::pending().await,
            }
        };
        let change = tokio::select! {
            change = cgroups => change,
            change = containers => return match change {
                ContainerChange::Started(container) => Change::Started(container),
                ContainerChange::Ended(container) => Change::Ended(container),
                ContainerChange::Blind { runtime, why } => Change::Blind { what: What::Runtime(runtime), why },
                ContainerChange::Sees { runtime } => Change::Sees(What::Runtime(runtime)),
            },
            _ = again.tick(), if *trying => return Change::Again,
        };
        match change {
            Ok(CgroupChange::Appeared { cgroup, .. }) => Change::Appeared(cgroup),
            Ok(CgroupChange::Vanished { cgroup, .. }) => Change::Vanished(cgroup),
            Ok(CgroupChange::Blind { cgroup, why }) => {
                Change::Blind { what: What::Cgroup(cgroup.path().to_owned()), why }
            }
            Err(error) => {
                self.watch = None;
                Change::Blind { what: What::Hierarchy, why: error.to_string() }
            }
        }
    }
}

impl Engine {
    fn selected_again(&mut self) {
        self.selecting.sight.sees(&What::Hierarchy);
    }

    fn not_watching(&mut self, why: &str) {
        if let Some(problem) = self.selecting.sight.blind(What::Hierarchy, why) {
            self.tell_unseen(&problem);
        }
    }
}

/// What is not seen although a policy selects by it.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// With the round in which it was found to be so.
    unseen: BTreeMap<What, (u64, String)>,
    round: u64,
    /// Whether the sources are to be adjusted.
    refocus: bool,
}

impl Sight {
    /// Has everything looked at anew.
    pub(super) fn refocus(&mut self) {
        self.refocus = true;
    }

    /// Has what was not seen looked at anew. A cgroup that was looked at since the last time and was not found
    /// to be unseen again is seen.
    pub(super) fn again(&mut self) {
        let round = self.round;
        self.unseen.retain(|what, (last, _)| !matches!(what, What::Cgroup(_)) || *last >= round);
        self.round += 1;
        self.refocus = self.unseen.keys().any(|what| !matches!(what, What::Runtime(_)));
    }

    /// Whether something is to be looked at anew: runtimes are asked all the time.
    fn is_hindered(&self) -> bool {
        self.unseen.keys().any(|what| !matches!(what, What::Runtime(_)))
    }

    /// Something is not seen; the problem, if it is a new one.
    pub(super) fn blind(&mut self, what: What, why: &str) -> Option<String> {
        let problem = match &what {
            What::Hierarchy => format!("cgroups that come are not noticed: {why}"),
            What::Cgroup(path) => format!("cgroups made in {} are not noticed: {why}", path.display()),
            What::Runtime(runtime) => format!("containers of {runtime} are not noticed: {why}"),
        };
        let problem = format!("{problem}; what a policy selects there is not governed");
        let before = self.unseen.insert(what, (self.round, problem.clone()));
        before.is_none_or(|(_, before)| before != problem).then_some(problem)
    }

    /// It is seen.
    pub(super) fn sees(&mut self, what: &What) {
        if self.unseen.remove(what).is_some() {
            tracing::info!(?what, "what comes is noticed again");
        }
    }

    /// There is nothing to be seen any more.
    pub(super) fn vanished(&mut self, path: &Path) {
        self.unseen.remove(&What::Cgroup(path.to_owned()));
    }

    /// What is not seen, in sentences.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.unseen.values().map(|(_, problem)| problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_told_once_and_forgotten_when_it_is_seen() {
        let mut sight = Sight::default();
        let place = || What::Cgroup("/cg/a".into());
        assert!(sight.blind(place(), "no space").is_some_and(|problem| problem.contains("/cg/a")));
        assert_eq!(sight.blind(place(), "no space"), None);
        assert!(sight.blind(What::Runtime(Runtime::Podman), "slow").is_some());
        // Looked at anew, and found to be so again.
        sight.again();
        assert!(sight.refocus);
        assert_eq!(sight.blind(place(), "no space"), None);
        sight.again();
        assert_eq!(sight.problems().count(), 2);
        // Looked at anew, and nothing was said.
        sight.again();
        assert_eq!(sight.problems().count(), 1);
        assert!(!sight.is_hindered() && !sight.refocus);
        sight.sees(&What::Runtime(Runtime::Podman));
        assert_eq!(sight.problems().count(), 0);
    }
}
