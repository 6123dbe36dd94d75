//! The sentence of an alert: what was tried, by whom, why it was refused and what to do.

use agentnet_common::event::{Hook, Outcome};

use super::{
    class::{Class, Remedy},
    door::UnixSocket,
    explain::{Explained, RuleRef},
    model::{Destination, Process, Query},
    names::{Socket, SocketOption},
    text::one_line,
};

/// What a sentence is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Name of the agent.
    pub agent: &'a str,
    /// Name of the policy.
    pub policy: &'a str,
    /// Where it was decided.
    pub hook: Hook,
    /// What became of it.
    pub outcome: Outcome,
    /// What the reason means.
    pub class: &'a Class,
    /// Who did it.
    pub process: Option<&'a Process>,
    /// The far end.
    pub destination: Option<&'a Destination>,
    /// Bytes of the packet.
    pub bytes: u32,
    /// The socket asked for.
    pub socket: Option<&'a Socket>,
    /// The option asked for.
    pub option: Option<&'a SocketOption>,
    /// What a DNS message asked for.
    pub query: Option<&'a Query>,
    /// The server name that was said in TLS.
    pub server_name: Option<&'a str>,
    /// The rule that had opened the way to where that was said.
    pub opened_by: Option<&'a RuleRef>,
    /// The Unix socket asked for.
    pub unix: Option<&'a UnixSocket>,
    /// What the policy knows.
    pub explained: Option<&'a Explained>,
    /// What was done by hand that has it refused.
    pub by_hand: Option<&'a str>,
    /// How many like it.
    pub count: u64,
    /// Whether they differ in process or destination.
    pub various: bool,
}

/// Writes the sentence.
pub fn sentence(facts: &Facts<'_>) -> String {
    let times = match facts.count {
        0 | 1 => String::new(),
        count if facts.various => {
            format!(" (and {} others like it, of other processes or destinations)", count - 1)
        }
        count => format!(" ({count} times)"),
    };
    let verb = match facts.outcome {
        Outcome::Audited => "and would have been refused if the policy were enforced",
        Outcome::Blocked | Outcome::Allowed => "and was refused",
    };
    format!("{}{times} {verb}, because {}; {}.", attempt(facts), because(facts), remedy(facts))
}

/// Who tried what.
fn attempt(facts: &Facts<'_>) -> String {
    let who = who(facts);
    let far = far_end(facts.destination);
    match facts.hook {
        Hook::Connect => format!("{who} tried to connect to {far}"),
        Hook::Sendmsg => match facts.server_name {
            Some(name) => format!("{who} tried to speak TLS for {name} with {far}"),
            // Calls that send over TCP are judged where it matters what they say.
            None if facts.destination.is_some_and(|far| far.protocol == "tcp") && facts.bytes > 0 => {
                format!("{who} tried to send {} bytes to {far}", facts.bytes)
            }
            None => format!("{who} tried to send a datagram to {far}"),
        },
        Hook::SockCreate => match facts.socket {
            Some(socket) => format!("{who} tried to make a socket ({socket})"),
            None => format!("{who} tried to make a socket"),
        },
        Hook::Setsockopt => match facts.option {
            Some(option) => format!("{who} tried to set the socket option {option}"),
            None => format!("{who} tried to set a socket option"),
        },
        Hook::Egress if facts.query.is_some() => {
            let Some(Query { name, kind }) = facts.query else { return who };
            format!("{who} tried to ask {far} for {kind} of {name}")
        }
        Hook::ConnectUnix => format!("{who} tried to connect to {}", unix(facts.unix)),
        Hook::SendmsgUnix => format!("{who} tried to send to {}", unix(facts.unix)),
        Hook::Egress | Hook::TcxFrom => {
            format!("{who} tried to send a packet of {} bytes to {far}", facts.bytes)
        }
        Hook::TcxFrame => format!("{who} tried to send a frame of {} bytes past IP", facts.bytes),
        Hook::Ingress | Hook::TcxTo => {
            format!("{far} tried to reach {who} with a packet of {} bytes", facts.bytes)
        }
    }
}

fn who(facts: &Facts<'_>) -> String {
    facts.process.map_or_else(|| format!("a process of agent {}", facts.agent), process)
}

/// A process, for people.
pub(super) fn process(process: &Process) -> String {
    match process {
        Process { pid, comm, exe: Some(exe), uid } => format!("{comm} ({exe}, pid {pid}, uid {uid})"),
        Process { pid, comm, exe: None, uid } => format!("{comm} (pid {pid}, uid {uid})"),
    }
}

fn far_end(destination: Option<&Destination>) -> String {
    let name =
        |domain: &Option<String>| domain.as_ref().map(|domain| format!(" ({domain})")).unwrap_or_default();
    match destination {
        Some(Destination { ip, port: Some(port), protocol, domain }) => {
            format!("{ip}{} port {port} over {}", name(domain), protocol.to_uppercase())
        }
        Some(Destination { ip, port: None, protocol, domain }) => {
            format!("{ip}{} over {}", name(domain), protocol.to_uppercase())
        }
        None => "an address that is not known".to_owned(),
    }
}

fn unix(socket: Option<&UnixSocket>) -> String {
    match socket {
        Some(UnixSocket { name, what: Some(what), .. }) => format!("{what} by the Unix socket {name}"),
        Some(UnixSocket { name, .. }) if !name.is_empty() => format!("the Unix socket {name}"),
        _ => "a Unix socket without a name".to_owned(),
    }
}

fn because(facts: &Facts<'_>) -> String {
    if let Some(by_hand) = facts.by_hand {
        return by_hand.to_owned();
    }
    if let Some(rule) = facts.opened_by {
        return format!("{} (it is open by the rule {rule})", facts.class.because);
    }
    let Some(explained) = facts.explained else {
        return facts.class.because.to_owned();
    };
    match explained {
        Explained { rule: Some(rule), .. } => format!("the rule {rule} denies it"),
        Explained { near: Some(rule), .. } => {
            format!("the rule {rule} does not allow that port or protocol")
        }
        Explained { special: Some(special), .. } => {
            format!("no rule names {special}, which has to be named")
        }
        Explained { .. } => facts.class.because.to_owned(),
    }
}

fn remedy(facts: &Facts<'_>) -> String {
    let denied_by_rule = facts.explained.is_some_and(|explained| explained.rule.is_some());
    let suggestion = facts.explained.and_then(|explained| explained.suggestion.as_deref());
    match (facts.class.remedy, suggestion) {
        _ if denied_by_rule => format!("to allow it, remove that rule from policy {}", facts.policy),
        (Remedy::Rule, Some(suggestion)) => {
            format!("to allow it, add to policy {}: {}", facts.policy, one_line(suggestion))
        }
        (Remedy::Rule, None) => {
            format!("to allow it, add an [[egress.allow]] rule for it to policy {}", facts.policy)
        }
        (Remedy::Listen, _) => {
            let local = facts.destination.is_some_and(|peer| peer.ip.is_loopback());
            let listen = if local { "loopback" } else { "any" };
            format!("to allow it, set in policy {}: [local] listen = \"{listen}\"", facts.policy)
        }
        (Remedy::Add(rule), _) => format!("to allow it, add to policy {}: {rule}", facts.policy),
        (Remedy::Door, _) => match facts.unix {
            Some(socket) => socket.remedy(facts.policy),
            None => format!("to allow it, set in policy {}: [local] unix = \"any\"", facts.policy),
        },
        (Remedy::Instead(advice), _) => format!("no rule can allow it: {advice}"),
        (Remedy::Operator(advice), _) => advice.to_owned(),
    }
}
