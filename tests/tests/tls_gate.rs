//! `tls_gate`: what is said in TLS to an address that a name has opened is for a name that has opened it, or not said at all.

use std::net::SocketAddr;

use agentnet_common::{
    user::{Cause, Record},
    verdict::{DNS_PORT, REASON_SLOTS, Reason},
};
use agentnet_tests::{
    lab::{
        Lab,
        hello::{
            ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, EARLY_DATA, ENCRYPTED_HELLO, HANDSHAKE, Hello,
            PADDING, SERVER_NAME, names, record,
        },
        net::{ALLOWED_PORT, Family, TLS_PORT},
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
        server::Transport,
        watched::Watched,
    },
    probe::{
        dns::Attack,
        script::{Came, Step},
        stream::Stream,
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

const NAME: &str = "api.example.com";
/// Allowed, at another address.
const OTHER: &str = "key.example.org";
/// Below an allowed wildcard, at the first name's address.
const SHARED: &str = "a.wild.example";
/// Nobody's.
const EVIL: &str = "key.evil.example";

fn resolver(family: Family) -> SocketAddr {
    SocketAddr::from((family.allowed(), DNS_PORT))
}

fn policy() -> Policy {
    Policy::standard()
        .allow_hosts(&[DNS_PORT], &["udp", "tcp"])
        .allow_name(NAME, &[TLS_PORT, ALLOWED_PORT])
        .allow_name(OTHER, &[TLS_PORT])
        .allow_name("*.wild.example", &[TLS_PORT])
}

fn zone(lab: &Lab, family: Family) -> Result<Resolver> {
    let (one, two) = (vec![family.named(1)], vec![family.named(2)]);
    let zone = [(NAME, one.clone()), (SHARED, one.clone()), ("b.wild.example", one), (OTHER, two)];
    Resolver::of_zone(&lab.server, &[resolver(family)], &zone)
}

fn ask(family: Family, name: &str) -> Step {
    let kind = match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    };
    Step::Ask { to: resolver(family), message: query(7, name, kind) }
}

fn server(family: Family) -> SocketAddr {
    (family.named(1), TLS_PORT).into()
}

/// Writes, and waits for the echo of all of it.
fn say(to: SocketAddr, parts: &[Vec<u8>]) -> Step {
    Step::Stream { to, parts: parts.to_vec(), expect: parts.iter().map(Vec::len).sum() }
}

fn arrived(lab: &Lab, at: SocketAddr) -> usize {
    lab.servers.tally(at, Transport::Tcp).bytes
}

fn bytes(message: &[u8]) -> Vec<Vec<u8>> {
    message.iter().map(|&byte| vec![byte]).collect()
}

/// What a client says behind its hello in TLS 1.3.
fn rest() -> Vec<u8> {
    [record(CHANGE_CIPHER_SPEC, &[1]), record(APPLICATION_DATA, &[9; 60])].concat()
}

/// However a hello for the right name is written, it arrives, and all that comes behind it.
#[rstest]
fn a_hello_for_the_name_arrives(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let plain = Hello::to(NAME).record();
    let padded = |bytes: usize| Hello::to(NAME).with(PADDING, vec![0; bytes]);
    let old = [
        plain.clone(),
        // Certificate, key exchange, change of cipher, and an encrypted message.
        record(HANDSHAKE, &[&[11, 0, 8, 0][..], &[4; 2048]].concat()),
        record(HANDSHAKE, &[&[16, 0, 0, 32][..], &[4; 32]].concat()),
        record(CHANGE_CIPHER_SPEC, &[1]),
        record(HANDSHAKE, &[0xaa; 40]),
        b"anything".to_vec(),
    ];
    let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("at once", vec![plain.clone()]),
        ("byte by byte", bytes(&plain)),
        ("head first", vec![plain[..5].to_vec(), plain[5..].to_vec()]),
        ("in upper case", vec![Hello::to("API.Example.COM").record()]),
        ("post-quantum", vec![padded(1500).record()]),
        ("12 kB", vec![padded(12_000).record()]),
        ("as long as can be", vec![padded(15_900).record()]),
        ("in two records", vec![Hello::to(NAME).records(100)]),
        ("in records of a byte", vec![Hello::to(NAME).records(1)]),
        ("in records of a byte, byte by byte", bytes(&Hello::to(NAME).records(1))),
        ("in long records", vec![padded(6000).records(2000)]),
        ("and the rest", vec![plain.clone(), rest(), vec![0xcc; 100_000]]),
        ("and the rest at once", vec![[plain.clone(), rest(), vec![0xcc; 100_000]].concat()]),
        ("and the rest by bytes", [bytes(&plain), bytes(&rest()), vec![b"anything".to_vec()]].concat()),
        ("of TLS 1.2", old.to_vec()),
        ("of TLS 1.2 at once", vec![old.concat()]),
        ("and an alert", vec![plain.clone(), record(ALERT, &[2, 48])]),
        ("twice", vec![plain.clone(), record(CHANGE_CIPHER_SPEC, &[1]), plain.clone(), rest(), vec![1; 9]]),
        ("for another name of its", vec![Hello::to(SHARED).record(), rest()]),
        ("for another name below the wildcard", vec![Hello::to("b.wild.example").record(), rest()]),
    ];
    let mut steps = vec![ask(family, NAME), ask(family, SHARED)];
    steps.extend(cases.iter().map(|(_, parts)| say(server(family), parts)));
    // A port where nothing has to be spoken.
    steps.push(Step::Connect { to: (family.named(1), ALLOWED_PORT).into(), text: "SSH-2.0-x".to_owned() });
    let came = watched.script(&steps)?;
    let all = came.iter().skip(2).zip(cases.iter().map(|(name, _)| *name).chain(["another port"]));
    let wrong: Vec<_> =
        all.filter(|(came, _)| !came.is_ok()).map(|(came, name)| (name, &came.step, came.errno)).collect();
    ensure!(wrong.is_empty(), "{wrong:?} {:?}", watched.counters()?.denied);
    let said: usize = cases.iter().flat_map(|(_, parts)| parts).map(Vec::len).sum();
    ensure!(arrived(&lab, server(family)) == said, "{} of {said} bytes", arrived(&lab, server(family)));
    ensure!(watched.counters()?.denied == [0; REASON_SLOTS], "{:?}", watched.counters()?.denied);
    Ok(())
}

