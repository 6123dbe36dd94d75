//! The whole way: bytes of a record to JSON and to a line.

use std::fmt::Write as _;

use agentnet_common::{
    abi::{AgentCounters, COMM_BYTES},
    addr::{Addr, Endpoint, protocol},
    event::{Hook, Outcome, VerdictEvent},
    user::{DecodeError, Record},
    verdict::{REASON_SLOTS, Reason, RuleId},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;
use rstest::rstest;
use zerocopy::IntoBytes as _;

use super::{
    class::Enforcement,
    model::{Action, Alert, Evidence, Kind, Output, Severity},
    pipeline::DISTINCT_PER_WINDOW,
    render::Renderer,
    testing::{event, pipeline, record, start},
};

fn now() -> Timestamp {
    later(5)
}

fn later(seconds: i64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds)
}

fn renderer() -> Renderer {
    Renderer::new(false, TimeZone::UTC)
}

fn only_alert(outputs: Vec<Output>) -> Alert {
    match <[Output; 1]>::try_from(outputs) {
        Ok([Output::Alert(alert)]) => *alert,
        other => panic!("one alert expected, not {other:?}"),
    }
}

/// The sentence of an alert and its line.
fn told(alert: Alert) -> String {
    let reason = alert.reason.clone();
    format!("{reason}\n{}", renderer().line(&Output::Alert(Box::new(alert))))
}

fn counts(outputs: &[Output]) -> Vec<u64> {
    outputs
        .iter()
        .map(|output| match output {
            Output::Alert(alert) => alert.count,
            Output::Flow(flow) => flow.count,
        })
        .collect()
}

/// A record as the kernel makes it for `reason`.
fn refused(reason: Reason, v6: bool) -> VerdictEvent {
    let mut event = event(if v6 { "2001:db8::7" } else { "203.0.113.7" });
    event.reason = reason as u8;
    let (inet, icmp): (u32, u8) =
        if v6 { (10, protocol::ICMPV6) } else { (2, protocol::ICMP) };
    let packet = |event: &mut VerdictEvent, hook: Hook, bytes: u32| {
        event.hook = hook as u8;
        event.bytes = bytes;
        event.local = "192.0.2.1".parse::<std::net::IpAddr>().unwrap().into();
        if v6 {
            event.local = "2001:db8::1".parse::<std::net::IpAddr>().unwrap().into();
        }
        event.local_port = 40_000;
    };
    let socket = |event: &mut VerdictEvent, detail: u32| {
        event.hook = Hook::SockCreate as u8;
        event.detail = detail;
        event.endpoint = Endpoint::new(Addr::UNSPECIFIED, 0, 0);
    };
    match reason {
        Reason::SpecialNetwork => {
            event.endpoint.addr = if v6 { "fe80::1" } else { "169.254.1.1" }.parse::<std::net::IpAddr>().unwrap().into();
        }
        Reason::ForeignListener => {
            event.endpoint.addr = if v6 { Addr::LOOPBACK_V6 } else { Addr::LOOPBACK_V4 };
        }
        Reason::ListenDenied | Reason::Unsolicited => packet(&mut event, Hook::Ingress, 60),
        Reason::IpOptions | Reason::Fragment | Reason::ExtensionHeader | Reason::NoSocket | Reason::StorageFull => {
            packet(&mut event, Hook::Egress, 1500);
        }
        Reason::UnknownProtocol => {
            packet(&mut event, Hook::Egress, 120);
            event.endpoint = Endpoint::new(event.endpoint.addr, 0, 47);
        }
        Reason::IcmpType => {
            packet(&mut event, Hook::Egress, 84);
            event.endpoint = Endpoint::new(event.endpoint.addr, 0, icmp);
        }
        Reason::Malformed => {
            packet(&mut event, Hook::Egress, 12);
            event.endpoint = Endpoint::new(Addr::UNSPECIFIED, 0, 0);
        }
        Reason::RawSocket => socket(&mut event, inet << 16 | 3 << 8 | 255),
        Reason::PingSocket => socket(&mut event, inet << 16 | 2 << 8 | u32::from(icmp)),
        Reason::SocketType => socket(&mut event, inet << 16 | 1 << 8 | 6),
        Reason::SocketOption => {
            socket(&mut event, if v6 { 41 << 16 | 57 } else { 4 });
            event.hook = Hook::Setsockopt as u8;
        }
        Reason::Quarantined => event.hook = Hook::Sendmsg as u8,
        _ => {}
    }
    event
}

