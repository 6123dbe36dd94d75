//! Repeats and floods.

use std::sync::Arc;

use agentnet_common::{
    abi::AgentCounters,
    addr::Endpoint,
    event::Outcome,
    verdict::{Reason, RuleId},
};

use super::{
    super::{
        explain::{Explain, Explained, RuleRef},
        model::{Evidence, Output},
        pipeline::DISTINCT_PER_WINDOW,
        summary::MAX_ROWS,
    },
    counts, event, later, only_alert, pipeline, record, renderer,
};

#[test]
fn repeats_are_one_line_now_and_one_when_the_window_ends() {
    let mut pipeline = pipeline();
    let first = pipeline.on_record(&record(event("203.0.113.7")), later(0));
    assert_eq!(counts(&first), [1]);
    for second in 1..5 {
        assert_eq!(pipeline.on_record(&record(event("203.0.113.7")), later(second)), []);
    }
    for _ in 0..36 {
        assert_eq!(pipeline.on_record(&record(event("203.0.113.7")), later(6)), []);
    }
    assert_eq!(counts(&pipeline.on_record(&record(event("203.0.113.8")), later(6))), [1]);
    assert_eq!(pipeline.tick(later(9)), []);
    let followed = pipeline.tick(later(10));
    assert_eq!(counts(&followed), [40]);
    let alert = only_alert(followed);
    assert!(alert.reason.contains("(40 times)"), "{}", alert.reason);
    assert!(renderer().line(&Output::Alert(Box::new(alert))).contains("×40"));
}

#[test]
fn a_flood_of_destinations_is_told_in_few_lines_and_loses_no_count() {
    let mut pipeline = pipeline();
    let mut outputs = Vec::new();
    let total = 20_000_u32;
    for number in 0..total {
        let [_, b, c, d] = number.to_be_bytes();
        let mut event = event(&format!("20.{b}.{c}.{d}"));
        event.process.comm[..4].copy_from_slice(&number.to_be_bytes());
        outputs.extend(pipeline.on_record(&record(event), later(1)));
    }
    let (rest, summary) = pipeline.finish(later(2));
    outputs.extend(rest);
    let shown = counts(&outputs);
    assert_eq!(shown.iter().sum::<u64>(), u64::from(total));
    assert!(shown.len() <= DISTINCT_PER_WINDOW as usize + 2, "{} lines", shown.len());
    let Some(Output::Alert(last)) = outputs.last() else { panic!("no alert") };
    let Evidence::Verdict(evidence) = &last.evidence else { panic!("{last:?}") };
    assert!(evidence.various);
    assert_eq!(summary.refused.len(), MAX_ROWS);
    let rows: u64 = summary.refused.iter().map(|row| row.count).sum();
    assert_eq!(rows + summary.refused_elsewhere, u64::from(total));
}

#[test]
fn repeated_flows_are_folded_like_refusals_and_leave_them_their_place() {
    let mut pipeline = pipeline();
    let mut outputs = Vec::new();
    for number in 0..5000_u32 {
        let [_, b, c, d] = number.to_be_bytes();
        let mut flow = event(&format!("10.{b}.{c}.{d}"));
        (flow.outcome, flow.rule) = (Outcome::Allowed as u8, 0);
        flow.header.time += u64::from(number);
        outputs.extend(pipeline.on_record(&record(flow), later(1)));
    }
    let refused = only_alert(pipeline.on_record(&record(event("203.0.113.7")), later(1)));
    assert!(!refused.reason.contains("others like it"), "{}", refused.reason);
    outputs.extend(pipeline.finish(later(2)).0);
    assert_eq!(counts(&outputs).iter().sum::<u64>(), 5000);
    assert!(outputs.len() <= DISTINCT_PER_WINDOW as usize + 2, "{} lines", outputs.len());
    let last = renderer().line(outputs.last().unwrap());
    assert!(last.contains("various destinations") && last.contains("×4899"), "{last}");
}

/// A policy without rules.
struct Empty;

impl Explain for Empty {
    fn name(&self) -> &str {
        "empty"
    }

    fn rule(&self, _: RuleId) -> Option<RuleRef> {
        None
    }

    fn rule_of_name(&self, name: &str, _endpoint: &Endpoint) -> Option<RuleId> {
        (name == "allowed.example").then_some(RuleId(0))
    }

    fn refused_by_hand(&self, _endpoint: &Endpoint, _reason: Reason) -> Option<String> {
        None
    }

    fn refused_name(&self, _name: &str) -> Option<String> {
        None
    }

    fn allowed_by_hand(&self, _endpoint: &Endpoint) -> Option<String> {
        None
    }

    fn explain_name(&self, _: &str) -> Option<Explained> {
        None
    }

    fn explain(&self, _: &Endpoint, _: Reason) -> Option<Explained> {
        None
    }
}

#[test]
fn repeats_are_told_in_the_terms_of_the_policy_that_decided_them() {
    let mut pipeline = pipeline();
    let mut flow = event("10.0.0.9");
    (flow.outcome, flow.rule) = (Outcome::Allowed as u8, 0);
    for _ in 0..3 {
        flow.header.time += 1;
        let _ = pipeline.on_record(&record(flow), later(0));
    }
    let told = pipeline.set_policy(Arc::new(Empty), later(1));
    let [Output::Flow(flow)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((flow.count, flow.policy.line), (2, Some(12)));
}

#[test]
fn what_the_kernel_only_counted_is_told_once_whatever_is_read_first() {
    let mut flow = event("10.0.0.9");
    (flow.outcome, flow.rule) = (Outcome::Allowed as u8, 0);
    let total = |total| {
        let mut flow = flow;
        flow.total = total;
        flow
    };
    let mut pipeline = pipeline();
    assert_eq!(counts(&pipeline.on_record(&record(flow), later(0))), [1]);
    assert_eq!(pipeline.on_series(&[total(1)], later(1)), []);
    assert_eq!(pipeline.on_series(&[total(41)], later(2)), []);
    assert_eq!(counts(&pipeline.tick(later(10))), [40]);
    // The series ends, and the record that says so tells of two more.
    assert_eq!(counts(&pipeline.on_record(&record(total(43)), later(11))), [2]);
    // Another one is seen before its first record is read.
    let mut next = total(5);
    next.header.time += 1;
    assert_eq!(pipeline.on_series(&[next], later(12)), []);
    next.total = 1;
    assert_eq!(pipeline.on_record(&record(next), later(12)), []);
    assert_eq!(counts(&pipeline.finish(later(13)).0), [5]);
}

#[test]
fn a_series_of_before_is_not_told_again_by_the_next_engine() {
    let mut flow = event("10.0.0.9");
    (flow.outcome, flow.rule, flow.total) = (Outcome::Allowed as u8, 0, 7);
    let mut pipeline = pipeline().resumed(&AgentCounters::default());
    assert_eq!(pipeline.on_series(&[flow], later(0)), []);
    flow.total = 9;
    assert_eq!(counts(&pipeline.on_series(&[flow], later(1))), [2]);
}
