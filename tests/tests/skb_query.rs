//! `skb_query`: a query leaves as the plainest kind for an allowed name, or not at all.

use std::net::SocketAddr;

use agentnet_common::verdict::{DNS_PORT, Reason};
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, Resolver, framed, query, wire_name},
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;

fn resolver(family: Family) -> SocketAddr {
    SocketAddr::from((family.allowed(), DNS_PORT))
}

fn policy() -> Policy {
    Policy::standard()
        .allow_hosts(&[DNS_PORT], &["udp", "tcp"])
        .allow_name("api.example.com", &[ALLOWED_PORT])
        .allow_name("*.wild.example", &[ALLOWED_PORT])
}

fn zone(lab: &Lab, family: Family) -> Result<Resolver> {
    let one = vec![family.named(1)];
    Resolver::of_zone(
        &lab.server,
        &[resolver(family)],
        &[("api.example.com", one.clone()), ("a.wild.example", one.clone()), ("evil.example", one)],
    )
}

fn ask(family: Family, message: Vec<u8>) -> Step {
    Step::Ask { to: resolver(family), message }
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn refused(came: &Came) -> bool {
    came.step == "sendto" && came.errno == libc::EPERM
}

/// Allowed names are answered, others never leave; each refusal has its reason.
#[rstest]
fn only_allowed_names_are_asked_for(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let allowed = ["api.example.com", "a.wild.example", "b.c.wild.example"];
    let denied = [
        "evil.example",
        "secret.api.example.com",
        "xapi.example.com",
        "example.com",
        "com",
        "wild.example",
        "a.wild.example.evil.example",
    ];
    let steps: Vec<Step> =
        allowed.iter().chain(&denied).map(|name| ask(family, query(7, name, kind(family)))).collect();
    let came = watched.script(&steps)?;
    for (name, came) in allowed.iter().zip(&came) {
        ensure!(came.is_ok() && came.back.starts_with(&[0, 7, 0x81]), "{name}: {came:?}");
        ensure!(resolver.asked_for(&wire_name(name)) == 1, "{name} did not arrive");
    }
    for (name, came) in denied.iter().zip(&came[allowed.len()..]) {
        ensure!(refused(came), "{name}: {came:?}");
    }
    ensure!(resolver.asked().len() == allowed.len(), "{:?}", resolver.asked());
    let counters = watched.counters()?;
    let counted = counters.denied[Reason::NameNotAllowed as usize];
    ensure!(counted == u64::try_from(denied.len())?, "{counted} of {} counted", denied.len());
    Ok(())
}

/// What is no plain query stays, whatever name it has.
#[rstest]
fn what_is_no_plain_query_stays(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let plain = || query(7, "api.example.com", kind(family));
    let with = |at: usize, bytes: &[u8]| {
        let mut message = plain();
        message[at..at + bytes.len()].copy_from_slice(bytes);
        message
    };
    let and = |more: &[u8]| [plain(), more.to_vec()].concat();
    let edns = |options: &[u8], flags: [u8; 4]| {
        let mut message = with(10, &[0, 1]);
        let size = u16::try_from(options.len()).unwrap_or(0).to_be_bytes();
        message.extend([&[0, 0, 41, 4, 208][..], &flags, &size, options].concat());
        message
    };
    let question = |name: &[u8]| [&plain()[..12], name, &[0, 1, 0, 1]].concat();
    let cookie =
        |bytes: usize| [&[0, 10, 0, u8::try_from(bytes).unwrap_or(0)][..], &vec![0xcc; bytes]].concat();
    let padding = |byte: u8, bytes: usize| {
        [&[0, 12, 0, u8::try_from(bytes).unwrap_or(0)][..], &vec![byte; bytes]].concat()
    };
    let malformed = Reason::DnsMalformed;
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("one byte behind the end", and(b"x"), malformed),
        ("two questions", with(4, &[0, 2]), malformed),
        ("no question", with(4, &[0, 0]), malformed),
        ("an answer", with(6, &[0, 1]), malformed),
        ("an authority", with(8, &[0, 1]), malformed),
        ("two additional records", with(10, &[0, 2]), malformed),
        ("a response", with(2, &[0x81]), malformed),
        ("another opcode", with(2, &[0x29]), malformed),
        ("the Z bit", with(3, &[0x40]), malformed),
        ("a response code", with(3, &[5]), malformed),
        ("the authoritative bit", with(2, &[5]), malformed),
        ("a truncated question", plain()[..plain().len() - 1].to_vec(), malformed),
        ("a header alone", plain()[..12].to_vec(), malformed),
        ("half a header", plain()[..6].to_vec(), malformed),
        ("no name", question(b"\0"), malformed),
        ("a dot in a label", question(b"\x07api.exa\x03com\0"), malformed),
        ("a label with zero bytes", question(b"\x03a\0b\x07example\x03com\0"), malformed),
        ("bytes above ASCII", question(b"\x03\xff\xfe\xfd\x07example\x03com\0"), malformed),
        ("a space", question(b"\x03a b\x07example\x03com\0"), malformed),
        ("a pointer for a name", question(b"\xc0\x0c"), malformed),
        ("a pointer behind a label", question(b"\x03api\xc0\x0c"), malformed),
        ("a label of 64 bytes", question(&[&[64][..], &[b'a'; 64], b"\0"].concat()), malformed),
        (
            "a name of 256 bytes",
            question(&[&[&[63][..], &[b'a'; 63]].concat().repeat(4)[..], b"\0"].concat()),
            malformed,
        ),
        ("upper case", question(b"\x03API\x07example\x03com\0"), Reason::DnsCase),
        ("one letter in upper case", question(b"\x03api\x07examplE\x03com\0"), Reason::DnsCase),
        ("class CH", with(plain().len() - 2, &[0, 3]), Reason::DnsType),
        ("type NULL", query(7, "api.example.com", 10), Reason::DnsType),
        ("type ANY", query(7, "api.example.com", 255), Reason::DnsType),
        ("a private type", query(7, "api.example.com", 65399), Reason::DnsType),
        ("type HTTPS", query(7, "api.example.com", 65), Reason::DnsType),
        ("a zone transfer", query(7, "api.example.com", 252), Reason::DnsType),
        ("client subnet", edns(&[0, 8, 0, 7, 0, 1, 24, 0, 1, 2, 3], [0; 4]), Reason::DnsOption),
        ("an unknown option", edns(&[0xff, 0xde, 0, 2, 1, 2], [0; 4]), Reason::DnsOption),
        ("a short cookie", edns(&cookie(7), [0; 4]), Reason::DnsOption),
        ("a long cookie", edns(&cookie(41), [0; 4]), Reason::DnsOption),
        ("padding that is not zero", edns(&padding(1, 16), [0; 4]), Reason::DnsOption),
        (
            "padding whose last byte is not zero",
            edns(
                &[padding(0, 31), vec![]].concat().iter().copied().take(34).chain([9]).collect::<Vec<_>>(),
                [0; 4],
            ),
            Reason::DnsOption,
        ),
        ("padding twice", edns(&[padding(0, 8), padding(0, 8)].concat(), [0; 4]), Reason::DnsOption),
        ("too much padding", edns(&padding(0, 200), [0; 4]), Reason::DnsOption),
        ("another EDNS version", edns(&[], [0, 1, 0, 0]), Reason::DnsOption),
        ("EDNS flags", edns(&[], [0, 0, 0, 1]), Reason::DnsOption),
        ("an extended response code", edns(&[], [7, 0, 0, 0]), Reason::DnsOption),
        ("an option that is cut off", edns(&[0, 10, 0], [0; 4]), malformed),
        ("a record that is no EDNS", and(&[]), malformed),
    ];
    let lab = Lab::new()?;
    let resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let mut expected = [0_u64; agentnet_common::verdict::REASON_SLOTS];
    let mut steps = Vec::new();
    for (name, message, reason) in &cases {
        let message = if *name == "a record that is no EDNS" {
            let mut message = with(10, &[0, 1]);
            message.extend([0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
            message
        } else {
            message.clone()
        };
        expected[*reason as usize] += 1;
        steps.push(ask(family, message));
    }
    // The twins: with nothing wrong, with EDNS, with a cookie and with zeros.
    let twins = [
        plain(),
        edns(&[], [0; 4]),
        edns(&[], [0, 0, 0x80, 0]),
        edns(&cookie(8), [0; 4]),
        edns(&cookie(40), [0; 4]),
        edns(&padding(0, 100), [0; 4]),
        edns(&[cookie(24), padding(0, 128)].concat(), [0; 4]),
        with(3, &[0x30]),
    ];
    steps.extend(twins.iter().map(|twin| ask(family, twin.clone())));
    let came = watched.script(&steps)?;
    for ((name, _, _), came) in cases.iter().zip(&came) {
        ensure!(refused(came), "{name}: {came:?}");
    }
    for (twin, came) in twins.iter().zip(&came[cases.len()..]) {
        ensure!(came.is_ok(), "{twin:?}: {came:?}");
    }
    ensure!(resolver.asked() == twins, "{:?}", resolver.asked());
    let denied = watched.counters()?.denied;
    ensure!(denied == expected, "counted {denied:?}, and should be {expected:?}");
    Ok(())
}

/// However a query is written to a connection, it arrives whole; of others nothing does.
#[rstest]
fn queries_over_tcp_are_judged_before_they_are_sent(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let resolver_ = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let good = framed(&query(7, "api.example.com", kind(family)));
    let other = framed(&query(8, "a.wild.example", kind(family)));
    let evil = framed(&query(9, "evil.example", kind(family)));
    let bytes = |message: &[u8]| message.iter().map(|&byte| vec![byte]).collect::<Vec<_>>();
    // Each way to write, and how many queries arrive.
    let cases: Vec<(&str, Vec<Vec<u8>>, bool)> = vec![
        ("at once", vec![good.clone()], true),
        ("length first", vec![good[..2].to_vec(), good[2..].to_vec()], true),
        ("byte by byte", bytes(&good), true),
        ("two at once", vec![[good.clone(), other.clone()].concat()], true),
        (
            "two, cut in the middle of the second",
            {
                let all = [good.clone(), other.clone()].concat();
                vec![all[..good.len() + 9].to_vec(), all[good.len() + 9..].to_vec()]
            },
            true,
        ),
        ("another name", vec![evil.clone()], false),
        ("another name, byte by byte", bytes(&evil), false),
        ("no DNS at all", vec![b"GET /secret HTTP/1.1\r\n\r\n".to_vec()], false),
        ("a length of zero", vec![vec![0, 0], b"secret".to_vec()], false),
        ("a length that is too large", vec![[vec![0xff, 0xff], vec![b'x'; 600]].concat()], false),
        ("bytes behind the end", vec![framed(&[&good[2..], &b"secret"[..]].concat())], false),
    ];
    let mut steps = Vec::new();
    for (_, parts, good) in &cases {
        steps.push(Step::Stream {
            to: resolver(family),
            parts: parts.clone(),
            expect: if *good { 2 } else { 1 },
        });
    }
    // An allowed query and another one behind it: the first one arrives.
    steps.push(Step::Stream {
        to: resolver(family),
        parts: vec![[good.clone(), evil.clone()].concat()],
        expect: 1,
    });
    let came = watched.script(&steps)?;
    for ((name, _, good), came) in cases.iter().zip(&came) {
        if *good {
            ensure!(came.is_ok(), "{name}: {came:?}");
        } else {
            ensure!(came.step == "write" && came.errno == libc::EACCES, "{name}: {came:?}");
        }
    }
    ensure!(
        resolver_.asked_for(b"evil") == 0 && resolver_.asked_for(b"secret") == 0,
        "{:?}",
        resolver_.asked()
    );
    ensure!(resolver_.asked_for(&wire_name("a.wild.example")) == 2, "{:?}", resolver_.asked());
    Ok(())
}
