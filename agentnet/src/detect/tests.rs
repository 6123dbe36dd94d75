//! Channels from end to end: events in, findings out.

use std::{net::SocketAddr, sync::Arc};

use super::{
    bank::{Bank, Config, Outcome},
    event::{
        Agent, Body, Chunk, Direction, Dns, Event, Flow, Icmp, IcmpMessage, Lineage, Logged, Message, Time,
        Transport,
    },
    finding::{Repeats, Strength},
    ledger::{Keys, Ledger},
    secrets::HostSecrets,
    workload::Workload,
};
use crate::alert::model::Kind;

const START: u64 = 1_700_000_000;

struct Lab {
    bank: Bank,
    now: u64,
}

impl Lab {
    fn new(config: Config) -> Self {
        Self { bank: Bank::new(config, Keys::new(3, 5), Repeats::Counted), now: START }
    }

    fn see(&mut self, seconds: u64, flow: u64, protocol: u8, body: Body<'_>) -> Outcome {
        self.now += seconds;
        let end = |text: &str| text.parse::<SocketAddr>().unwrap();
        self.bank.on_event(&Event {
            time: Time::from_secs(self.now),
            agent: Agent { id: 1, name: "demo" },
            process: None,
            lineage: Lineage::default(),
            flow: Flow { id: flow, protocol, local: end("10.0.0.1:40000"), remote: end("10.0.0.53:53") },
            body,
        })
    }

    fn query(&mut self, seconds: u64, name: &str, rtype: u16, answer: Option<(u16, u32)>) -> Outcome {
        let (answers, answer_bytes) = answer.unwrap_or_default();
        let logged = Logged { name, rtype, rcode: answer.map(|_| 0), answers, answer_bytes, query_bytes: 0 };
        let message = Message::Logged(logged);
        let dns = Dns { direction: Direction::Egress, transport: Transport::Udp, message };
        self.see(seconds, 1, 17, Body::Dns(dns))
    }

    fn send(&mut self, flow: u64, offset: u64, gap: u64, bytes: &[u8]) -> Outcome {
        self.see(0, flow, 6, Body::Chunk(Chunk { direction: Direction::Egress, offset, gap, bytes }))
    }
}

fn lab() -> Lab {
    Lab::new(Config::default())
}

fn kinds(outcome: &Outcome) -> Vec<(Kind, &'static str, Strength)> {
    outcome.findings.iter().map(|finding| (finding.kind, finding.detector, finding.strength)).collect()
}

/// Characters below the domain up to the first finding of this strength.
fn leaked(names: impl IntoIterator<Item = String>, seconds: u64, strength: Strength) -> Option<usize> {
    let (mut lab, mut leaked) = (lab(), 0);
    for name in names {
        leaked += name.len();
        if lab.query(seconds, &format!("{name}.channel-7.net"), 1, None).strongest >= Some(strength) {
            return Some(leaked);
        }
    }
    None
}

#[test]
fn a_tunnel_is_found_and_stopped_before_much_has_leaked() {
    let name = |number: u64| format!("{:016x}{number:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for seconds in [0, 1, 60] {
        let alert = leaked((1..500).map(name), seconds, Strength::Alert).unwrap();
        let block = leaked((1..500).map(name), seconds, Strength::Block).unwrap();
        assert!(alert < 1500 && block < 4000, "{seconds}: {alert} {block}");
    }
}

#[test]
fn words_carry_data_as_well() {
    const WORDS: &[&str] = &[
        "river", "market", "silver", "garden", "winter", "bridge", "copper", "island", "falcon", "meadow",
        "harbor", "candle", "thunder", "velvet", "orange", "pepper",
    ];
    let name = |number: usize| {
        let word = |shift: usize| WORDS[(number.wrapping_mul(2_654_435_761) >> shift) % WORDS.len()];
        format!("{}-{}-{}.{}-{}", word(3), word(9), word(15), word(20), word(25))
    };
    assert!(leaked((1..400).map(name), 1, Strength::Alert).unwrap() < 3000);
}

