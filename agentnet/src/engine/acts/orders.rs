//! Orders of people: what they ask for, done or refused.

use std::{collections::HashSet, net::IpAddr, os::fd::AsFd as _, time::Duration};

use agentnet_common::{
    addr::{Addr, Endpoint},
    verdict::{Scope, Verdict, judge},
};
use jiff::Timestamp;

use super::super::{existing::Occasion, netns, state::Engine};
use crate::{
    act::{self, Act, Acted, Allowed, By, Deed, Order, Transport, What, short},
    agent::{
        AgentName,
        registry::{EngineKind, Registry},
    },
    alert::by_hand::{Change, Did},
    control::protocol::Failure,
    kernel::sockdiag::{self, Protocol},
    policy::{Policy, net::Net, special},
};

/// Longest time that something is allowed by hand: what is needed for longer is a rule.
const LONGEST_GRANT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Longest time at all.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// What is said of a deny rule.
const NO_OVERRIDE: &str = "nothing that is allowed by hand overrides a deny rule; change the policy";

/// Addresses of one name that are allowed.
const MOST_ADDRESSES: usize = 32;

/// An order and who gives it.
struct Given<'a> {
    agent: Option<&'a AgentName>,
    by: &'a By,
    reason: Option<String>,
}

impl Given<'_> {
    /// The act that follows from it.
    fn act(&self, id: u32, what: What, length: Option<Duration>) -> Act {
        let (until, expiry) = act::end(length);
        Act {
            id,
            what,
            agent: self.agent.cloned(),
            by: Some(self.by.clone()),
            detection: None,
            reason: self.reason.clone(),
            since: Timestamp::now(),
            until,
            expiry,
        }
    }
}

/// The rule of `policy` that denies `endpoint`, with its place.
pub(super) fn denied(policy: &Policy, endpoint: &Endpoint) -> Option<String> {
    let scope = policy.scope(endpoint.addr.into());
    policy.explain(endpoint, scope).deny_rule.map(ToString::to_string)
}

impl Engine {
    /// Does what somebody asks for by hand.
    ///
    /// # Errors
    /// If it makes no sense, or the kernel does not take it; nothing was changed then, or the failure says what.
    pub(in crate::engine) fn act(&mut self, order: &Order, by: &By) -> Result<Acted, Failure> {
        let reason = act::reason(order.reason.as_deref().unwrap_or_default()).map_err(wrong)?;
        let given = Given { agent: order.agent.as_ref(), by, reason };
        let length = |seconds: &Option<u64>| seconds.map(|seconds| so_long(seconds, LONGEST)).transpose();
        match &order.deed {
            Deed::Block { net, seconds } => self.block(&given, *net, length(seconds)?),
            Deed::Unblock { net } => self.unblock(&given, *net),
            Deed::UnblockName { name } => self.unblock_name(&given, name),
            Deed::Quarantine { seconds } => self.quarantine(&given, length(seconds)?),
            Deed::Release => self.release(&given),
            Deed::Allow { target, addresses, port, protocol, seconds } => {
                let length = so_long(*seconds, LONGEST_GRANT)?;
                self.allow(&given, (target, addresses), (*port, *protocol), length)
            }
            Deed::Revoke { target, port, protocol } => self.revoke(&given, target, *port, *protocol),
        }
    }

    /// The agent that an order names.
    fn agent_of(&self, given: &Given<'_>) -> Result<(u32, AgentName), Failure> {
        let name = given.agent.ok_or_else(|| wrong("say which agent: --agent NAME".to_owned()))?;
        match self.id_of(name) {
            Some(id) => Ok((id, name.clone())),
            None => Err(Failure::new(format!("there is no agent `{name}` here; see `agentnet status`"))),
        }
    }

