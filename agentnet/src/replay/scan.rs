//! Lists: one item a line, one verdict a line, in the order of the input.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use serde::Serialize;

use super::lines::LineError;
use crate::{
    alert::{detection::severity, model::Severity},
    detect::{
        action::{Action, Actions},
        bank::{Bank, Config, Outcome},
        event::{
            Agent, Body, Direction, Dns, Event, Flow, Lineage, Logged, Message, Request, Time, Transport,
        },
        evidence::{Evidence, Thousandths},
        finding::Repeats,
        ledger::Keys,
        registry::row,
    },
};

mod names;

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Names that were looked up.
    Names,
    /// Addresses of requests.
    Urls,
    /// Bytes that were sent.
    Payloads,
}

/// What is said of a line.
#[derive(Debug, Serialize)]
pub struct Verdict<'a> {
    /// The line.
    pub input: &'a str,
    /// `ok`, `alert` or `block`.
    pub verdict: &'static str,
    /// How sure the detectors are together, from 0 to 1.
    pub score: Thousandths,
    /// What they found.
    pub findings: Vec<Found>,
}

/// A finding about a line.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The kind of its alerts.
    pub kind: &'static str,
    /// Who found it.
    pub detector: &'static str,
    severity: Severity,
    /// What is done about it: `ok`, `alert` or `block`.
    pub action: &'static str,
    score: Thousandths,
    reason: String,
    technique: Option<&'static str>,
    /// The numbers behind it.
    pub evidence: Evidence,
}

/// Judges the lines of a list, one after the other.
#[derive(Debug)]
pub struct Scanner {
    bank: Bank,
    actions: Actions,
    list: List,
    /// Lines so far.
    number: u64,
    clients: Clients,
}

/// Numbers of clients by their names. Past a million of them the numbers begin anew.
#[derive(Debug, Default)]
struct Clients {
    numbers: HashMap<String, u64>,
    next: u64,
}

impl Clients {
    const MAX: usize = 1 << 20;

    fn number(&mut self, name: &str) -> u64 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        if self.numbers.len() >= Self::MAX {
            self.numbers.clear();
        }
        self.next += 1;
        self.numbers.insert(name.to_owned(), self.next);
        self.next
    }
}

impl Scanner {
    /// A scanner of `list` that does about findings what `actions` says.
    pub fn new(list: List, actions: Actions, config: Config) -> Self {
        // Nobody who writes the list gains from names that collide: the same list has the same result.
        let keys = Keys::new(0x6167_656e_746e_6574, 0x7363_616e_6e65_7221);
        let bank = Bank::new(config, keys, Repeats::Said);
        Self { bank, actions, list, number: 0, clients: Clients::default() }
    }

    /// Judges the next line; `None` if there is nothing on it but a comment.
    ///
    /// # Errors
    /// If it is not what the list is of.
    pub fn line<'l>(&mut self, line: &'l str) -> Result<Option<Verdict<'l>>, LineError> {
        self.number += 1;
        let text = line.trim();
        let comment = self.list != List::Payloads && text.starts_with('#');
        if text.is_empty() || comment {
            return Ok(None);
        }
        let outcome = match self.list {
            List::Names => self.name(text)?,
            List::Urls => self.url(text)?,
            List::Payloads => self.payload(line),
        };
        Ok(Some(self.verdict(line, outcome)))
    }

    fn name(&mut self, text: &str) -> Result<Outcome, LineError> {
        let row = names::Row::parse(text, self.number)?;
        let id = self.clients.number(row.client);
        let logged = Logged {
            name: row.name,
            rtype: row.rtype,
            rcode: row.rcode,
            answers: row.answers,
            answer_bytes: row.answer_bytes,
            query_bytes: row.query_bytes,
        };
        let dns =
            Dns { direction: Direction::Egress, transport: Transport::Udp, message: Message::Logged(logged) };
        Ok(self.bank.on_event(&event(Agent { id, name: row.client }, row.time, 53, Body::Dns(dns))))
    }

    /// A URL, or a method and a URL; a second after the one before.
    fn url(&mut self, text: &str) -> Result<Outcome, LineError> {
        let mut words = text.split_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        let (method, url) = match second {
            Some(url) if first.bytes().all(|byte| byte.is_ascii_uppercase()) => (first, url),
            _ => ("", first),
        };
        let Some((_, rest)) =
            url.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https" | "ws" | "wss"))
        else {
            let shown = crate::alert::text::clean(url, 80);
            return Err(LineError::Content(format!("{shown:?} is no URL of http or https")));
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = target.split('#').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        if host.is_empty() {
            return Err(LineError::Content("the URL has no host".to_owned()));
        }
        // A name and a password before the host leave as a header.
        let request = Request { method, host: host.as_bytes(), target: target.as_bytes() };
        Ok(self.bank.on_event(&self.alone(443, Body::Request(request))))
    }

    /// A text, with escapes as JSON and C have them; in quotes as a whole it is a string of JSON.
    fn payload(&mut self, line: &str) -> Outcome {
        let string: Option<String> =
            (line.starts_with('"') && line.ends_with('"')).then(|| serde_json::from_str(line).ok()).flatten();
        let payload = string.as_deref().unwrap_or(line).as_bytes();
        self.bank.on_event(&self.alone(0, Body::Payload(payload)))
    }

    /// An event of the one client that a list without columns is of.
    fn alone<'a>(&self, port: u16, body: Body<'a>) -> Event<'a> {
        event(Agent { id: 0, name: "list" }, Time::from_secs(1_000_000_000 + self.number), port, body)
    }

    fn verdict<'l>(&self, input: &'l str, outcome: Outcome) -> Verdict<'l> {
        let mut action = Action::Nothing;
        let mut score = 0.0_f32;
        let mut findings = Vec::new();
        for finding in outcome.findings {
            let own = self.actions.of(&finding);
            if self.actions.setting(finding.kind) == crate::detect::action::Setting::Off {
                continue;
            }
            action = action.max(own);
            score = score.max(finding.fused);
            findings.push(Found {
                kind: finding.kind.label(),
                detector: finding.detector,
                severity: severity(finding.strength, own),
                action: own.verdict(),
                score: Thousandths::of(finding.score),
                technique: row(finding.kind).and_then(|row| row.techniques.first().copied()),
                reason: finding.reason,
                evidence: finding.evidence,
            });
        }
        Verdict { input, verdict: action.verdict(), score: Thousandths::of(score), findings }
    }
}

/// An event of a list: who sent it is known, where to is not.
fn event<'a>(agent: Agent<'a>, time: Time, port: u16, body: Body<'a>) -> Event<'a> {
    let nowhere = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let flow = Flow { id: 0, protocol: 17, local: nowhere(0), remote: nowhere(port) };
    Event { time, agent, process: None, lineage: Lineage::default(), flow, body }
}

#[cfg(test)]
mod tests;
