//! Lines and summaries.

use std::{fmt::Write as _, path::Path};

use agentnet_common::{abi::AgentCounters, event::Outcome, verdict::Reason};
use jiff::tz::TimeZone;

use super::{
    super::{
        class::Enforcement,
        model::{Output, Severity},
        render::Renderer,
    },
    event, later, now, only_alert, pipeline,
    reasons::refused,
    record, renderer,
};

#[test]
fn enforcement_speaks_for_itself() {
    let mut pipeline = pipeline();
    let mut text = String::new();
    for change in [
        Enforcement::Started,
        Enforcement::Auditing,
        Enforcement::Inactive("the link of connect4 is gone".to_owned()),
        Enforcement::Ended,
    ] {
        let alert = only_alert(pipeline.on_enforcement(&change, now()));
        let inactive = matches!(change, Enforcement::Inactive(_));
        assert_eq!(alert.severity == Severity::Critical, inactive);
        writeln!(text, "{}", renderer().line(&Output::Alert(Box::new(alert)))).unwrap();
    }
    let unwritten = only_alert(pipeline.on_unwritten(7, "No space left on device", now()));
    writeln!(text, "{}", renderer().line(&Output::Alert(Box::new(unwritten)))).unwrap();
    insta::assert_snapshot!(text);
}

#[test]
fn identifiers_are_in_the_order_of_writing() {
    let mut pipeline = pipeline();
    let ids: Vec<String> = (0..50_u8)
        .flat_map(|number| pipeline.on_record(&record(event(&format!("20.0.0.{number}"))), now()))
        .map(|output| match output {
            Output::Alert(alert) => alert.id,
            Output::Flow(flow) => flow.id,
        })
        .collect();
    assert_eq!(ids.len(), 50);
    assert!(ids.is_sorted_by(|one, next| one < next));
}

#[test]
fn colours_come_only_when_asked_for() {
    let outputs = pipeline().on_record(&record(event("203.0.113.7")), now());
    let plain = renderer().line(&outputs[0]);
    let colored = Renderer::new(true, TimeZone::UTC).line(&outputs[0]);
    assert!(!plain.contains('\x1b'));
    assert!(colored.contains("\x1b[31;1m✗ blocked\x1b[0m"), "{colored:?}");
    assert_eq!(anstream::adapter::strip_str(&colored).to_string(), plain);
}

#[test]
fn an_ordinary_line_fits_a_hundred_columns() {
    for ip in ["203.0.113.7", "2001:db8::7"] {
        let outputs = pipeline().on_record(&record(event(ip)), now());
        let line = renderer().line(&outputs[0]);
        assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
    }
}

#[test]
fn the_summary_says_what_went_through_what_did_not_and_what_to_add() {
    let mut pipeline = pipeline();
    let mut allowed = event("10.0.0.9");
    (allowed.outcome, allowed.rule) = (Outcome::Allowed as u8, 0);
    for _ in 0..3 {
        allowed.header.time += 1;
        let _ = pipeline.on_record(&record(allowed), now());
    }
    for reason in [Reason::NoRule, Reason::RawSocket, Reason::SocketOption, Reason::SpecialNetwork] {
        let _ = pipeline.on_record(&record(refused(reason, false)), now());
    }
    let mut other = event("203.0.113.7");
    other.process.comm[..7].copy_from_slice(b"python3");
    for _ in 0..12 {
        let _ = pipeline.on_record(&record(other), now());
    }
    let _ = pipeline.on_record(&record(event("203.0.113.66")), now());
    let _ = pipeline.on_record(&record(event("169.254.169.254")), now());
    let mut audited = event("2001:db8::7");
    audited.outcome = Outcome::Audited as u8;
    let _ = pipeline.on_record(&record(audited), now());
    let mut counters = AgentCounters::default();
    (counters.suppressed, counters.allowed_packets, counters.allowed_bytes) = (4, 30, 12_900);
    let _ = pipeline.on_counters(&counters, now());
    let (_, summary) = pipeline.finish(later(60));
    let json = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<super::super::summary::Summary>(&json).unwrap(), summary);
    insta::assert_snapshot!(
        renderer().summary(&summary, Some(Path::new("/var/lib/agentnet/alerts/demo.jsonl")))
    );
}

#[test]
fn an_agent_that_did_nothing_has_a_summary_too() {
    let (outputs, summary) = pipeline().finish(now());
    assert_eq!(outputs, []);
    insta::assert_snapshot!(renderer().summary(&summary, None));
}