    fn block(&mut self, given: &Given<'_>, net: Net, length: Option<Duration>) -> Result<Acted, Failure> {
        if given.agent.is_some() {
            self.agent_of(given)?;
        }
        let act = given.act(self.acts.ledger.next_id(), What::Block { net }, length);
        let replaced = self.acts.ledger.add(act.clone()).map_err(Failure::new)?;
        let ids = self.concerned(&act);
        let mut acted = self.acted(&act);
        let mut failed = Vec::new();
        for &id in &ids {
            if let Err(error) = self.put_acts(id)
                && let Some(agent) = self.agents.get(&id).filter(|agent| agent.is_there())
            {
                failed.push(format!("agent {}: {error}", agent.name));
            }
        }
        if failed.len() == ids.len() && !ids.is_empty() {
            return Err(self.take_back(&act, replaced, &failed));
        }
        self.close(&ids, Some(net), &mut acted);
        for agent in self.agents.values() {
            let Some(allowed) = self.acts.ledger.of(&agent.name).find_map(|grant| {
                let allowed = grant.allows()?;
                let covered = allowed.addresses.iter().any(|ip| net.covers(Net::host(*ip)));
                (act.concerns(&agent.name) && covered).then_some(allowed)
            }) else {
                continue;
            };
            acted
                .notes
                .push(format!("{allowed} was allowed by hand to agent {}: the block wins", agent.name));
        }
        acted.done = format!("{}; {}", act.what, holds(&act));
        self.finish(&Change::new(Did::Done, &act), &mut acted);
        if failed.is_empty() {
            return Ok(acted);
        }
        Err(Failure::new(format!(
            "{} is blocked, but not for {}; it is tried again",
            short(net),
            failed.join("; ")
        )))
    }

    fn unblock(&mut self, given: &Given<'_>, net: Net) -> Result<Acted, Failure> {
        let Some(act) = self.acts.ledger.block(given.agent, net).cloned() else {
            if given.agent.is_none() && self.kind == EngineKind::Run {
                // It may have begun since, and another engine has the block.
                let agents = self.agents.values().map(|agent| agent.name.clone()).collect();
                let done = format!("{} was not blocked here", short(net));
                return Ok(Acted { done, agents, ..Acted::default() });
            }
            return Err(Failure::new(self.not_blocked(given.agent, net)));
        };
        let mut acted = self.lift_all(&act)?;
        let host = Net::of(net.addr(), 128);
        let still = |other: &&Act| {
            (given.agent.is_none_or(|agent| other.concerns(agent)))
                && other
                    .blocks()
                    .is_some_and(|wider| wider.covers(net) || net.covers(wider) || wider.covers(host))
        };
        let left: Vec<String> =
            self.acts.ledger.all().iter().filter(still).map(ToString::to_string).collect();
        acted.notes.extend(left.into_iter().map(|act| format!("what is left: {act}")));
        acted.done = format!("{} is not blocked any more", short(net));
        self.undo(given, &act, &mut acted);
        Ok(acted)
    }

    fn unblock_name(&mut self, given: &Given<'_>, name: &str) -> Result<Acted, Failure> {
        let Some(act) = self.acts.ledger.block_name(given.agent, name).cloned() else {
            let of =
                |act: &Act| act.agent.as_ref().map_or_else(String::new, |agent| format!(" --agent {agent}"));
            let mut same = self.acts.ledger.all().iter().filter(|act| act.blocks_name() == Some(name));
            return Err(Failure::new(match same.next() {
                Some(act) => format!("{act}; `agentnet unblock {name}{}` takes that back", of(act)),
                None => format!("{name} is not blocked by its name; see `agentnet status`"),
            }));
        };
        let mut acted = self.lift_all(&act)?;
        acted.done = format!("{name} and the names below it are not blocked any more");
        self.undo(given, &act, &mut acted);
        Ok(acted)
    }

    /// Why `net` cannot be unblocked, and what can.
    fn not_blocked(&self, agent: Option<&AgentName>, net: Net) -> String {
        let for_whom = agent.map_or_else(|| "every agent".to_owned(), |agent| format!("agent {agent}"));
        let near = |act: &&Act| {
            act.blocks().is_some_and(|other| other.covers(net) || net.covers(other))
                && agent.is_none_or(|agent| act.concerns(agent))
        };
        let near: Vec<String> = self
            .acts
            .ledger
            .all()
            .iter()
            .filter(near)
            .map(|act| {
                let of = act.agent.as_ref().map_or_else(String::new, |agent| format!(" --agent {agent}"));
                format!(
                    "{act}, which `agentnet unblock {}{of}` takes back",
                    act.blocks().map_or_else(String::new, short)
                )
            })
            .collect();
        match near.as_slice() {
            [] => format!("{} is not blocked by hand for {for_whom}; see `agentnet status`", short(net)),
            near => format!("{} is not blocked by itself for {for_whom}: {}", short(net), near.join("; ")),
        }
    }

