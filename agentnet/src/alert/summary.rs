//! What an agent did altogether: the material of the summary and of a learned policy.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use agentnet_common::{
    abi::AgentCounters,
    addr::Endpoint,
    event::Outcome,
    user::VerdictRecord,
    verdict::{Reason, RuleId},
};
use serde::{Deserialize, Serialize};

use super::{
    class::{Class, Remedy},
    door::UnixSocket,
    explain::Explain,
    loss::{Cause, Losses},
    model::{Destination, PolicyRef, Query},
    names::{Socket, SocketOption},
    verdict::{destination, option, socket},
};

/// Rows of each table: destinations are the agent's choice.
pub const MAX_ROWS: usize = 1024;
/// Processes named in one row.
pub const MAX_PROCESSES: usize = 8;

/// What an agent did altogether.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Name of the agent.
    pub agent: String,
    /// Name of the policy.
    pub policy: String,
    /// What was let through, most frequent first.
    pub allowed: Vec<Allowed>,
    /// Flows that were let through and found no row of their own.
    pub allowed_elsewhere: u64,
    /// What was refused, or would have been, most frequent first.
    pub refused: Vec<Refused>,
    /// Refusals that found no row of their own.
    pub refused_elsewhere: u64,
    /// What was not recorded: the cause in words, and how many.
    pub losses: Vec<(String, u64)>,
    /// Packets let through.
    pub packets: u64,
    /// Bytes let through, IP headers included.
    pub bytes: u64,
}

/// A destination that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// The destination.
    pub destination: Destination,
    /// The rule that allowed it last.
    pub policy: PolicyRef,
    /// Flows.
    pub count: u64,
}

/// A destination (or a socket) that was refused for a reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The destination, if there was one.
    pub destination: Option<Destination>,
    /// Label of the [`Reason`].
    pub reason: String,
    /// Whether it was only reported.
    pub audited: bool,
    /// Command names of who tried, at most [`MAX_PROCESSES`].
    pub processes: BTreeSet<String>,
    /// Times.
    pub count: u64,
    /// The name that was asked for, if that was refused.
    #[serde(default)]
    pub name: Option<String>,
    /// The socket that was asked for, if that was refused.
    pub socket: Option<Socket>,
    /// The socket option that was asked for, if that was refused.
    pub option: Option<SocketOption>,
    /// The Unix socket that was asked for.
    #[serde(default)]
    pub unix: Option<UnixSocket>,
    /// The rule that denies it, with its place.
    pub denied_by: Option<String>,
    /// TOML that would allow it.
    pub suggestion: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RefusedKey {
    endpoint: Endpoint,
    reason: Reason,
    outcome: Outcome,
    /// What was asked for, where that has no endpoint.
    detail: u32,
    /// The name that was asked for. Types, which resolvers ask for in pairs, are not told apart.
    name: Option<String>,
    /// The same of a Unix socket.
    unix: Option<UnixSocket>,
}

#[derive(Clone, Debug)]
struct AllowedRow {
    /// The rule in the numbering of the policy that is in force.
    rule: Option<RuleId>,
    row: Allowed,
}

#[derive(Clone, Debug)]
struct RefusedRow {
    destination: Option<Destination>,
    socket: Option<Socket>,
    option: Option<SocketOption>,
    processes: BTreeSet<String>,
    count: u64,
}

impl RefusedRow {
    fn finish(self, key: RefusedKey, policy: &dyn Explain) -> Refused {
        let explained = match (Class::of(key.reason).remedy, &key.name) {
            (Remedy::Rule, Some(name)) => policy.explain_name(name),
            (Remedy::Rule, None) if self.destination.is_some() => policy.explain(&key.endpoint, key.reason),
            _ => None,
        };
        let explained = explained.unwrap_or_default();
        Refused {
            destination: self.destination,
            reason: key.reason.label().to_owned(),
            audited: key.outcome == Outcome::Audited,
            processes: self.processes,
            count: self.count,
            name: key.name,
            socket: self.socket,
            option: self.option,
            unix: key.unix,
            denied_by: explained.rule.map(|rule| rule.to_string()),
            suggestion: explained.suggestion,
        }
    }
}