#[test]
fn a_codebook_of_known_names_is_counted() {
    // Sixteen labels, of which two make a name: after a while no label is new.
    let name = |number: usize| {
        format!("n{:x}.n{:x}.n{:x}.n{:x}", number % 16, number / 16 % 16, number / 256 % 16, number / 4096)
    };
    assert!(leaked((0..5000).map(name), 0, Strength::Alert).is_some());
}

#[test]
fn a_leak_that_is_spread_over_domains_is_found() {
    let mut lab = lab();
    let found = (0..600_u64).any(|number| {
        let data = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lab.query(1, &format!("{data:016x}.domain{number}.net"), 1, None).strongest >= Some(Strength::Alert)
    });
    assert!(found);
}

#[test]
fn names_of_every_day_are_quiet_for_a_day() {
    let mut lab = lab();
    for number in 0..20_000_u64 {
        let name = match number % 9 {
            0 => format!("www.shop{}.example-store{}.com", number % 40, number % 400),
            1 => "api.github.com".to_owned(),
            2 => "files.pythonhosted.org".to_owned(),
            3 => format!("{}.compute.internal", number % 50),
            4 => format!("host{}.corp", number % 80),
            5 => format!("{}.{}.168.192.in-addr.arpa", number % 250, number % 3),
            6 => format!("cdn{}.some-site{}.org", number % 6, number % 300),
            7 => format!("mail.company{}.co.uk", number % 500),
            _ => "registry.npmjs.org".to_owned(),
        };
        let outcome = lab.query(4, &name, 1, Some((1, 4)));
        assert!(outcome.strongest <= Some(Strength::Hint), "{name}: {:?}", kinds(&outcome));
    }
}

#[test]
fn commands_in_txt_answers_to_innocent_names_are_found() {
    let mut lab = lab();
    let found = (0..30).find_map(|number| {
        let outcome = lab.query(5, &format!("www{}.weather-7.net", number % 3), 16, Some((1, 220)));
        (outcome.strongest >= Some(Strength::Alert)).then(|| kinds(&outcome))
    });
    assert_eq!(found.unwrap()[0].1, "dns_answer");
    // A mail server's look-ups are not.
    for number in 0..30 {
        let outcome = lab.query(20, &format!("_dmarc.company{number}.net"), 16, Some((1, 60)));
        assert!(outcome.findings.is_empty(), "{:?}", kinds(&outcome));
    }
}

#[test]
fn a_resolver_that_is_not_the_policys_is_told() {
    let config = Config { resolvers: vec!["10.0.0.99".parse().unwrap()], ..Config::default() };
    let outcome = Lab::new(config).query(0, "www.example.com", 1, None);
    assert_eq!(kinds(&outcome), [(Kind::DnsAnomaly, "dns_anomaly", Strength::Alert)]);
}

#[test]
fn this_hosts_secret_is_found_in_every_part_of_a_request_however_it_is_cut() {
    let secret = "hX7-pQ2-wk9-vR4-mZ8";
    let secrets = HostSecrets::new([("DEPLOY_KEY", secret.as_bytes())]).map(Arc::new);
    assert!(secrets.is_some());
    let coded = data_encoding::BASE64.encode(format!("key={secret}").as_bytes());
    for request in [
        format!("GET /?q={secret} HTTP/1.1\r\nHost: h.example\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h.example\r\nX-Note: {coded}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h.example\r\nCookie: a={secret}\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: h.example\r\nContent-Length: {}\r\n\r\n{coded}", coded.len()),
        format!(
            "POST / HTTP/1.1\r\nHost: h.example\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{secret}\r\n0\r\n\r\n",
            secret.len()
        ),
        format!("no HTTP at all {secret} "),
    ] {
        for size in [3, 7, 64, 4096] {
            let mut lab = Lab::new(Config { secrets: secrets.clone(), ..Config::default() });
            let mut found = Vec::new();
            for (number, chunk) in request.as_bytes().chunks(size).enumerate() {
                let outcome = lab.send(7, (number * size) as u64, 0, chunk);
                found.extend(kinds(&outcome));
            }
            assert!(
                found.contains(&(Kind::Secret, "secret", Strength::Block)),
                "{size} {request}: {found:?}"
            );
        }
    }
}