    fn quarantine(&mut self, given: &Given<'_>, length: Option<Duration>) -> Result<Acted, Failure> {
        let (id, _) = self.agent_of(given)?;
        let act = given.act(self.acts.ledger.next_id(), What::Quarantine, length);
        let replaced = self.acts.ledger.add(act.clone()).map_err(Failure::new)?;
        if let Err(error) = self.put_acts(id) {
            return Err(self.take_back(&act, replaced, &[error.to_string()]));
        }
        let mut acted = self.acted(&act);
        self.close(&[id], None, &mut acted);
        acted.done = format!("{} and may send nothing; {}", act.what, holds(&act));
        self.finish(&Change::new(Did::Done, &act), &mut acted);
        Ok(acted)
    }

    fn release(&mut self, given: &Given<'_>) -> Result<Acted, Failure> {
        let found = given.agent.and_then(|name| self.acts.ledger.quarantine(name)).cloned();
        let Some(act) = found else {
            let (_, name) = self.agent_of(given)?;
            return Err(Failure::new(format!("agent {name} is not in quarantine")));
        };
        let mut acted = self.lift_all(&act)?;
        acted.done = "the agent is not in quarantine any more; its policy decides again".to_owned();
        self.undo(given, &act, &mut acted);
        Ok(acted)
    }

    fn allow(
        &mut self,
        given: &Given<'_>,
        (target, addresses): (&str, &[IpAddr]),
        (port, protocol): (u16, Transport),
        length: Duration,
    ) -> Result<Acted, Failure> {
        let (id, name) = self.agent_of(given)?;
        if port == 0 {
            return Err(wrong("port 0 is none that something can be sent to".to_owned()));
        }
        let mut notes = Vec::new();
        let (addresses, local) =
            self.allowable(id, target, addresses, (port, protocol), &mut notes).map_err(Failure::new)?;
        let allowed = Allowed { target: target.to_owned(), addresses, port, protocol, local };
        let endpoints: Vec<Endpoint> = allowed.endpoints().collect();
        let act = given.act(self.acts.ledger.next_id(), What::Allow(allowed), Some(length));
        let replaced = self.acts.ledger.add(act.clone()).map_err(Failure::new)?;
        if let Err(error) = self.put_acts(id) {
            return Err(self.take_back(&act, replaced, &[error.to_string()]));
        }
        notes.extend(self.obstacles(id, &name, &endpoints));
        let mut acted = Acted { notes, ..self.acted(&act) };
        acted.done = format!("{}; {}", act.what, holds(&act));
        self.finish(&Change::new(Did::Done, &act), &mut acted);
        Ok(acted)
    }

    /// The addresses of `target` that may be allowed to an agent, and whether they are on this host; what is left out and
    /// why goes to `notes`.
    fn allowable(
        &self,
        id: u32,
        target: &str,
        addresses: &[IpAddr],
        (port, protocol): (u16, Transport),
        notes: &mut Vec<String>,
    ) -> Result<(Vec<IpAddr>, bool), String> {
        let Some(agent) = self.agents.get(&id) else { return Err("the agent is gone".to_owned()) };
        if agent.policy.is_unknown() {
            return Err(
                "its policy cannot be read, so nobody can tell what it denies; correct it and run `agentnet reload`"
                    .to_owned(),
            );
        }
        let written = target.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if written.is_none() {
            let explanation = agent.policy.explain_name(target, protocol.number(), port);
            let explanation = explanation.map_err(|error| format!("that is no name: {error}"))?;
            if let Some(rule) = explanation.deny_rule {
                return Err(format!("{target} is denied by {rule}, and {NO_OVERRIDE}"));
            }
        }
        let acts = self.acts.in_force(&agent.name);
        let mut allowed = Vec::new();
        let mut local = false;
        for ip in addresses.iter().map(IpAddr::to_canonical).take(MOST_ADDRESSES) {
            let addr = Addr::from(ip);
            let endpoint = Endpoint::new(addr, port, protocol.number());
            let special = special::innermost(Net::host(ip), &self.host.local);
            let refused = if written.is_some_and(|written| written != ip) {
                Some(format!("{ip} is not what was written"))
            } else if ip.is_unspecified() {
                Some(format!("{ip} is no place; write 127.0.0.1 or ::1 for this host"))
            } else if let Some(rule) = denied(&agent.policy, &endpoint) {
                Some(format!("{ip} is denied by {rule}, and {NO_OVERRIDE}"))
            } else if let Some(block) = acts.block(&addr) {
                Some(format!("{block}; take that back first with `agentnet unblock`"))
            } else if let (None, Some(special)) = (written, special) {
                Some(format!(
                    "{target} is at {ip}, which is {}; if that is meant, write the address itself",
                    special.name
                ))
            } else {
                None
            };
            match refused {
                Some(why) => notes.push(why),
                None => {
                    local |= addr.is_loopback() || agent.policy.scope(ip) != Scope::Remote;
                    allowed.push(ip);
                }
            }
        }
        if addresses.len() > MOST_ADDRESSES {
            notes.push(format!(
                "{target} has {} addresses, of which the first {MOST_ADDRESSES} count",
                addresses.len()
            ));
        }
        match (allowed.is_empty(), written) {
            (true, _) => Err(std::mem::take(notes).join("; ")),
            (false, Some(_)) => Ok((allowed, local)),
            (false, None) => {
                notes.push(format!("{target} was looked up once: if its addresses change, allow it again"));
                Ok((allowed, local))
            }
        }
    }

