//! Flows that have ended: what they carried.

use std::{net::IpAddr, net::SocketAddr, sync::Arc};

use agentnet_common::{abi::COMM_BYTES, addr::Endpoint, event::FlowEnd, verdict::RuleId};
use jiff::Timestamp;

use super::{
    super::{
        fold::{Merge, Repeats},
        model::{Evidence, Flow, FlowAction, FlowEvidence, FlowKind, Output},
        verdict::{community_of, far_end, who},
    },
    Pipeline,
    domain::named,
};
use crate::agent::process::Freshness;

/// What makes two ended flows the same to people.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Exact { rule: u16, endpoint: Endpoint, comm: [u8; COMM_BYTES] },
    Various { rule: u16 },
}

/// One ended flow, or several.
pub(super) struct Ended {
    end: FlowEnd,
    executable: Option<Arc<str>>,
    domain: Option<Arc<str>>,
    carried: FlowEvidence,
}

impl Merge for Ended {
    fn merge(&mut self, later: Self) {
        let before = std::mem::replace(&mut self.carried, later.carried);
        let sum = &mut self.carried;
        sum.bytes_out = sum.bytes_out.saturating_add(before.bytes_out);
        sum.packets_out = sum.packets_out.saturating_add(before.packets_out);
        sum.bytes_in = sum.bytes_in.saturating_add(before.bytes_in);
        sum.packets_in = sum.packets_in.saturating_add(before.packets_in);
        sum.duration_ms = sum.duration_ms.max(before.duration_ms);
        (self.end, self.executable, self.domain) = (later.end, later.executable, later.domain);
    }
}

impl Pipeline {
    pub(super) fn ended(&mut self, end: &FlowEnd, now: Timestamp) -> Vec<Output> {
        let ended = self.ends.expired(now);
        let exact = Key::Exact { rule: end.rule, endpoint: end.endpoint, comm: end.process.comm };
        let various = !self.ends.contains(&exact) && !self.distinct_ends.admit(now);
        let key = if various { Key::Various { rule: end.rule } } else { exact };
        let executable = (end.process.pid != 0)
            .then(|| {
                let comm = end.process.comm_text();
                // It was looked up when the flow began; the process may be gone.
                self.executables.executable(end.process.pid, &comm, end.began, Freshness::Recent)
            })
            .flatten();
        let ip = IpAddr::from(end.local);
        let carried = FlowEvidence {
            bytes_out: end.tx_bytes,
            packets_out: end.tx_packets,
            bytes_in: end.rx_bytes,
            packets_in: end.rx_packets,
            duration_ms: end.header.time.saturating_sub(end.began) / 1_000_000,
            local: (!ip.is_unspecified()).then(|| SocketAddr::new(ip, end.local_port)),
            socket_cookie: (end.header.flow != 0).then_some(end.header.flow),
            various,
        };
        // The kernel knows by which name it has opened a connection.
        let domain = Some(end.name).filter(|name| *name != 0).and_then(|name| self.names.name(name));
        let domain = domain.map(Arc::from).or_else(|| self.opened_by(RuleId(end.rule), &end.endpoint));
        let added = self.ends.add(key, Ended { end: *end, executable, domain, carried }, 1, now);
        let mut outputs = self.ended_repeats(ended, now);
        outputs.extend(self.ended_repeats(added.ended, now));
        outputs.extend(added.first.map(|first| self.tell_ended(first, 1, now)));
        outputs
    }

    pub(super) fn ended_repeats(&mut self, ended: Vec<Repeats<Ended>>, now: Timestamp) -> Vec<Output> {
        ended.into_iter().map(|repeats| self.tell_ended(repeats.last, repeats.count, now)).collect()
    }

    fn tell_ended(&mut self, ended: Ended, count: u64, now: Timestamp) -> Output {
        let Ended { end, executable, domain, carried } = ended;
        Output::Flow(Box::new(Flow {
            time: self.clock.wall(end.header.time),
            id: self.ids.next(now),
            host: self.host.clone(),
            agent: self.agent.clone(),
            kind: FlowKind::Flow,
            action: FlowAction::Ended,
            process: who(&end.process, executable.as_deref()),
            destination: named(far_end(&end.endpoint), domain.as_deref()),
            policy: self.policy_ref(self.decided(RuleId(end.rule), &end.endpoint)),
            community_id: carried.local.and_then(|local| community_of(&end.endpoint, local)),
            evidence: Evidence::Flow(carried),
            count,
        }))
    }
}