/// What is said for no name that has opened the address is refused at once, and none of it arrives.
#[rstest]
fn what_is_for_another_name_stays(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab, family)?;
    let mut watched = Watched::new(&lab, &policy())?;
    let (to, unnamed) = (|name: &str| Hello::to(name).record(), Hello::unnamed);
    let named = |body: Vec<u8>| unnamed().with(SERVER_NAME, body).record();
    let with = |at: usize, byte: u8| {
        let mut message = to(NAME);
        message[at] = byte;
        message
    };
    let bare = {
        let body = [&[3, 3][..], &[5; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        let length = u8::try_from(body.len()).unwrap_or(0);
        record(HANDSHAKE, &[&[1, 0, 0, length][..], &body].concat())
    };
    let malformed = Reason::TlsMalformed;
    let cases: Vec<(&str, Vec<u8>, Reason)> = vec![
        ("a name of another address", to(OTHER), Reason::TlsName),
        ("nobody's name", to(EVIL), Reason::TlsName),
        ("a name below it", to("x.api.example.com"), Reason::TlsName),
        ("the name above it", to("example.com"), Reason::TlsName),
        ("a longer label", to("xapi.example.com"), Reason::TlsName),
        ("a wildcard's own name", to("wild.example"), Reason::TlsName),
        ("an address", to("93.184.215.1"), Reason::TlsName),
        ("another name in records", Hello::to(EVIL).records(20), Reason::TlsName),
        ("another name in records of a byte", Hello::to(EVIL).records(1), Reason::TlsName),
        (
            "another name in a long hello",
            Hello::to(EVIL).with(PADDING, vec![0; 9000]).record(),
            Reason::TlsName,
        ),
        ("no name", unnamed().record(), Reason::TlsNoName),
        ("no extensions", bare, Reason::TlsNoName),
        ("ECH", Hello::to(NAME).with(ENCRYPTED_HELLO, vec![0; 200]).record(), Reason::TlsEncrypted),
        ("the draft's ESNI", Hello::to(NAME).with(0xffce, vec![0; 200]).record(), Reason::TlsEncrypted),
        ("early data", Hello::to(NAME).with(EARLY_DATA, vec![]).record(), Reason::TlsEarly),
        ("plain text", b"GET /secret HTTP/1.1\r\nHost: api.example.com\r\n\r\n".to_vec(), Reason::TlsNot),
        ("three bytes", b"key".to_vec(), Reason::TlsNot),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), Reason::TlsNot),
        ("SSL 2.0", [&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10][..], &[9; 40]].concat(), Reason::TlsNot),
        ("data first", rest(), Reason::TlsNot),
        ("an alert first", record(ALERT, &[1, 0]), Reason::TlsNot),
        ("another version of records", with(1, 2), Reason::TlsNot),
        ("another handshake message", record(HANDSHAKE, &[16, 0, 0, 2, 1, 2]), malformed),
        ("another version", with(9, 2), malformed),
        (
            "two extensions with the name",
            Hello::to(NAME).with(SERVER_NAME, names(&[EVIL.as_bytes()])).record(),
            malformed,
        ),
        ("two names", named(names(&[NAME.as_bytes(), EVIL.as_bytes()])), malformed),
        ("an empty extension", named(vec![]), malformed),
        ("an empty list", named(vec![0, 0]), malformed),
        ("an empty name", named(names(&[b""])), malformed),
        ("a name of another type", named(vec![0, 4, 1, 0, 1, b'a']), malformed),
        ("a NUL behind the name", named(names(&[b"api.example.com\0"])), malformed),
        ("a NUL in the name", named(names(&[b"api.example.com\0.evil.example"])), malformed),
        ("a dot at the end", to("api.example.com."), malformed),
        ("a dot at the beginning", to(".api.example.com"), malformed),
        ("two dots", to("api..example.com"), malformed),
        ("a space", to("api.example.com "), malformed),
        ("a port", to("api.example.com:443"), malformed),
        ("bytes above ASCII", to("\u{e4}pi.example.com"), malformed),
        ("a label of 64 bytes", to(&format!("{}.wild.example", "a".repeat(64))), malformed),
        ("a name of 300 bytes", to(&format!("{}wild.example", "a.".repeat(144))), malformed),
        (
            "a byte behind the hello",
            record(HANDSHAKE, &[Hello::to(NAME).message(), vec![0]].concat()),
            malformed,
        ),
        ("two hellos in a record", record(HANDSHAKE, &Hello::to(NAME).message().repeat(2)), malformed),
        ("an empty record", [record(HANDSHAKE, &[]), to(NAME)].concat(), malformed),
        ("an empty record in it", [record(HANDSHAKE, &[1]), record(HANDSHAKE, &[])].concat(), malformed),
        ("another record in it", [record(HANDSHAKE, &[1, 0]), record(ALERT, &[1, 0])].concat(), malformed),
        ("17 kB", Hello::to(NAME).with(PADDING, vec![0; 17_000]).records(16_384), malformed),
        ("a session of 33 bytes", with(5 + 4 + 34, 33), malformed),
        ("suites beyond the end", with(5 + 4 + 34 + 33, 0xff), malformed),
        ("extensions beyond the end", with(5 + 4 + 34 + 33 + 4 + 2, 9), malformed),
    ];
    let mut steps = vec![ask(family, NAME), ask(family, OTHER)];
    steps.extend(cases.iter().map(|(_, message, _)| say(server(family), std::slice::from_ref(message))));
    steps.push(say(server(family), &[to(NAME)]));
    // Written in pieces, the last one is refused.
    steps.push(say(server(family), &bytes(&to(EVIL))));
    steps.push(Step::Trick(Stream::Twice { to: server(family), first: to(EVIL), then: to(NAME) }));
    let came = watched.script(&steps)?;
    let mut expected = [0_u64; REASON_SLOTS];
    let mut wrong = Vec::new();
    for ((name, _, reason), came) in cases.iter().zip(&came[2..]) {
        expected[*reason as usize] += 1;
        if came.step != "write" || came.errno != libc::EACCES {
            wrong.push((*name, came.step.clone(), came.errno));
        }
    }
    expected[Reason::TlsName as usize] += 2;
    ensure!(wrong.is_empty(), "{wrong:?}");
    let [.., twin, pieces, twice] = came.as_slice() else { unreachable!("as many as steps") };
    ensure!(twin.is_ok() && pieces.step == "write" && pieces.errno == libc::EACCES, "{twin:?} {pieces:?}");
    ensure!(twice.back == [u8::try_from(libc::EACCES)?; 2], "a refusal lasts: {twice:?}");
    let denied = watched.counters()?.denied;
    ensure!(denied == expected, "counted {denied:?}, and should be {expected:?}");
    ensure!(arrived(&lab, server(family)) == to(NAME).len(), "{} bytes", arrived(&lab, server(family)));
    lab.fence()?;
    ensure!(lab.sniffer.carrying(EVIL.as_bytes()) == 0 && lab.sniffer.carrying(b"secret") == 0);
    // The alert has the name as it was said.
    let said: Vec<_> = watched
        .records()?
        .iter()
        .filter_map(|record| match record {
            Record::Verdict(verdict) => Some((verdict.cause, verdict.server_name.clone()?)),
            _ => None,
        })
        .collect();
    for (reason, name) in [(Reason::TlsName, EVIL.as_bytes()), (malformed, b"api.example.com\0")] {
        ensure!(said.contains(&(Cause::Reason(reason), name.into())), "{name:?} is not told: {said:?}");
    }
    Ok(())
}

