//! All operations at once, and the judgement on what came of them.

use super::{Lab, net::Family, wire::Packet};
use crate::{
    probe::{self, Needs, Operation, Report, Request, Trace},
    skip,
};

/// Operations against the denied host of one family.
pub struct Battery {
    family: Family,
    operations: Vec<&'static Operation>,
    requests: Vec<Request>,
}

impl Battery {
    /// All that can be tried on this family; without privilege, all that need none. `victim` is a process
    /// outside the agent.
    pub fn new(family: Family, privileged: bool, victim: i32) -> Self {
        let to = family.denied_endpoint();
        let operations: Vec<_> = probe::operations()
            .filter(|operation| operation.knows(to) && (privileged || operation.needs == Needs::Nothing))
            .collect();
        let requests =
            operations.iter().map(|operation| Request::new(operation.name, to).victim(victim)).collect();
        Self { family, operations, requests }
    }

    /// Without operations that need another defence than the one under test.
    #[must_use]
    pub fn without(mut self, names: &[&str]) -> Self {
        self.operations.retain(|operation| !names.contains(&operation.name));
        self.requests.retain(|request| !names.contains(&request.op.as_str()));
        self
    }

    /// What the probe is to do.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Operations that did not get through although nothing was there to stop them. What the kernel itself
    /// lacks is skipped by name.
    pub fn failures(&self, lab: &Lab, reports: &[Report]) -> Vec<String> {
        let mut failures = Vec::new();
        for ((operation, request), report) in self.operations.iter().zip(&self.requests).zip(reports) {
            if lacking(report) {
                skip!(operation.name, "{:?}: {} by this kernel", self.family, report.error);
                continue;
            }
            let seen = self.seen(lab, operation, request);
            if !report.ok || seen != (operation.trace != Trace::Nothing) {
                failures.push(format!("{report:?}, seen at the far end: {seen}"));
            }
        }
        failures
    }

    /// Everything that left although nothing of it should have: any packet to the denied host, and any
    /// packet with a marker that has no business on the wire.
    pub fn leaks(&self, lab: &Lab) -> Vec<String> {
        let denied = self.family.denied();
        let stray = lab.sniffer.to(denied, 0);
        let mut leaks: Vec<_> = stray.iter().map(|packet| format!("to {denied}: {packet:?}")).collect();
        for (operation, request) in self.operations.iter().zip(&self.requests) {
            let allowed = self.family.allowed();
            let is_rightful = |packet: &Packet| {
                operation.reaches_allowed
                    && packet.is_plain()
                    && packet.header.is_some_and(|header| header.destination == allowed)
            };
            let leaked =
                lab.sniffer.packets(|packet| packet.holds(request.args.secret()) && !is_rightful(packet));
            leaks.extend(leaked.iter().map(|packet| format!("{}: {packet:?}", operation.name)));
        }
        leaks
    }

    /// Whether the far end saw of an operation what it sees if nothing stops it.
    fn seen(&self, lab: &Lab, operation: &Operation, request: &Request) -> bool {
        let marker = request.args.secret();
        let target = lab.sniffer.to(self.family.denied(), 0);
        match operation.trace {
            Trace::Marker | Trace::Nothing => target.iter().any(|packet| packet.holds(marker)),
            Trace::Packet => !target.is_empty(),
            Trace::Elsewhere => lab.sniffer.carrying(marker) > 0,
        }
    }
}

/// Whether the kernel lacks what the operation is about.
pub fn lacking(report: &Report) -> bool {
    let missing = [libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT, libc::ESOCKTNOSUPPORT];
    match report.op.as_str() {
        // Needs CONFIG_IPV6_MIP6.
        "cmsg-routing-header" => report.errno == libc::EINVAL,
        // Needs CONFIG_TUN.
        "tun-send" => report.step == "open" && [libc::ENOENT, libc::ENODEV].contains(&report.errno),
        // Needs CONFIG_TLS.
        "opt-tcp-ulp" => report.errno == libc::ENOENT,
        _ => report.step == "socket" && missing.contains(&report.errno),
    }
}
