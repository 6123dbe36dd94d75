//! `dns_oracle`: the kernel programs and another library judge the same messages, real ones on a real wire: what leaves, what
//! comes in, what is open then.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    dice::{Dice, changed},
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, CNAME, Record, Resolver, answer, query, wire_name},
        server::Transport,
        watched::Watched,
    },
    oracle::{may_leave, outcome},
    probe::{
        dns::Attack,
        script::{Came, Step},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// The environment variable with how many messages are judged, instead of a few thousand.
const MORE: &str = "AGENTNET_ORACLE_MESSAGES";

/// At least so many of a hundred are to be let through: what refuses everything agrees with whoever refuses much.
const ALLOWED_PERCENT: usize = 40;

fn messages(few: usize) -> Result<usize> {
    Ok(std::env::var(MORE).map_or(Ok(few), |count| count.parse())?)
}

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn at(family: Family) -> SocketAddr {
    (family.allowed(), DNS_PORT).into()
}

fn policy(family: Family) -> Policy {
    Policy::closed()
        .allow_name("api.example.com", &[ALLOWED_PORT])
        .allow_name("*.good.example", &[ALLOWED_PORT])
        .resolver(family.allowed())
}

/// What the policy says of a name.
fn is_allowed(labels: &[Vec<u8>]) -> bool {
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    matches!(labels.as_slice(), [b"api", b"example", b"com"] | [.., _, b"good", b"example"])
}

fn number(dice: &mut Dice, limit: usize) -> u16 {
    u16::try_from(dice.below(limit)).unwrap_or(0)
}

/// A label of any bytes that host names have.
fn label(dice: &mut Dice) -> String {
    const BYTES: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..=dice.below(63)).map(|_| char::from(BYTES[dice.below(BYTES.len())])).collect()
}

/// A query that may leave.
fn good(dice: &mut Dice) -> Vec<u8> {
    const TYPES: [u16; 16] = [1, 2, 5, 6, 12, 15, 16, 28, 29, 33, 35, 43, 44, 48, 52, 257];
    let name = match dice.below(4) {
        0 => "api.example.com".to_owned(),
        1 => format!("{}.{}.good.example", label(dice), label(dice)),
        2 => format!("{0}.{0}.{0}.good.example", label(dice)),
        _ => format!("{}.good.example", label(dice)),
    };
    let mut message = query(number(dice, 1 << 16), &name, TYPES[dice.below(TYPES.len())]);
    // Recursion desired, authentic data, checking disabled.
    message[2] = u8::from(dice.below(2) == 0);
    message[3] = [0, 0x10, 0x20, 0x30][dice.below(4)];
    if dice.below(2) == 0 {
        message[11] = 1;
        message.extend([0, 0, 41]);
        message.extend(number(dice, 1 << 16).to_be_bytes());
        message.extend([0, 0, [0, 0x80][dice.below(2)], 0]);
        let mut options = Vec::new();
        if dice.below(2) == 0 {
            let size = [8, 16, 24, 32, 40][dice.below(5)];
            options.extend([0, 10, 0, size]);
            options.extend((0..size).map(|_| number(dice, 256).to_be_bytes()[1]));
        }
        if dice.below(2) == 0 {
            let size = number(dice, 129);
            options.extend([0, 12]);
            options.extend(size.to_be_bytes());
            options.resize(options.len() + usize::from(size), 0);
        }
        message.extend(u16::try_from(options.len()).unwrap_or(0).to_be_bytes());
        message.extend(options);
    }
    message
}

/// A query for a name that may not be asked for, or of a type.
fn other(dice: &mut Dice) -> Vec<u8> {
    let names = [
        "good.example",
        "xgood.example",
        "example.com",
        "a.api.example.com",
        "evil.example",
        "api.example.co",
    ];
    let types = [A, 10, 65, 64, 255, 252, 65399];
    query(number(dice, 1 << 16), names[dice.below(names.len())], types[dice.below(types.len())])
}

/// Both classes, in any order.
fn corpus(count: usize) -> Vec<Vec<u8>> {
    let mut dice = Dice::new();
    (0..count)
        .map(|_| {
            let (one, two) = (good(&mut dice), good(&mut dice));
            match dice.below(8) {
                0..=3 => one,
                4 => other(&mut dice),
                _ => changed(&[one, two], &mut dice),
            }
        })
        .collect()
}

/// A message leaves if, and only if, another reader of DNS says that it may.
#[rstest]
fn what_leaves_is_what_may(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(false, true)] tcp: bool,
) -> Result<()> {
    let lab = Lab::new()?;
    let resolver = Resolver::start(&lab.server, &[at(family)], Box::new(|_, _| Vec::new()))?;
    let watched = Watched::new(&lab, &policy(family))?;
    let messages = corpus(messages(if tcp { 1500 } else { 6000 })?);
    let expected: Vec<bool> = messages.iter().map(|message| may_leave(message, is_allowed)).collect();
    let allowed = expected.iter().filter(|allowed| **allowed).count();
    ensure!(100 * allowed >= ALLOWED_PERCENT * messages.len(), "{allowed} of {} may leave", messages.len());
    ensure!(messages.len() - allowed >= messages.len() / 4, "{allowed} of {} may leave", messages.len());

    let mut taken = Vec::new();
    for part in messages.chunks(500) {
        let came = watched.script(&[Step::Attack(Attack::Volley {
            to: at(family),
            tcp,
            messages: part.to_vec(),
        })])?;
        ensure!(came[0].is_ok(), "{came:?}");
        taken.extend(came[0].back.iter().map(|byte| *byte == 1));
    }
    let differ = messages.iter().zip(&expected).zip(&taken).find(|((_, expected), taken)| expected != taken);
    if let Some(((message, expected), _)) = differ {
        anyhow::bail!(
            "{} the kernel says otherwise: {}",
            if *expected { "may leave, and" } else { "may not leave, and" },
            message.escape_ascii()
        );
    }
    ensure!(taken.len() == messages.len(), "{} of {} were tried", taken.len(), messages.len());
    let mut left: Vec<&Vec<u8>> =
        messages.iter().zip(&expected).filter(|(_, allowed)| **allowed).map(|(message, _)| message).collect();
    agentnet_tests::eventually::eventually(agentnet_tests::eventually::DEADLINE, "all arrive", || {
        let count = resolver.asked().len();
        if count == left.len() { Ok(()) } else { Err(format!("{count} of {}", left.len())) }
    })?;
    let mut asked = resolver.asked();
    // Connections are read in the order in which they are ready.
    asked.sort_unstable();
    left.sort_unstable();
    ensure!(asked.iter().eq(left.iter().copied()), "something else arrived");
    println!("{family:?}, tcp {tcp}: {allowed} left, {} did not", messages.len() - allowed);
    Ok(())
}

