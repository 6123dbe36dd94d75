//! The one table of detectors: what they find, what is done about it by default, how it is called elsewhere.
//!
//! The policy's keys, the JSON Schema, the documentation and the evaluation are made of it. A new detector
//! is a file and a line here.

use std::fmt::Debug;

use super::{
    destination::DestinationClass,
    dga::NameBurst,
    dns_anomaly::DnsAnomaly,
    dns_answer::DnsAnswer,
    dns_budget::DnsBudget,
    dns_query::DnsQuery,
    event::Icmp,
    icmp::IcmpTunnel,
    scene::{Bytes, DnsScene, Request, Scene},
    secret::Secret,
    url::UrlChannel,
};
use crate::alert::model::Kind;

/// Finds one kind of channel. Detectors have no state of their own: what they remember of a workload is in
/// its ledger.
pub trait Detector: Debug + Sync {
    /// Its name in findings.
    fn id(&self) -> &'static str;

    /// What its score counts beside others, from 0 to 1.
    fn weight(&self) -> f32;

    /// Looks at a DNS message.
    fn on_dns(&self, _scene: &mut Scene<'_, '_>, _dns: &DnsScene<'_>) {}

    /// Looks at the head of an HTTP request.
    fn on_request(&self, _scene: &mut Scene<'_, '_>, _request: &Request<'_>) {}

    /// Looks at bytes that were sent: of bodies, of streams that are not encrypted, of datagrams.
    fn on_bytes(&self, _scene: &mut Scene<'_, '_>, _bytes: &Bytes<'_>) {}

    /// Looks at an ICMP message.
    fn on_icmp(&self, _scene: &mut Scene<'_, '_>, _icmp: &Icmp<'_>) {}
}

/// What is done by default about what a row finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    /// Certain findings are blocked, others told.
    Graded,
    /// Everything is told and nothing blocked.
    Alert,
}

/// A kind of finding.
#[derive(Debug)]
pub struct Row {
    /// The kind of its alerts; its label is the key in the policy.
    pub kind: Kind,
    /// What is done by default.
    pub default: DefaultAction,
    /// ATT&CK techniques, the first one goes into alerts.
    pub techniques: &'static [&'static str],
    /// What it finds.
    pub doc: &'static str,
    /// What by default is blocked, where the default is graded.
    pub blocked: &'static str,
    /// Who finds it.
    pub detectors: &'static [&'static dyn Detector],
}

/// Every kind of finding.
pub static REGISTRY: &[Row] = &[
    Row {
        kind: Kind::DnsTunnel,
        default: DefaultAction::Graded,
        techniques: &["T1048.003", "T1071.004"],
        doc: "Data in names that are looked up, and in what is answered.",
        blocked: "a query that decodes to data or holds a secret, and more than 1 kB of new information in a day",
        detectors: &[&DnsBudget, &DnsQuery, &DnsAnswer],
    },
    Row {
        kind: Kind::DnsAnomaly,
        default: DefaultAction::Alert,
        techniques: &["T1071.004"],
        doc: "DNS messages that are malformed or hide data, and resolvers that are not the policy's.",
        blocked: "",
        detectors: &[&DnsAnomaly],
    },
    Row {
        kind: Kind::UrlEntropy,
        default: DefaultAction::Alert,
        techniques: &["T1567", "T1132"],
        doc: "Data in the addresses and bodies of requests to hosts that are not often visited.",
        blocked: "",
        detectors: &[&UrlChannel],
    },
    Row {
        kind: Kind::Secret,
        default: DefaultAction::Graded,
        techniques: &["T1552", "T1041"],
        doc: "Secrets of this host and tokens of known form in anything that is not encrypted.",
        blocked: "this host's own secrets and tokens whose form is certain",
        detectors: &[&Secret],
    },
    Row {
        kind: Kind::IcmpTunnel,
        default: DefaultAction::Alert,
        techniques: &["T1095", "T1048.003"],
        doc: "ICMP that carries something.",
        blocked: "",
        detectors: &[&IcmpTunnel],
    },
    Row {
        kind: Kind::DestinationClass,
        default: DefaultAction::Graded,
        techniques: &["T1567", "T1102"],
        doc: "Services where anybody can read what is sent: request bins, tunnels, pastes, bots.",
        blocked: "request bins, out-of-band testing and tunnels",
        detectors: &[&DestinationClass],
    },
    Row {
        kind: Kind::Dga,
        default: DefaultAction::Alert,
        techniques: &["T1568.002"],
        doc: "Bursts of names that do not exist and look generated.",
        blocked: "",
        detectors: &[&NameBurst],
    },
];

/// The row of a kind, if it is one of findings.
pub fn row(kind: Kind) -> Option<&'static Row> {
    REGISTRY.iter().find(|row| row.kind == kind)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_detector_has_a_name_and_a_weight_of_its_own() {
        let mut ids = HashSet::new();
        for detector in REGISTRY.iter().flat_map(|row| row.detectors) {
            assert!(ids.insert(detector.id()), "{} is there twice", detector.id());
            assert!((0.0..=1.0).contains(&detector.weight()));
        }
    }

    #[test]
    fn rows_say_what_they_block() {
        for row in REGISTRY {
            assert!(!row.techniques.is_empty() && !row.detectors.is_empty());
            assert_eq!(row.blocked.is_empty(), row.default == DefaultAction::Alert, "{:?}", row.kind);
        }
    }
}
