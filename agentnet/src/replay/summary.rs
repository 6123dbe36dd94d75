//! What a capture had in it.

use std::collections::BTreeMap;

use super::pcap::Frame;
use crate::{
    alert::model::Kind,
    detect::{
        action::Action,
        app::App,
        event::{Counters, Time},
        finding::Finding,
    },
};

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Summary {
    /// Packets.
    pub packets: u64,
    /// Bytes of them, as they were on the wire.
    pub bytes: u64,
    /// Packets that are not of IP.
    pub not_ip: u64,
    /// When the first one was captured.
    pub first: Option<Time>,
    /// When the last one was.
    pub last: Time,
    /// Flows by what they spoke.
    pub protocols: BTreeMap<String, Protocol>,
    /// Alerts by agent, kind and destination.
    pub alerts: BTreeMap<(String, String, String), Told>,
    /// Destinations with alerts that had no place in [`Self::alerts`].
    pub more: u64,
}

/// Flows of a protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protocol {
    /// How many.
    pub flows: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes clients sent.
    pub out: u64,
    /// Bytes clients got.
    pub back: u64,
}

/// Alerts about a destination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// How many.
    pub alerts: u64,
    /// What would have been done, at most.
    pub action: Action,
    /// When the first one was.
    pub first: Time,
}

/// Destinations with alerts that are remembered.
const DESTINATIONS: usize = 10_000;

impl Summary {
    pub(super) fn frame(&mut self, frame: &Frame<'_>) {
        self.packets += 1;
        self.bytes += u64::from(frame.len);
        self.first.get_or_insert(frame.time);
        self.last = self.last.max(frame.time);
    }

    pub(super) fn flow(&mut self, app: Option<App>, number: u8, counters: &Counters) {
        let name = match (app, number) {
            (Some(app), _) => app.label().to_owned(),
            (None, 6) => "TCP, other".to_owned(),
            (None, 17) => "UDP, other".to_owned(),
            (None, number) => format!("IP protocol {number}"),
        };
        let protocol = self.protocols.entry(name).or_default();
        protocol.flows += 1;
        protocol.packets += counters.packets_out + counters.packets_in;
        protocol.out += counters.bytes_out;
        protocol.back += counters.bytes_in;
    }

    pub(super) fn finding(&mut self, agent: &str, finding: &Finding, action: Action, time: Time) {
        let kind: Kind = finding.kind;
        let key = (agent.to_owned(), kind.label().to_owned(), finding.subject.clone());
        if self.alerts.len() >= DESTINATIONS && !self.alerts.contains_key(&key) {
            self.more += 1;
            return;
        }
        let told = self.alerts.entry(key).or_insert(Told { first: time, ..Told::default() });
        told.alerts += 1;
        told.action = told.action.max(action);
    }
}
