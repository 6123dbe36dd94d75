//! Addresses have the names by which the agent came to them.

use std::sync::Arc;

use agentnet_common::{
    abi::{ABI_VERSION, Process},
    addr::Addr,
    event::{FlowEnd, Header, Kind as RecordKind, Outcome},
    user::Record,
    verdict::Reason,
};

use super::{
    super::{
        model::{Kind, Output},
        pipeline::Pipeline,
        resolved::Names,
    },
    event, later, only_alert, pipeline, record,
};

/// 10.0.0.9 has one name, 10.0.0.10 two, 203.0.113.7 one that was blocked and another.
struct Known;

impl Names for Known {
    fn name(&self, hash: u64) -> Option<String> {
        (hash == 7).then(|| "exact.example".to_owned())
    }

    fn names_of(&self, addr: &Addr) -> Vec<String> {
        let names: &[&str] = match std::net::IpAddr::from(*addr).to_string().as_str() {
            "10.0.0.9" => &["other.example", "allowed.example"],
            "10.0.0.10" => &["one.example", "two.example"],
            "203.0.113.7" => &["two.example", "blocked.example"],
            _ => &[],
        };
        names.iter().map(|&name| name.to_owned()).collect()
    }
}

fn knowing() -> Pipeline {
    let mut pipeline = pipeline();
    pipeline.set_names(Box::new(Known));
    pipeline
}

fn domain(output: &Output) -> Option<&str> {
    let destination = match output {
        Output::Alert(alert) => alert.destination.as_ref(),
        Output::Flow(flow) => flow.destination.as_ref(),
    };
    destination?.domain.as_deref()
}

#[test]
fn an_allowed_flow_has_the_name_whose_rule_it_is() {
    let mut flow = event("10.0.0.9");
    (flow.outcome, flow.rule) = (Outcome::Allowed as u8, 0);
    let told = knowing().on_record(&record(flow), later(1));
    assert_eq!(domain(&told[0]), Some("allowed.example"));
}

#[test]
fn of_two_names_none_is_guessed() {
    let told = knowing().on_record(&record(event("10.0.0.10")), later(1));
    assert_eq!(domain(&told[0]), None);
}

#[test]
fn what_is_refused_because_its_name_was_blocked_says_so() {
    let alert = only_alert(knowing().on_record(&record(event("203.0.113.7")), later(1)));
    assert_eq!(alert.destination.as_ref().unwrap().domain.as_deref(), Some("blocked.example"));
    assert!(
        alert.reason.contains("because a finding of dns_tunnel blocked blocked.example"),
        "{}",
        alert.reason
    );
    assert!(
        alert.reason.contains("agentnet unblock") && !alert.reason.contains("[[egress.allow]]"),
        "{}",
        alert.reason
    );
    assert_eq!(alert.kind, Kind::EgressDenied);
    // The kernel's own reasons stand.
    let mut by_hand = event("203.0.113.7");
    by_hand.reason = Reason::Blocked as u8;
    let alert = only_alert(knowing().on_record(&record(by_hand), later(1)));
    assert!(!alert.reason.contains("dns_tunnel"), "{}", alert.reason);
}

#[test]
fn a_flow_that_has_ended_has_the_name_that_the_kernel_tells() {
    let mut end = FlowEnd {
        header: Header {
            abi: ABI_VERSION,
            kind: RecordKind::FlowEnd as u16,
            len: u32::try_from(size_of::<FlowEnd>()).unwrap(),
            seq: 0,
            time: 9_000_000_000,
            agent: 1,
            cpu: 0,
            flow: 4242,
        },
        process: Process { pid: 4711, uid: 1000, comm: event("10.0.0.9").process.comm },
        endpoint: event("10.0.0.9").endpoint,
        local: Addr::UNSPECIFIED,
        local_port: 0,
        rule: 0,
        began: 5_000_000_000,
        tx_bytes: 1,
        tx_packets: 1,
        rx_bytes: 1,
        rx_packets: 1,
        name: 7,
    };
    let told = knowing().on_record(&Record::FlowEnd(end), later(1));
    assert_eq!(domain(&told[0]), Some("exact.example"));
    end.name = 0;
    let told = knowing().on_record(&Record::FlowEnd(end), later(1));
    assert_eq!(domain(&told[0]), Some("allowed.example"));
    let policy: Arc<dyn super::Explain> = Arc::new(super::Demo);
    assert_eq!(policy.rule_of_name("other.example", &end.endpoint), None);
}
