//! What is told of what did not arrive.

use agentnet_common::{abi::AgentCounters, user::DecodeError};

use super::{
    super::model::{Evidence, Kind, Output, Severity},
    event, later, only_alert, pipeline, record,
};

#[test]
fn losses_are_alerts_with_what_was_lost_since() {
    let mut pipeline = pipeline();
    let mut counters = AgentCounters::default();
    assert_eq!(pipeline.on_counters(&counters, later(0)), []);
    counters.alerts_lost = 3;
    let alert = only_alert(pipeline.on_counters(&counters, later(1)));
    assert_eq!((alert.kind, alert.severity, alert.count), (Kind::VisibilityLost, Severity::High, 3));
    counters.alerts_lost = 10;
    assert_eq!(pipeline.on_counters(&counters, later(2)), [], "one alert in ten seconds is enough");
    let alert = only_alert(pipeline.tick(later(11)));
    let Evidence::Loss(loss) = alert.evidence else { panic!("{:?}", alert.evidence) };
    assert_eq!((loss.lost, loss.total), (7, 10));
    counters.suppressed = 5;
    assert_eq!(only_alert(pipeline.on_counters(&counters, later(12))).count, 5);
    let (_, summary) = pipeline.finish(later(13));
    assert_eq!(summary.losses.iter().map(|(_, lost)| *lost).collect::<Vec<_>>(), [10, 5]);
}

#[test]
fn a_gap_is_an_alert_unless_a_counter_accounts_for_it() {
    let gap = |alerts_lost: u64| {
        let mut pipeline = pipeline();
        let mut second = event("203.0.113.7");
        second.header.seq = 4;
        let _ = pipeline.on_record(&record(event("203.0.113.7")), later(0));
        let _ = pipeline.on_record(&record(second), later(0));
        let counters = AgentCounters { alerts_lost, ..AgentCounters::default() };
        let outputs = pipeline.on_counters(&counters, later(1));
        outputs
            .into_iter()
            .filter_map(|output| match output {
                Output::Alert(alert) => match alert.evidence {
                    Evidence::Loss(loss) => Some((loss.cause.into_owned(), loss.lost)),
                    _ => None,
                },
                Output::Flow(_) => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(gap(0), [("sequence_gap".to_owned(), 3)]);
    assert_eq!(gap(3), [("alert_ring_full".to_owned(), 3)]);
}

#[test]
fn an_unreadable_record_is_an_alert_and_the_gap_it_leaves_is_not_another() {
    let mut pipeline = pipeline();
    let alert = only_alert(pipeline.on_decode_error(&DecodeError::Abi(9), later(0)));
    assert!(alert.reason.contains("ABI version 9"), "{}", alert.reason);
    let mut next = event("203.0.113.7");
    next.header.seq = 1;
    let _ = pipeline.on_record(&record(next), later(0));
    assert_eq!(pipeline.on_counters(&AgentCounters::default(), later(20)), []);
}

#[test]
fn trouble_with_the_log_is_told_even_if_no_line_is_lost() {
    let mut pipeline = pipeline();
    let lost = only_alert(pipeline.on_unwritten(7, "No space left on device", later(0)));
    assert_eq!(lost.count, 7);
    assert!(lost.reason.contains("7 lines"), "{}", lost.reason);
    let rotation = only_alert(pipeline.on_unwritten(0, "cannot rotate", later(60)));
    assert!(rotation.reason.contains("cannot rotate"), "{}", rotation.reason);
}