    /// What makes a grant useless, or is in its way.
    fn obstacles(&self, id: u32, name: &AgentName, endpoints: &[Endpoint]) -> Vec<String> {
        let Some(agent) = self.agents.get(&id) else { return Vec::new() };
        let mut notes = Vec::new();
        if agent.is_audit() {
            notes.push("its policy only audits, so nothing is refused anyway".to_owned());
        }
        if agent.cfg.is_quarantined() {
            notes.push("the agent is in quarantine, and nothing leaves until it is released".to_owned());
        }
        for endpoint in endpoints {
            let scope = agent.policy.scope(endpoint.addr.into());
            let explanation = agent.policy.explain(endpoint, scope);
            if let (Verdict::Allow(_), Some(rule)) = (explanation.verdict, explanation.rule) {
                notes.push(format!("{} is allowed by {rule} anyway", explanation.what));
            }
        }
        let own = agent.cgroup.path();
        for other in
            self.agents.values().filter(|other| other.id() != id && own.starts_with(other.cgroup.path()))
        {
            let acts = self.acts.in_force(&other.name);
            let refuses = endpoints.iter().any(|endpoint| {
                let scope = other.policy.scope(endpoint.addr.into());
                matches!(
                    judge(&other.policy.compiled, &acts, &other.cfg, endpoint, scope, false),
                    Verdict::Deny(_)
                )
            });
            if refuses && !other.is_audit() {
                notes.push(format!(
                    "agent {name} lives in agent {}, whose policy does not allow it",
                    other.name
                ));
            }
        }
        // Those of other engines: what their policies say is theirs to know.
        for listed in Registry::system().list().unwrap_or_default() {
            let is_around =
                listed.meta.is_some_and(|meta| meta.cgroup != own && own.starts_with(&meta.cgroup));
            if is_around && self.id_of(&listed.name).is_none() {
                notes.push(format!(
                    "agent {name} lives in agent {}, whose policy applies as well",
                    listed.name
                ));
            }
        }
        notes
    }

    fn revoke(
        &mut self,
        given: &Given<'_>,
        target: &str,
        port: u16,
        protocol: Transport,
    ) -> Result<Acted, Failure> {
        let (_, name) = self.agent_of(given)?;
        let found = self.acts.ledger.allowed(&name, |allowed| allowed.is_called(target, port, protocol));
        let Some(act) = found.cloned() else {
            return Err(Failure::new(format!(
                "{protocol} {target} port {port} was not allowed to agent {name} by hand; see `agentnet status`"
            )));
        };
        let mut acted = self.lift_all(&act)?;
        acted.done = "it is not allowed by hand any more; the policy decides".to_owned();
        self.undo(given, &act, &mut acted);
        Ok(acted)
    }

    /// Takes an act out of force everywhere.
    fn lift_all(&mut self, act: &Act) -> Result<Acted, Failure> {
        let mut acted = self.acted(act);
        self.acts.ledger.remove(act.id);
        for id in self.concerned(act) {
            match self.lift(id, act) {
                Ok(closed) => acted.closed += closed,
                Err(why) => return Err(self.take_back_end(act, &why)),
            }
        }
        Ok(acted)
    }