#[rstest]
#[case::v4(false)]
#[case::v6(true)]
fn every_reason_is_told_in_json_and_in_a_line(#[case] v6: bool) {
    let mut text = String::new();
    for reason in Reason::ALL {
        let mut pipeline = pipeline();
        let outputs = pipeline.on_record(&record(refused(*reason, v6)), now());
        let [output] = outputs.as_slice() else { panic!("{reason:?} gave {outputs:?}") };
        writeln!(text, "{}", renderer().line(output)).unwrap();
        writeln!(text, "{}\n", serde_json::to_string(output).unwrap()).unwrap();
    }
    insta::assert_snapshot!(if v6 { "every_reason_v6" } else { "every_reason_v4" }, text);
}

#[test]
fn json_comes_back_as_it_was() {
    for reason in Reason::ALL {
        let outputs = pipeline().on_record(&record(refused(*reason, true)), now());
        for output in &outputs {
            let json = serde_json::to_string(output).unwrap();
            assert_eq!(serde_json::from_str::<Output>(&json).unwrap(), *output);
        }
    }
}

#[test]
fn what_is_allowed_is_a_flow_with_its_rule() {
    let mut text = String::new();
    for (ip, rule) in [
        ("10.0.0.9", RuleId(0)),
        ("2001:db8::7", RuleId(77)),
        ("127.0.0.1", RuleId::OWN_LISTENER),
        ("::1", RuleId::REPLY),
    ] {
        let mut event = event(ip);
        event.outcome = Outcome::Allowed as u8;
        event.rule = rule.0;
        event.local = Addr::from("10.0.0.1".parse::<std::net::IpAddr>().unwrap());
        event.local_port = 5000;
        let outputs = pipeline().on_record(&record(event), now());
        let [output @ Output::Flow(_)] = outputs.as_slice() else { panic!("{outputs:?}") };
        let json = serde_json::to_string(output).unwrap();
        assert_eq!(serde_json::from_str::<Output>(&json).unwrap(), *output);
        writeln!(text, "{}\n{json}\n", renderer().line(output)).unwrap();
    }
    insta::assert_snapshot!(text);
}

#[test]
fn audit_says_what_would_have_been() {
    let mut audited = event("203.0.113.7");
    audited.outcome = Outcome::Audited as u8;
    let alert = only_alert(pipeline().on_record(&record(audited), now()));
    assert_eq!(alert.action, Action::Alerted);
    insta::assert_snapshot!(told(alert));
}

#[test]
fn a_deny_rule_is_named_with_its_line() {
    let alert = only_alert(pipeline().on_record(&record(event("203.0.113.66")), now()));
    assert_eq!(alert.policy.line, Some(30));
    insta::assert_snapshot!(told(alert));
}

#[rstest]
#[case("169.254.169.254")]
#[case("fd00:ec2::254")]
#[case("168.63.129.16")]
fn a_grab_for_the_machines_credentials_is_not_an_ordinary_refusal(#[case] ip: &str) {
    let alert = only_alert(pipeline().on_record(&record(event(ip)), now()));
    assert_eq!((alert.severity, alert.technique.as_deref()), (Severity::High, Some("T1552.005")));
    assert!(renderer().line(&Output::Alert(Box::new(alert))).contains("cloud metadata service"));
}

#[test]
fn a_mapped_address_is_shown_as_the_address_it_is() {
    let alert = only_alert(pipeline().on_record(&record(event("::ffff:203.0.113.7")), now()));
    assert_eq!(alert.destination.unwrap().ip.to_string(), "203.0.113.7");
}

#[test]
fn both_ends_make_a_community_id() {
    let mut event = event("66.35.250.204");
    event.endpoint.port = 80;
    event.local = Addr::from("128.232.110.120".parse::<std::net::IpAddr>().unwrap());
    event.local_port = 34855;
    let alert = only_alert(pipeline().on_record(&record(event), now()));
    assert_eq!(alert.community_id.as_deref(), Some("1:LQU9qZlK+B5F3KDmev6m5PMibrg="));
}

#[rstest]
#[case(b"\x1b[2J\x1b[31mowned\0")]
#[case(b"\x1b]0;title\x07\0\0\0\0\0")]
#[case(b"a\nb\rc\x9b\xff\xfe\x80\0\0\0\0\0\0")]
#[case(b"\xe2\x80\xaetxt.sh\0\0\0\0\0\0")]
fn a_hostile_name_stays_a_name(#[case] bytes: &[u8]) {
    let mut hostile = event("203.0.113.7");
    hostile.process.comm = [0; COMM_BYTES];
    hostile.process.comm[..bytes.len()].copy_from_slice(bytes);
    let mut pipeline = pipeline();
    let outputs = pipeline.on_record(&record(hostile), now());
    let (_, summary) = pipeline.finish(now());
    let json = serde_json::to_string(&outputs).unwrap();
    let line = renderer().line(&outputs[0]);
    let summary = renderer().summary(&summary, None);
    let learned = super::learn::policy(&super::summary::Summary::default());
    for text in [&json, &line, &summary.replace('\n', ""), &learned.replace('\n', "")] {
        assert!(!text.chars().any(|character| character.is_control() || character == '\u{202e}'), "{text:?}");
    }
}