/// Where a record with a ClientHello has its `legacy_version` (RFC 8446, 4.1.2).
const VERSION: usize = 9;

/// A receiver takes urgent bytes out of the stream, and so reads something else than was judged.
#[rstest]
fn nothing_urgent_is_sent(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let hello = Hello::to(NAME).record();
    let came = watched.script(&[
        ask(family, NAME),
        Step::Attack(Attack::Urgent { to: server(family), message: hello.clone() }),
        say(server(family), std::slice::from_ref(&hello)),
    ])?;
    let [_, urgent, twin] = came.as_slice() else { unreachable!("as many as steps") };
    ensure!(!urgent.is_ok() && twin.is_ok(), "{came:?}");
    ensure!(arrived(&lab, server(family)) == hello.len(), "{} bytes", arrived(&lab, server(family)));
    Ok(())
}

/// A second hello is held to the names as the first one is, as long as it can be read.
#[rstest]
fn a_second_hello_is_judged(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let (good, evil) = (Hello::to(NAME).record(), Hello::to(EVIL).record());
    let change = record(CHANGE_CIPHER_SPEC, &[1]);
    // Servers that choose by the extension do not look at the version before it.
    let mut strange = evil.clone();
    strange[VERSION] = 4;
    let cases: Vec<(&str, Vec<Vec<u8>>, usize)> = vec![
        ("of another version", vec![good.clone(), strange.clone()], good.len()),
        (
            "of another version, behind a change",
            vec![good.clone(), change.clone(), strange.clone()],
            good.len() + change.len(),
        ),
        (
            "of another version, in records",
            vec![good.clone(), strange[5..].iter().flat_map(|byte| record(22, &[*byte])).collect()],
            good.len(),
        ),
        ("at once", vec![good.clone(), evil.clone()], good.len()),
        ("behind a change", vec![good.clone(), change.clone(), evil.clone()], good.len() + change.len()),
        (
            "in records",
            vec![good.clone(), change.clone(), Hello::to(EVIL).records(1)],
            good.len() + change.len(),
        ),
        ("in pieces", [vec![good.clone(), change.clone()], bytes(&evil)].concat(), good.len() + change.len()),
        ("without a name", vec![good.clone(), Hello::unnamed().record()], good.len()),
        ("a heartbeat", vec![good.clone(), record(24, b"secret")], good.len()),
        ("plain text", vec![good.clone(), b"secret".to_vec()], good.len()),
    ];
    let mut steps = vec![ask(family, NAME)];
    steps.extend(cases.iter().map(|(_, parts, _)| say(server(family), parts)));
    let came = watched.script(&steps)?;
    for ((name, ..), came) in cases.iter().zip(&came[1..]) {
        ensure!(came.step == "write" && came.errno == libc::EACCES, "{name}: {came:?}");
    }
    lab.fence()?;
    ensure!(lab.sniffer.carrying(EVIL.as_bytes()) == 0 && lab.sniffer.carrying(b"secret") == 0);
    let said: usize = cases.iter().map(|(.., arrives)| arrives).sum();
    ensure!(arrived(&lab, server(family)) == said, "{} of {said}", arrived(&lab, server(family)));
    Ok(())
}

