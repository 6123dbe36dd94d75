//! Names that are said to an address which a name has opened, where the kernel does not hold the sender to them: the
//! server name in QUIC, the host of HTTP requests.
//!
//! This is after the fact: what is judged here has left. The kernel sees to it that it went to an address of an allowed
//! name; what is found here is that it was meant for another one.

use std::{
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
};

use super::{
    action::Action,
    event::{Direction, Flow},
    evidence::{self, Evidence},
    finding::{Finding, Strength, Told},
    http::{Part, Requests},
    live::{Sample, Target, Verdict},
    places::Places,
    quic::{self, Said},
    tls::ClientHello,
};
use crate::alert::{model::Kind, text::clean};

/// Flows at a time whose names are read: of more, those that were silent longest are read anew.
const FLOWS: usize = 256;
/// Characters of a name that was said.
const NAME: usize = 255;

/// The rule that a name of a flow is held to.
#[derive(Clone, Copy)]
pub struct Held<'a> {
    /// The rule, for people, with its place.
    pub rule: &'a dyn fmt::Display,
    /// Names by which the policy lets the flow's port be reached.
    pub allows: &'a dyn Fn(&str) -> bool,
    /// What has to be said.
    pub to: HeldTo,
}

/// What has to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldTo {
    /// QUIC with the name of a server.
    Quic {
        /// Whether there may be none.
        may_be_unnamed: bool,
        /// Whether there may be another one that is encrypted.
        may_be_encrypted: bool,
    },
    /// HTTP with the name of a host.
    Http,
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("rule", &self.rule.to_string())
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// What is known of flows that are held to names. At most 13 MB.
#[derive(Debug)]
pub(super) struct Names<K> {
    quic: Places<K, quic::Flow>,
    http: Places<K, Requests>,
    told: Told,
    keys: RandomState,
}

