//! The only door: requests of clients, and who may ask what.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
};

use super::{
    agent::{Phase, Session},
    serve::Rings,
    start::Child,
    state::Engine,
};
use crate::{
    agent::registry::{EngineKind, Registry},
    control::{
        caller::{Caller, Rights},
        outbox::Outbox,
        protocol::{Failure, Reply, Report, Request, Run, Status},
        server::Call,
    },
    exit,
};

/// What the client of a command with leftovers is told if it waits for them.
const WAITING: &str =
    "the command has ended and left processes running; agentnet waits for them, and Ctrl-C ends them";

/// Who asks, as far as it matters.
#[derive(Debug)]
struct Asker {
    caller: Arc<Caller>,
    rights: Rights,
}

impl Engine {
    /// Does what a connection asks.
    pub(super) fn handle(&mut self, call: Call, rings: &mut Rings) {
        match call {
            Call::Asked { connection, caller, request, fd, mut replies } => match self.asker(caller) {
                Ok(asker) => self.asked(connection, &asker, request, fd, replies, rings),
                Err(failure) => {
                    replies.send(Reply::Error(failure));
                }
            },
            Call::Said { connection, request } => self.said(connection, &request, rings),
            Call::Gone { connection } => {
                self.followers.remove(connection);
                self.gone(connection, rings);
            }
        }
    }

    /// What a caller may do, at this moment: a process may be governed since it connected.
    fn asker(&self, caller: Arc<Caller>) -> Result<Asker, Failure> {
        let refuse = |why: String| {
            Failure::denied(format!(
                "agentnet answers nobody of whom it cannot tell whether it is governed: {why}"
            ))
        };
        let cgroup = caller.cgroup(&self.hierarchy).map_err(refuse)?;
        // Those of other engines as well, and of dead ones.
        let others = Registry::system().list().map_err(|error| refuse(error.to_string()))?;
        let above = others.iter().filter_map(|listed| listed.meta.as_ref()).map(|meta| meta.cgroup.as_path());
        let own = self.agents.values().map(|agent| agent.cgroup.path());
        let governed = above.chain(own).any(|above| cgroup.path().starts_with(above));
        let rights = caller.rights(self.settings.groups, governed);
        Ok(Asker { caller, rights })
    }

    fn asked(
        &mut self,
        connection: u64,
        asker: &Asker,
        request: Request,
        fd: Option<OwnedFd>,
        mut replies: Outbox,
        rings: &mut Rings,
    ) {
        let answer = match request {
            Request::Run(run) => match self.begin_run(asker, &run, fd) {
                Ok(id) => return self.begin(id, Some(Session { connection, outbox: replies })),
                Err(failure) => Err(failure),
            },
            Request::Follow(follow) => match reads(asker) {
                Ok(of) => {
                    // From here on nothing is missed: who follows may now read what was written before.
                    let own = "you are told of your own agents; root and the group of the setting `read_group` of all";
                    replies.send(Reply::Done(of.map_or_else(String::new, |_| own.to_owned())));
                    return self.followers.add(connection, replies, follow, of);
                }
                Err(failure) => Err(failure),
            },
            Request::Finish { .. } => {
                Err(Failure::new("only the connection that had the command governed can end it"))
            }
            Request::Status => self.report(asker).map(|report| Reply::Status(Box::new(report))),
            Request::Attach(attach) => steers(asker, "attach agents").and_then(|()| {
                let attached = self.attach(&attach, asker.caller.peer);
                attached.map(Reply::Done).map_err(|error| Failure::new(error.to_string()))
            }),
            Request::Detach { agent } => {
                steers(asker, "detach agents").and_then(|()| self.detach(&agent, rings)).map(Reply::Done)
            }
            Request::Act(order) => steers(asker, "act on agents by hand")
                .and_then(|()| self.act(&order, &asker.caller.by()))
                .map(|acted| Reply::Acted(Box::new(acted))),
            Request::Reload => {
                steers(asker, "reload policies").and_then(|()| self.reload(rings)).map(Reply::Done)
            }
        };
        replies.send(answer.unwrap_or_else(Reply::Error));
    }