/// Adds up while the agent runs, in bounded memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    allowed: BTreeMap<Endpoint, AllowedRow>,
    allowed_elsewhere: u64,
    refused: BTreeMap<RefusedKey, RefusedRow>,
    refused_elsewhere: u64,
    packets: u64,
    bytes: u64,
}

impl Tally {
    /// Counts a flow to where `rule` has allowed one before; `false` if there is no such row.
    pub(super) fn allowed_again(&mut self, endpoint: Endpoint, rule: RuleId, count: u64) -> bool {
        let row = self.allowed.get_mut(&endpoint).filter(|row| row.rule == Some(rule));
        if let Some(AllowedRow { row, .. }) = row {
            row.count = row.count.saturating_add(count);
            return true;
        }
        false
    }

    /// Counts a flow that `rule`, of which `policy` tells, has allowed.
    pub(super) fn allowed(
        &mut self,
        endpoint: Endpoint,
        rule: RuleId,
        destination: Destination,
        policy: PolicyRef,
        count: u64,
    ) {
        let full = self.allowed.len() >= MAX_ROWS;
        match self.allowed.entry(endpoint) {
            Entry::Occupied(mut entry) => {
                let AllowedRow { rule: last, row } = entry.get_mut();
                *last = Some(rule);
                row.policy = policy;
                row.count = row.count.saturating_add(count);
            }
            Entry::Vacant(_) if full => {
                self.allowed_elsewhere = self.allowed_elsewhere.saturating_add(count);
            }
            Entry::Vacant(entry) => {
                let row = Allowed { destination, policy, count };
                entry.insert(AllowedRow { rule: Some(rule), row });
            }
        }
    }

    /// The rules have other numbers from now on.
    pub(super) fn forget_rules(&mut self) {
        for row in self.allowed.values_mut() {
            row.rule = None;
        }
    }

    pub(super) fn refused(
        &mut self,
        verdict: &VerdictRecord,
        reason: Reason,
        query: Option<&Query>,
        comm: &str,
        count: u64,
    ) {
        let event = &verdict.event;
        let name = query.map(|query| query.name.clone());
        let (endpoint, outcome) = (event.endpoint, verdict.outcome);
        let unix = UnixSocket::of(verdict);
        let key = RefusedKey { endpoint, reason, outcome, detail: event.detail, name, unix };
        let full = self.refused.len() >= MAX_ROWS;
        let row = match self.refused.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if full => {
                self.refused_elsewhere = self.refused_elsewhere.saturating_add(count);
                return;
            }
            Entry::Vacant(entry) => entry.insert(RefusedRow {
                destination: destination(verdict),
                socket: socket(verdict),
                option: option(verdict),
                processes: BTreeSet::new(),
                count: 0,
            }),
        };
        row.count = row.count.saturating_add(count);
        if !comm.is_empty() && row.processes.len() < MAX_PROCESSES && !row.processes.contains(comm) {
            row.processes.insert(comm.to_owned());
        }
    }

    pub(super) fn counters(&mut self, counters: &AgentCounters) {
        self.packets = self.packets.max(counters.allowed_packets);
        self.bytes = self.bytes.max(counters.allowed_bytes);
    }

    pub(super) fn finish(self, agent: &str, policy: &dyn Explain, losses: &Losses) -> Summary {
        let mut allowed: Vec<_> = self.allowed.into_values().map(|row| row.row).collect();
        // Stable sorts: rows of one count stay in the order of their endpoints.
        allowed.sort_by_key(|row| std::cmp::Reverse(row.count));
        let mut refused: Vec<_> =
            self.refused.into_iter().map(|(key, row)| row.finish(key, policy)).collect();
        refused.sort_by_key(|row| std::cmp::Reverse(row.count));
        Summary {
            agent: agent.to_owned(),
            policy: policy.name().to_owned(),
            allowed,
            allowed_elsewhere: self.allowed_elsewhere,
            refused,
            refused_elsewhere: self.refused_elsewhere,
            losses: Cause::ALL
                .into_iter()
                .filter(|cause| losses.total(*cause) > 0)
                .map(|cause| (cause.what().to_owned(), losses.total(cause)))
                .collect(),
            packets: self.packets,
            bytes: self.bytes,
        }
    }
}