impl<K: Copy + Eq + Hash> Names<K> {
    pub(super) fn new() -> Self {
        Self {
            quic: Places::new(FLOWS),
            http: Places::new(FLOWS),
            told: Told::default(),
            keys: RandomState::new(),
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        self.quic.remove(key);
        self.http.remove(key);
    }

    pub(super) fn remove_if(&mut self, unwanted: impl Fn(&K) -> bool) {
        self.quic.remove_if(&unwanted);
        self.http.remove_if(&unwanted);
    }

    /// Judges what left. `gap` bytes are missing before `bytes`, the new ones of a stream.
    pub(super) fn judge(&mut self, key: K, sample: &Sample<'_>, bytes: &[u8], gap: u64) -> Vec<Verdict> {
        let Some(held) = sample.held.filter(|_| sample.direction == Direction::Egress) else {
            return Vec::new();
        };
        let flow = &sample.source.flow;
        let verdicts: Vec<_> = match held.to {
            HeldTo::Quic { may_be_unnamed, may_be_encrypted } => {
                let (state, ..) = self.quic.get_or_insert_with(key, quic::Flow::default);
                // What is seen later of a flow, because it was forgotten or began before this did, says nothing of its beginning.
                let is_first = sample.offset == 0;
                let said = state.datagram(bytes).into_iter();
                let said = said.filter(|said| is_first || *said != Said::Unreadable);
                said.filter_map(|said| of_quic(said, held, flow, may_be_unnamed, may_be_encrypted)).collect()
            }
            HeldTo::Http => {
                let (requests, ..) = self.http.get_or_insert_with(key, Requests::default);
                let mut verdicts = Vec::new();
                requests.push(bytes, gap, &mut |part| {
                    if let Part::Head(head) = part {
                        verdicts.extend(of_request(head, held, flow));
                    }
                });
                verdicts
            }
        };
        verdicts.into_iter().filter_map(|verdict| self.told(verdict, sample)).collect()
    }

    /// The verdict, which tells what it is about only if that was not told lately.
    fn told(&mut self, mut verdict: Verdict, sample: &Sample<'_>) -> Option<Verdict> {
        let finding = verdict.finding.as_mut()?;
        let key = self.keys.hash_one((sample.source.agent.id, &finding.about, sample.source.flow.remote));
        match self.told.tell(key, finding.strength, sample.source.time) {
            Some(count) => finding.count = count,
            None if verdict.action == Action::Alert => return None,
            None => verdict.finding = None,
        }
        Some(verdict)
    }
}

fn of_quic(
    said: Said,
    held: Held<'_>,
    flow: &Flow,
    may_be_unnamed: bool,
    may_be_encrypted: bool,
) -> Option<Verdict> {
    let hello = match said {
        Said::Hello(hello) => hello,
        Said::Malformed => {
            return Some(mismatch(
                held,
                flow,
                None,
                Strength::Block,
                "spoke QUIC whose ClientHello is malformed",
            ));
        }
        // It may go on with a connection of another socket.
        Said::Unreadable => {
            let what = "spoke something in which no name of a server can be read";
            return Some(mismatch(held, flow, None, Strength::Alert, what));
        }
    };
    match &hello {
        ClientHello { is_encrypted: true, server_name } if !may_be_encrypted => {
            let what = "spoke QUIC with an encrypted ClientHello";
            Some(mismatch(held, flow, server_name.as_deref(), Strength::Block, what))
        }
        ClientHello { server_name: Some(name), .. } if !(held.allows)(name) => {
            let what = format!("spoke {} in QUIC", clean(name, NAME));
            Some(mismatch(held, flow, Some(name), Strength::Block, &what))
        }
        ClientHello { server_name: None, .. } if !may_be_unnamed => {
            Some(mismatch(held, flow, None, Strength::Block, "spoke QUIC without the name of a server"))
        }
        _ => None,
    }
}

/// The name of the host that a request is for.
fn of_request(head: &httparse::Request<'_, '_>, held: Held<'_>, flow: &Flow) -> Option<Verdict> {
    let target = head.path.unwrap_or_default();
    let mut names: Vec<&[u8]> = Vec::new();
    if let Some((_, rest)) = target.split_once("://") {
        names.push(rest.split(['/', '?']).next().unwrap_or_default().as_bytes());
    } else if head.method == Some("CONNECT") {
        names.push(target.as_bytes());
    }
    let hosts = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    names.extend(hosts.map(|header| header.value));
    if names.is_empty() {
        return Some(mismatch(held, flow, None, Strength::Alert, "sent an HTTP request without a host"));
    }
    let wrong = names.into_iter().find(|name| {
        let name = std::str::from_utf8(host(name)).unwrap_or_default();
        !(held.allows)(&name.to_ascii_lowercase())
    })?;
    let name = String::from_utf8_lossy(host(wrong)).to_ascii_lowercase();
    let what = format!("sent an HTTP request for {}", clean(&name, NAME));
    Some(mismatch(held, flow, Some(&name), Strength::Alert, &what))
}

/// A host without user, port and the dot at its end.
fn host(authority: &[u8]) -> &[u8] {
    let at = authority.iter().rposition(|byte| *byte == b'@').map_or(0, |at| at + 1);
    let name = authority.get(at..).unwrap_or_default().trim_ascii();
    let name = super::stream::name_of(name);
    name.strip_suffix(b".").unwrap_or(name)
}

fn mismatch(held: Held<'_>, flow: &Flow, said: Option<&str>, strength: Strength, what: &str) -> Verdict {
    let far = flow.remote;
    let subject = said.map_or_else(|| far.ip().to_string(), |name| clean(name, NAME));
    let is_cut = strength == Strength::Block;
    Verdict {
        action: if is_cut { Action::Block } else { Action::Alert },
        kind: Kind::SniMismatch,
        targets: if is_cut { vec![Target::Address(far.ip()), Target::Flow(flow.id)] } else { Vec::new() },
        finding: Some(Finding {
            kind: Kind::SniMismatch,
            detector: "said",
            strength,
            score: 1.0,
            fused: 1.0,
            about: subject.as_bytes().into(),
            reason: format!("{what} to {far}, which {} opened", held.rule),
            advice: "if that is right, add a rule for the name that was said",
            evidence: Evidence::Said(evidence::Said {
                said: said.map(|name| clean(name, NAME)),
                opened_by: held.rule.to_string(),
            }),
            subject,
            count: 1,
        }),
    }
}

#[cfg(test)]
mod tests;