/// Addresses of a message, which no other has.
fn pair(family: Family, number: u16) -> [IpAddr; 2] {
    [0, 1].map(|second| {
        let number = 2 * number + second;
        let [high, low] = number.to_be_bytes();
        match family {
            Family::V4 => Ipv4Addr::new(93, 200, high, low).into(),
            Family::V6 => Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0, 0, 0, 2, number).into(),
        }
    })
}

/// An answer that opens both addresses.
fn right(query: &[u8], [one, two]: [IpAddr; 2], dice: &mut Dice) -> Vec<u8> {
    let mut records = Vec::new();
    let mut owner = Vec::new();
    for number in 0..dice.below(5) {
        let next = wire_name(&format!("edge-{number}.cdn.example.net"));
        records.push(Record { owner, kind: CNAME, ttl: 1, data: next.clone() });
        owner = next;
    }
    records.push(Record { owner: owner.clone(), ..Record::address(one, 60) });
    if dice.below(3) == 0 {
        records.push(Record { owner: Vec::new(), kind: 16, ttl: 1, data: b"\x04text".to_vec() });
    }
    records.push(Record { owner, ..Record::address(two, 60) });
    answer(query, &records, 0).unwrap_or_default()
}

/// The same of answers: what comes in, and what is open then.
#[rstest]
fn what_is_open_is_what_an_answer_says(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(Transport::Udp, Transport::Tcp)] transport: Transport,
) -> Result<()> {
    let count = u16::try_from(messages(if transport == Transport::Udp { 1500 } else { 60 })?.min(30_000))?;
    let mut dice = Dice::new();
    let ask = |number: u16| query(number, "api.example.com", kind(family));
    let answers: Vec<Vec<u8>> = (0..count)
        .map(|number| {
            let addresses = pair(family, number);
            let (one, two) =
                (right(&ask(number), addresses, &mut dice), right(&ask(number), addresses, &mut dice));
            if dice.below(5) < 2 { one } else { changed(&[one, two], &mut dice) }
        })
        .collect();
    let expected: Vec<_> =
        answers.iter().zip(0..).map(|(answer, number)| outcome(&ask(number), answer)).collect();
    let opening = expected.iter().filter(|outcome| !outcome.opens.is_empty()).count();
    ensure!(100 * opening >= ALLOWED_PERCENT * answers.len(), "{opening} of {} open", answers.len());
    ensure!(answers.len() - opening >= answers.len() / 10, "{opening} of {} open", answers.len());

    let lab = Lab::new()?;
    let told = answers.clone();
    let _resolver = Resolver::start(
        &lab.server,
        &[at(family)],
        Box::new(move |query, _| {
            let number = usize::from(u16::from_be_bytes([query[0], query[1]]));
            // A second one, which is there if and only if the first was dropped, and opens nothing.
            told.get(number).cloned().into_iter().chain(answer(query, &[], 3)).collect()
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let steps: Vec<Step> = (0..count)
        .flat_map(|number| {
            let [one, two] = pair(family, number).map(|ip| Step::Touch { to: (ip, ALLOWED_PORT).into() });
            let ask = match transport {
                Transport::Udp => Step::Ask { to: at(family), message: ask(number) },
                Transport::Tcp => Step::Attack(Attack::Dialog { to: at(family), message: ask(number) }),
            };
            [ask, one, two, Step::Renew]
        })
        .collect();
    let mut came: Vec<Came> = Vec::new();
    for part in steps.chunks(1000) {
        came.extend(watched.script(part)?);
    }
    let mut wrong = Vec::new();
    // What changed may be the address of another.
    let mut opened: HashSet<IpAddr> = HashSet::new();
    for (((answer, expected), came), number) in answers.iter().zip(&expected).zip(came.chunks(4)).zip(0..) {
        // Over TCP nothing comes behind what was dropped: it is repeated, and dropped again.
        let comes = came[0].is_ok() && came[0].back == *answer;
        let open = [came[1].is_ok(), came[2].is_ok()];
        opened.extend(&expected.opens);
        let says = pair(family, number).map(|ip| opened.contains(&ip));
        if comes != expected.comes || open != says {
            wrong.push(format!(
                "{expected:?}, and it comes {comes}, open {open:?}: {}",
                answer.escape_ascii()
            ));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} differ, the first: {}", wrong.len(), answers.len(), wrong[0]);
    ensure!(came.len() == 4 * answers.len(), "{} of {}", came.len() / 4, answers.len());
    println!("{family:?}, {transport:?}: {opening} opened something, {} nothing", answers.len() - opening);
    Ok(())
}