#[test]
fn repeats_are_one_line_now_and_one_when_the_window_ends() {
    let mut pipeline = pipeline();
    let first = pipeline.on_record(&record(event("203.0.113.7")), later(0));
    assert_eq!(counts(&first), [1]);
    for second in 1..5 {
        assert_eq!(pipeline.on_record(&record(event("203.0.113.7")), later(second)), []);
    }
    let mut folded = event("203.0.113.7");
    folded.folded = 36;
    assert_eq!(pipeline.on_record(&record(folded), later(6)), []);
    assert_eq!(counts(&pipeline.on_record(&record(event("203.0.113.8")), later(6))), [1]);
    assert_eq!(pipeline.tick(later(9)), []);
    let followed = pipeline.tick(later(10));
    assert_eq!(counts(&followed), [41]);
    let alert = only_alert(followed);
    assert!(alert.reason.contains("(41 times)"), "{}", alert.reason);
    assert!(renderer().line(&Output::Alert(Box::new(alert))).contains("×41"));
}

#[test]
fn what_the_kernel_folded_counts_for_the_first_as_well() {
    let mut folded = event("203.0.113.7");
    folded.folded = 9;
    assert_eq!(only_alert(pipeline().on_record(&record(folded), now())).count, 10);
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
    assert_eq!(summary.refused.len(), super::summary::MAX_ROWS);
    let rows: u64 = summary.refused.iter().map(|row| row.count).sum();
    assert_eq!(rows + summary.refused_elsewhere, u64::from(total));
}

fn no_losses() -> AgentCounters {
    AgentCounters {
        alerts: 0,
        samples: 0,
        alerts_lost: 0,
        samples_lost: 0,
        suppressed: 0,
        window_start: 0,
        window_count: 0,
        allowed_packets: 0,
        allowed_bytes: 0,
        refused_overflow: 0,
        denied: [0; REASON_SLOTS],
    }
}

#[test]
fn losses_are_alerts_with_what_was_lost_since() {
    let mut pipeline = pipeline();
    let mut counters = no_losses();
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
fn a_loss_another_engine_reported_is_not_reported_again() {
    let mut counters = no_losses();
    counters.alerts_lost = 3;
    let mut pipeline = pipeline().resumed(&counters);
    let mut middle = event("203.0.113.7");
    middle.header.seq = 500;
    assert_eq!(counts(&pipeline.on_record(&record(middle), later(0))), [1]);
    assert_eq!(pipeline.on_counters(&counters, later(1)), []);
    counters.alerts_lost = 4;
    assert_eq!(only_alert(pipeline.on_counters(&counters, later(2))).count, 1);
}

#[test]
fn a_gap_is_an_alert_unless_a_counter_accounts_for_it() {
    let gap = |alerts_lost: u64| {
        let mut pipeline = pipeline();
        let mut second = event("203.0.113.7");
        second.header.seq = 4;
        let _ = pipeline.on_record(&record(event("203.0.113.7")), later(0));
        let _ = pipeline.on_record(&record(second), later(0));
        let mut counters = no_losses();
        counters.alerts_lost = alerts_lost;
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
    assert_eq!(pipeline.on_counters(&no_losses(), later(20)), []);
}

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

proptest! {
    #[test]
    fn any_bytes_decode_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Record::decode(&bytes);
    }

    /// A record whose codes are known may hold anything else: it must be told without a panic, and whatever
    /// is told must come back from JSON.
    #[test]
    fn any_record_is_told(
        bytes in prop::collection::vec(any::<u8>(), size_of::<VerdictEvent>()),
        outcome in 1_u8..=3,
        hook in 1_u8..=6,
        reason in 1_u8..=24,
        seconds in any::<i32>(),
    ) {
        let mut known = event("203.0.113.7");
        known.as_mut_bytes().copy_from_slice(&bytes);
        known.header.abi = agentnet_common::abi::ABI_VERSION;
        known.header.kind = 1;
        (known.outcome, known.hook, known.reason) = (outcome, hook, reason);
        let decoded = Record::decode(known.as_bytes()).unwrap();
        let mut pipeline = pipeline();
        let mut outputs = pipeline.on_record(&decoded, later(i64::from(seconds)));
        let (rest, summary) = pipeline.finish(later(0));
        outputs.extend(rest);
        for output in &outputs {
            let line = renderer().line(output);
            prop_assert!(!line.chars().any(char::is_control));
            let json = serde_json::to_string(output).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Output>(&json).unwrap(), output);
        }
        let _ = renderer().summary(&summary, None);
        let learned = super::learn::policy(&summary);
        prop_assert!(learned.parse::<toml::Table>().is_ok(), "{}", learned);
    }
}
