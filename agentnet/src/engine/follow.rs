//! Who is told of alerts and flows as they happen.

use crate::{
    agent::AgentName,
    alert::model::Output,
    control::{
        outbox::Outbox,
        protocol::{Follow, Reply},
    },
    store::Stream,
};

/// A connection that follows.
#[derive(Debug)]
struct Follower {
    connection: u64,
    outbox: Outbox,
    wanted: Follow,
    /// Only agents of this user.
    of: Option<u32>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Followers(Vec<Follower>);

impl Followers {
    /// Tells `outbox` what `wanted` asks for: of the agents of user `of` alone, or of all.
    pub(super) fn add(&mut self, connection: u64, outbox: Outbox, wanted: Follow, of: Option<u32>) {
        self.0.push(Follower { connection, outbox, wanted, of });
    }

    /// The connection is gone.
    pub(super) fn remove(&mut self, connection: u64) {
        self.0.retain(|follower| follower.connection != connection);
    }

    /// Tells everybody who wants to know that the agent, user `uid`'s, did that.
    pub(super) fn tell(&mut self, agent: &AgentName, uid: u32, output: &Output) {
        self.0.retain_mut(|follower| {
            let wanted = follower.wanted.is_about(agent, output) && follower.of.is_none_or(|of| of == uid);
            !wanted || follower.outbox.send(Reply::Output(output.clone()))
        });
    }
}

impl Follow {
    fn is_about(&self, agent: &AgentName, output: &Output) -> bool {
        if self.agent.as_ref().is_some_and(|wanted| wanted != agent) {
            return false;
        }
        match output {
            Output::Alert(alert) => {
                self.what == Stream::Alerts && self.min_severity.is_none_or(|least| alert.severity >= least)
            }
            Output::Flow(_) => self.what == Stream::Flows,
        }
    }
}