    /// Governs a child of the caller.
    fn begin_run(&mut self, asker: &Asker, run: &Run, fd: Option<OwnedFd>) -> Result<u32, Failure> {
        if self.kind != EngineKind::Daemon {
            return Err(Failure::new("this engine governs one agent; ask the daemon, or use `agentnet run`"));
        }
        if !asker.rights.run {
            return Err(Failure::denied(
                "the daemon runs commands for root and for the group of its setting `run_group`, of which you \
                 are no member",
            )
            .exit(exit::OWN_FAILURE));
        }
        let Some(pidfd) = fd else {
            return Err(Failure::new("no process came with the request to run one").exit(exit::OWN_FAILURE));
        };
        let started = Child::of(asker.caller.peer, pidfd.as_fd()).and_then(|child| self.run(run, child));
        started.map_err(|error| {
            tracing::warn!(agent = %run.agent, %error, "refused");
            error.failure()
        })
    }

    fn report(&self, asker: &Asker) -> Result<Report, Failure> {
        let of = reads(asker)?;
        let agents = self.agents.values().filter(|agent| visible(agent.meta().uid, of));
        let mut agents: Vec<Status> =
            agents.map(|agent| agent.status(&self.kernel, &self.line, self.acts.of(&agent.name))).collect();
        if agents.is_empty() && of.is_some() && !asker.rights.run {
            return Err(Failure::denied(
                "the daemon tells root and the group of its setting `read_group` about agents, and everybody about \
                 their own, of which you have none",
            ));
        }
        agents.sort_by(|a, b| a.agent.cmp(&b.agent));
        Ok(Report {
            engine: std::process::id(),
            daemon: self.kind == EngineKind::Daemon,
            started: self.started,
            problems: self
                .problems
                .iter()
                .chain(&self.unknown_resolvers)
                .chain(self.detection.unread())
                .chain(self.selecting.problems())
                .cloned()
                .collect(),
            acts: if of.is_none() { self.acts.waiting(&agents) } else { Vec::new() },
            agents,
        })
    }

    /// A client that has its command governed says something.
    pub(super) fn said(&mut self, connection: u64, request: &Request, rings: &mut Rings) {
        let Some((id, agent)) = self.agents.iter_mut().find(|(_, agent)| {
            agent.session.as_ref().is_some_and(|session| session.connection == connection)
        }) else {
            return;
        };
        let &Request::Finish { wait } = request else {
            return tracing::warn!(?request, "a client asked for something that is not its turn");
        };
        // It asks again when it waits no longer.
        if wait && agent.phase == Phase::Running {
            agent.phase = Phase::Waiting;
            if agent.cgroup.is_populated().unwrap_or(true) {
                agent.notice(WAITING.to_owned());
            }
        } else if !wait {
            agent.phase = Phase::Ending;
            if let Err(error) = agent.cgroup.kill() {
                tracing::error!(agent = %agent.name, %error, "cannot kill what is left of the agent");
                agent.notice(format!("{error}; agentnet waits until it is gone"));
            }
        }
        let id = *id;
        self.end_if_over(id, rings);
    }

    /// A client that has its command governed is gone.
    fn gone(&mut self, connection: u64, rings: &mut Rings) {
        let found = self.agents.iter_mut().find(|(_, agent)| {
            agent.session.as_ref().is_some_and(|session| session.connection == connection)
        });
        let Some((&id, agent)) = found else { return };
        if agent.phase == Phase::Running {
            tracing::warn!(agent = %agent.name, "the client is gone; the policy holds until the agent has no process");
            agent.phase = Phase::Orphaned;
            agent.session = None;
        }
        self.end_if_over(id, rings);
    }

    /// Takes the agent down if nothing is left of it that could be governed.
    pub(super) fn end_if_over(&mut self, id: u32, rings: &mut Rings) {
        if self.has_ended(id)
            && let Err(error) = self.end(id, rings)
        {
            tracing::error!(%error, "an agent is not taken down");
            if self.kind == EngineKind::Run {
                self.failed = Some(error);
            }
        }
    }
}

fn steers(asker: &Asker, what: &str) -> Result<(), Failure> {
    if asker.rights.steer {
        return Ok(());
    }
    let who = if asker.rights.read_own { "root" } else { "root, and no process under a policy" };
    Err(Failure::denied(format!("only {who} may {what}; use sudo")))
}

/// Whose agents the caller may read about: those of one user, or all.
fn reads(asker: &Asker) -> Result<Option<u32>, Failure> {
    match asker.rights {
        Rights { read_all: true, .. } => Ok(None),
        Rights { read_own: true, .. } => Ok(Some(asker.caller.peer.uid)),
        _ => Err(Failure::denied("a process under a policy is told nothing about policies")),
    }
}

fn visible(uid: u32, of: Option<u32>) -> bool {
    of.is_none_or(|of| of == uid)
}
