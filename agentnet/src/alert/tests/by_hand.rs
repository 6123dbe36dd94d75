//! What people do by hand is told in sentences.

use jiff::{Timestamp, tz::TimeZone};

use super::{
    super::{
        by_hand::{Change, Did},
        model::Output,
        render::Renderer,
    },
    pipeline, start,
};
use crate::act::{self, Act, Allowed, By, Transport, What};

fn acts() -> [Act; 5] {
    let by = By { uid: 0, user: Some("root".to_owned()), login: Some("alice".to_owned()), pid: 4711 };
    let allowed = Allowed {
        target: "db.example.com".to_owned(),
        addresses: vec!["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()],
        port: 5432,
        protocol: Transport::Tcp,
        local: false,
    };
    let act = |id, what, agent: Option<&str>, until: Option<&str>, reason: Option<&str>| Act {
        id,
        what,
        agent: agent.map(|agent| agent.parse().unwrap()),
        by: Some(by.clone()),
        detection: None,
        reason: reason.map(str::to_owned),
        since: Timestamp::UNIX_EPOCH,
        until: until.map(|until| until.parse().unwrap()),
        expiry: 0,
    };
    let until = Some("2026-11-22T13:00:00Z");
    [
        act(
            1,
            What::Block { net: act::net("203.0.113.0/24").unwrap() },
            None,
            None,
            Some("beacons \u{1b}[31m"),
        ),
        act(2, What::Block { net: act::net("2001:db8::7").unwrap() }, Some("demo"), until, None),
        act(3, What::Allow(allowed), Some("demo"), until, Some("restore of the backup")),
        Act { by: None, ..act(4, What::Quarantine, Some("demo"), None, None) },
        Act {
            by: None,
            detection: Some("dns_tunnel".to_owned()),
            ..act(
                5,
                What::BlockName { name: "evil.example".to_owned() },
                Some("demo"),
                until,
                Some("told it 600 bytes"),
            )
        },
    ]
}

#[test]
fn every_change_is_told() {
    let mut pipeline = pipeline();
    let renderer = Renderer::new(false, TimeZone::UTC);
    let other = By { uid: 0, user: None, login: None, pid: 12 };
    let mut text = String::new();
    for act in acts() {
        for (did, by, why) in [
            (Did::Done, None, None),
            (Did::Kept, None, None),
            (Did::Undone, Some(&other), Some("was a mirror")),
            (Did::Ended, None, None),
            (Did::Withdrawn, None, Some("`deny 192.0.2.9/32 tcp+udp+icmp` (lab.toml:9)")),
        ] {
            let outputs = pipeline.on_act(&Change { did, act: &act, by, why }, start());
            for output in outputs {
                text.push_str(&format!(
                    "{}\n{}\n\n",
                    renderer.line(&output),
                    serde_json::to_string(&output).unwrap()
                ));
                let again: Output = serde_json::from_str(&serde_json::to_string(&output).unwrap()).unwrap();
                assert_eq!(again, output);
            }
        }
    }
    insta::assert_snapshot!(text);
}
