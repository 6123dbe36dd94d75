//! Every reason, and what is told of a single record.

use std::{fmt::Write as _, net::IpAddr};

use agentnet_common::{
    abi::COMM_BYTES,
    addr::{Addr, Endpoint, protocol},
    event::{Hook, Outcome, VerdictEvent},
    user::{Record, VerdictRecord},
    verdict::{Reason, RuleId},
};
use rstest::rstest;

use super::{
    super::model::{Action, Output, Severity},
    event, now, only_alert, pipeline, record, renderer, told,
};

/// A record as the kernel makes it for `reason`.
pub(super) fn refused(reason: Reason, v6: bool) -> VerdictEvent {
    let mut event = event(if v6 { "2001:db8::7" } else { "203.0.113.7" });
    event.reason = reason as u8;
    let (inet, icmp): (u32, u8) = if v6 { (10, protocol::ICMPV6) } else { (2, protocol::ICMP) };
    let packet = |event: &mut VerdictEvent, hook: Hook, bytes: u32| {
        event.hook = hook as u8;
        event.bytes = bytes;
        event.local = "192.0.2.1".parse::<IpAddr>().unwrap().into();
        if v6 {
            event.local = "2001:db8::1".parse::<IpAddr>().unwrap().into();
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
            event.endpoint.addr =
                if v6 { "fe80::1" } else { "169.254.1.1" }.parse::<IpAddr>().unwrap().into();
        }
        Reason::ForeignListener => {
            event.endpoint.addr = if v6 { Addr::LOOPBACK_V6 } else { Addr::LOOPBACK_V4 };
        }
        Reason::ListenDenied | Reason::Unsolicited => packet(&mut event, Hook::Ingress, 60),
        Reason::IpOptions
        | Reason::Fragment
        | Reason::ExtensionHeader
        | Reason::NoSocket
        | Reason::StorageFull => {
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
        Reason::UnixSocket => {
            socket(&mut event, 1 << 16 | 29);
            event.hook = Hook::ConnectUnix as u8;
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
        event.local = Addr::from("10.0.0.1".parse::<IpAddr>().unwrap());
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
fn a_server_name_is_told_as_it_was_said() {
    let mut event = event("203.0.113.7");
    event.reason = Reason::TlsName as u8;
    event.hook = Hook::Sendmsg as u8;
    event.bytes = 517;
    event.rule = 0;
    let Record::Verdict(verdict) = record(event) else { panic!("a verdict") };
    let said = Some(b"key.\x00evil.example"[..].into());
    let record = Record::Verdict(VerdictRecord { server_name: said, ..verdict });
    let alert = only_alert(pipeline().on_record(&record, now()));
    let name = "key.\\x00evil.example";
    assert!(
        alert.reason.contains(&format!("tried to speak TLS for {name} with 203.0.113.7")),
        "{}",
        alert.reason
    );
    assert!(alert.reason.contains("it is open by the rule"), "{}", alert.reason);
    assert_eq!(serde_json::to_value(&alert).unwrap()["evidence"]["server_name"], name);
    assert!(renderer().line(&Output::Alert(Box::new(alert))).contains(name));
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
    event.local = Addr::from("128.232.110.120".parse::<IpAddr>().unwrap());
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
    let learned = super::super::learn::policy(&summary);
    let json = serde_json::to_string(&outputs).unwrap();
    let line = renderer().line(&outputs[0]);
    let summary = renderer().summary(&summary, None);
    for text in [&json, &line, &summary.replace('\n', ""), &learned.replace('\n', "")] {
        assert!(!text.chars().any(|character| character.is_control() || character == '\u{202e}'), "{text:?}");
    }
}

#[rstest]
#[case::from(Hook::TcxFrom, Reason::NoRule, "tried to send a packet of 90 bytes to 203.0.113.7")]
#[case::to(Hook::TcxTo, Reason::ListenDenied, "203.0.113.7 port 443 over TCP tried to reach")]
#[case::frame(Hook::TcxFrame, Reason::RawSocket, "tried to send a frame of 90 bytes past IP")]
fn the_second_line_says_what_it_saw(#[case] hook: Hook, #[case] reason: Reason, #[case] expected: &str) {
    let mut event = refused(Reason::NoRule, false);
    (event.hook, event.reason, event.bytes) = (hook as u8, reason as u8, 90);
    let outputs = pipeline().on_record(&record(event), now());
    let [Output::Alert(alert)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert!(alert.reason.contains(expected), "{}", alert.reason);
    let json = serde_json::to_value(alert).unwrap();
    assert_eq!(json["evidence"]["direction"], if hook == Hook::TcxTo { "ingress" } else { "egress" });
}