    /// Has an act hold again that could not be ended everywhere.
    fn take_back_end(&mut self, act: &Act, why: &str) -> Failure {
        // There was room for it a moment ago.
        let _ = self.acts.ledger.add(act.clone());
        for id in self.concerned(act) {
            if let Err(error) = self.put_acts(id) {
                tracing::error!(%error, "what holds still is not in force");
            }
        }
        Failure::new(format!("it holds still that {act}: {why}"))
    }

    /// Undoes an act that could not be put in force.
    pub(super) fn take_back(&mut self, act: &Act, replaced: Option<Act>, why: &[String]) -> Failure {
        self.acts.ledger.remove(act.id);
        if let Some(replaced) = replaced {
            // There was room for it a moment ago.
            let _ = self.acts.ledger.add(replaced);
        }
        for id in self.concerned(act) {
            if let Err(error) = self.put_acts(id) {
                tracing::error!(%error, "what was done by hand before is not in force");
            }
        }
        Failure::new(format!("nothing was changed: {}", why.join("; ")))
    }

    /// Closes what is forbidden now. Nobody of them talks to somebody outside of `net`, if given.
    pub(super) fn close(&self, ids: &[u32], net: Option<Net>, acted: &mut Acted) {
        if net.is_some_and(|net| !is_talked_to(net)) {
            return;
        }
        for &id in ids {
            match self.settle(id, Occasion::Reload) {
                Ok(report) => acted.closed += report.destroyed.len(),
                Err(error) => {
                    acted.notes.push(format!(
                        "some connections may not be closed, and nothing leaves by them: {error}"
                    ));
                }
            }
        }
        let closed = acted.closed;
        if closed > 0 {
            acted.notes.push(format!("{closed} connections were closed"));
        }
    }

    /// What is answered about an act.
    pub(super) fn acted(&self, act: &Act) -> Acted {
        let agents = self.agents.values().filter(|agent| act.concerns(&agent.name));
        Acted {
            act: Some(act.clone()),
            agents: agents.map(|agent| agent.name.clone()).collect(),
            ..Acted::default()
        }
    }

    /// Keeps and tells what was done.
    fn finish(&mut self, change: &Change<'_>, acted: &mut Acted) {
        if let Err(why) = self.keep_acts() {
            acted.notes.push(why);
        }
        self.tell_act(change);
    }

    /// Keeps and tells what was taken back.
    fn undo(&mut self, given: &Given<'_>, act: &Act, acted: &mut Acted) {
        if act.detection.is_some() {
            self.detection.spare(act);
            acted.notes.push(
                "detection tells of it still, and does not do it again while the agent lives".to_owned(),
            );
        }
        let change =
            Change { by: Some(given.by), why: given.reason.as_deref(), ..Change::new(Did::Undone, act) };
        self.finish(&change, acted);
    }
}

/// How long it holds, as the end of a sentence.
fn holds(act: &Act) -> String {
    match act.until {
        Some(until) => format!("it ends at {}", act::second(until)),
        None => "it holds until it is taken back".to_owned(),
    }
}

fn wrong(message: String) -> Failure {
    Failure::new(message).exit(crate::exit::WRONG_USAGE)
}

fn so_long(seconds: u64, longest: Duration) -> Result<Duration, Failure> {
    let length = Duration::from_secs(seconds);
    let days = longest.as_secs() / (24 * 60 * 60);
    match seconds {
        0 => Err(wrong("something that ends at once does nothing; give it a time".to_owned())),
        _ if length > longest => Err(wrong(format!("that is longer than {days} days; write a rule instead"))),
        _ => Ok(length),
    }
}

/// Whether any socket of this host is connected to an address in `net`; also if that cannot be told.
fn is_talked_to(net: Net) -> bool {
    let Ok(namespaces) = netns::all() else { return true };
    let mut seen = HashSet::new();
    for namespace in namespaces {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            match sockdiag::sockets(Some(namespace.as_fd()), protocol) {
                Ok(sockets) => seen.extend(sockets.iter().map(|socket| socket.remote.ip().to_canonical())),
                Err(_) => return true,
            }
        }
    }
    seen.into_iter().any(|ip| net.covers(Net::host(ip)))
}