/// What never passed the judge, or was put in the place of what did, stays.
#[rstest]
fn nothing_passes_the_judge_by(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = zone(&lab, family)?;
    let watched = Watched::new(&lab, &policy())?;
    let to = server(family);
    let hello = |name: &str| Hello::to(name).record();
    // As long as the right one.
    let evil = hello("api.evilexa.com");
    ensure!(evil.len() == hello(NAME).len());
    let change = record(CHANGE_CIPHER_SPEC, &[1]);
    let two = |last: &[u8]| [&change[..], last].concat();
    let steps = vec![
        ask(family, NAME),
        Step::Trick(Stream::Fast { to, message: evil.clone() }),
        Step::Attack(Attack::Early { to, first: evil.clone(), held: false, then: hello(NAME) }),
        Step::Attack(Attack::Early { to, first: evil.clone(), held: true, then: hello(NAME) }),
        Step::Attack(Attack::Urgent { to, message: evil.clone() }),
        Step::Trick(Stream::Spliced { to, message: evil.clone() }),
        Step::Attack(Attack::Instead {
            to,
            queries: [hello(NAME), hello(NAME)].concat(),
            other: evil.clone(),
        }),
        Step::Attack(Attack::Instead {
            to,
            queries: [hello(NAME), two(&rest())].concat(),
            other: two(&evil),
        }),
        Step::Trick(Stream::Again { before: to, first: hello(NAME), to, then: evil.clone() }),
        Step::Trick(Stream::Again {
            before: to,
            first: [hello(NAME), rest()].concat(),
            to,
            then: evil.clone(),
        }),
        Step::Trick(Stream::Again {
            before: (family.named(1), ALLOWED_PORT).into(),
            first: evil.clone(),
            to,
            then: evil.clone(),
        }),
        Step::Trick(Stream::Flipped { to, one: hello(NAME), other: evil.clone(), rounds: 200 }),
    ];
    let twins = [
        Step::Trick(Stream::Spliced { to, message: hello(NAME) }),
        Step::Trick(Stream::Again {
            before: to,
            first: [hello(NAME), rest()].concat(),
            to,
            then: hello(NAME),
        }),
    ];
    let came = watched.script(&[steps.clone(), twins.to_vec()].concat())?;
    for (step, came) in steps.iter().zip(&came).skip(1).take(4) {
        ensure!(!came.is_ok(), "{step:?}: {came:?}");
    }
    let flipped = &came[steps.len() - 1];
    ensure!(flipped.is_ok(), "{flipped:?}");
    ensure!(came[steps.len()..].iter().all(Came::is_ok), "the twins: {:?}", &came[steps.len()..]);
    lab.fence()?;
    let there: Vec<_> = lab
        .sniffer
        .to(family.named(1), TLS_PORT)
        .into_iter()
        .filter(|packet| packet.holds(b"evilexa"))
        .collect();
    ensure!(there.is_empty(), "{} packets: {came:?}", there.len());
    ensure!(lab.sniffer.carrying(b"evilexa") == 1, "on the port where it may be said");
    Ok(())
}