#[test]
fn a_credential_in_its_own_place_is_no_leak() {
    let token = "glpat-x7Rk2mPq9LzT4vNb8sWd";
    let request = |host: &str, header: &str| {
        let text = format!("GET /api HTTP/1.1\r\nHost: {host}\r\n{header}: {token}\r\n\r\n");
        let found = kinds(&lab().send(1, 0, 0, text.as_bytes()));
        // Two detectors about one destination raise each other: this is about one of them.
        found
            .into_iter()
            .filter(|found| found.0 == Kind::Secret && found.2 > Strength::Hint)
            .collect::<Vec<_>>()
    };
    assert_eq!(request("gitlab.com", "Private-Token"), []);
    assert_eq!(request("gitlab.com", "X-Note"), [(Kind::Secret, "secret", Strength::Block)]);
    assert_eq!(request("collector-7.net", "Private-Token"), [(Kind::Secret, "secret", Strength::Block)]);
}

#[test]
fn icmp_that_carries_something_is_found_and_ping_is_not() {
    let echo = |reply: bool, sequence: u16| {
        if reply {
            IcmpMessage::EchoReply { id: 7, sequence }
        } else {
            IcmpMessage::EchoRequest { id: 7, sequence }
        }
    };
    let mut quiet = lab();
    let ping: Vec<u8> = (0..56).collect();
    for sequence in 0..500 {
        for (direction, reply) in [(Direction::Egress, false), (Direction::Ingress, true)] {
            let icmp = Icmp { direction, message: echo(reply, sequence), len: 56, payload: &ping };
            let outcome = quiet.see(u64::from(!reply), 1, 1, Body::Icmp(icmp));
            assert!(outcome.findings.is_empty(), "{:?}", kinds(&outcome));
        }
    }
    let mut tunnel = lab();
    let found = (0..40_u16).any(|sequence| {
        let data: Vec<u8> =
            (0..200 + sequence).map(|at| (at * 31 + sequence * 7).to_le_bytes()[0] ^ 0x5a).collect();
        let icmp =
            Icmp { direction: Direction::Egress, message: echo(false, sequence), len: 300, payload: &data };
        let sent = tunnel.see(0, 1, 1, Body::Icmp(icmp));
        let answer = Icmp {
            direction: Direction::Ingress,
            message: echo(true, sequence),
            len: 90,
            payload: &data[..90],
        };
        let got = tunnel.see(0, 1, 1, Body::Icmp(answer));
        [sent, got]
            .iter()
            .any(|outcome| kinds(outcome).contains(&(Kind::IcmpTunnel, "icmp_tunnel", Strength::Alert)))
    });
    assert!(found);
}

#[test]
fn what_was_told_is_remembered_across_a_restart() {
    let mut before = lab();
    for number in 0..20_u64 {
        before.query(
            1,
            &format!("{:016x}.channel-7.net", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            1,
            None,
        );
    }
    let kept = serde_json::to_string(before.bank.ledger(1).unwrap()).unwrap();
    let mut after =
        Lab { bank: Bank::new(Config::default(), Keys::new(9, 9), Repeats::Counted), now: before.now };
    after.bank.restore(1, serde_json::from_str::<Ledger>(&kept).unwrap());
    let needed = |lab: &mut Lab| {
        (100..400_u64).position(|number| {
            let name = format!("{:016x}.channel-7.net", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            lab.query(1, &name, 1, None).strongest >= Some(Strength::Alert)
        })
    };
    assert!(needed(&mut after).unwrap() < needed(&mut lab()).unwrap());
}

#[test]
fn a_workload_takes_no_more_than_it_may() {
    assert!(Workload::max_bytes() <= super::workload::MAX_BYTES);
    let mut lab = lab();
    for number in 0..20_000_u64 {
        let data = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lab.query(0, &format!("{data:x}.{number:x}.d{}.net", number % 5000), 16, Some((1, 100)));
    }
    // What is kept across a restart is what is held, in JSON.
    assert!(serde_json::to_string(lab.bank.ledger(1).unwrap()).unwrap().len() < 200_000);
}
