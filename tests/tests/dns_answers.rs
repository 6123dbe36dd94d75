//! `dns_answers`: what answers open, and what they do not, whatever is in them; and for how long.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    slice::from_ref,
};

use agentnet::policy::special::SPECIAL;
use agentnet_common::{abi::PIN_LEAST, verdict::DNS_PORT};
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, AAAA, CNAME, Record, Resolver, answer, framed, query, question_end, wire_name},
        server::Transport,
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};
use rstest::rstest;

const NAME: &str = "api.example.com";

fn kind(family: Family) -> u16 {
    match family {
        Family::V4 => A,
        Family::V6 => AAAA,
    }
}

fn resolver(family: Family) -> SocketAddr {
    (family.allowed(), DNS_PORT).into()
}

fn policy(family: Family) -> Policy {
    Policy::closed().allow_name(NAME, &[ALLOWED_PORT]).resolver(family.allowed())
}

/// An address in the internet that nobody has.
fn place(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(93, 184, 100 + high, low).into(),
        Family::V6 => Ipv6Addr::new(0x2606, 0x2800, 0x21f, 0, 0, 0, 1, number).into(),
    }
}

fn touch(ip: IpAddr) -> Step {
    Step::Touch { to: (ip, ALLOWED_PORT).into() }
}

fn refused(came: &Came) -> bool {
    came.step == "connect" && came.errno == libc::EPERM
}

fn cname(owner: Vec<u8>, to: &str) -> Record {
    Record { owner, kind: CNAME, ttl: 60, data: wire_name(to) }
}

/// The message with these bytes at a place, counted from its end if that is below zero.
fn with(message: &[u8], at: isize, bytes: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let at = if at < 0 { message.len() - at.unsigned_abs() } else { at.unsigned_abs() };
    message[at..at + bytes.len()].copy_from_slice(bytes);
    message
}

/// What is made of an answer.
struct Case {
    name: &'static str,
    /// Of the query, an address and another one.
    make: fn(&[u8], IpAddr, IpAddr) -> Vec<Vec<u8>>,
    /// Whether the application gets a message.
    comes: bool,
    /// Which of the addresses are open then.
    open: [bool; 2],
}

fn of(query: &[u8], records: &[Record]) -> Vec<u8> {
    answer(query, records, 0).unwrap_or_default()
}

fn ip(ip: IpAddr) -> Record {
    Record::address(ip, 60)
}

const fn opens(name: &'static str, make: fn(&[u8], IpAddr, IpAddr) -> Vec<Vec<u8>>) -> Case {
    Case { name, make, comes: true, open: [true, false] }
}

/// It reaches the application and opens nothing.
const fn passes(name: &'static str, make: fn(&[u8], IpAddr, IpAddr) -> Vec<Vec<u8>>) -> Case {
    Case { name, make, comes: true, open: [false, false] }
}

const fn dropped(name: &'static str, make: fn(&[u8], IpAddr, IpAddr) -> Vec<Vec<u8>>) -> Case {
    Case { name, make, comes: false, open: [false, false] }
}

/// A resolver is trusted with what a name stands for, and so owners of records are not read: what it says of a name is
/// up to it anyway, see kernel.md and `docs/limitations.md`. What it says of no name that was asked for opens nothing.
const CASES: &[Case] = &[
    opens("an address", |query, one, _| vec![of(query, &[ip(one)])]),
    Case {
        name: "two addresses",
        make: |query, one, two| vec![of(query, &[ip(one), ip(two)])],
        comes: true,
        open: [true, true],
    },
    opens("the same address ten times", |query, one, _| {
        vec![of(query, &(0..10).map(|_| ip(one)).collect::<Vec<_>>())]
    }),
    opens("a TTL of 0", |query, one, _| vec![of(query, &[Record::address(one, 0)])]),
    opens("a TTL of 2^31", |query, one, _| vec![of(query, &[Record::address(one, 1 << 31)])]),
    opens("a TTL of -1", |query, one, _| vec![of(query, &[Record::address(one, u32::MAX)])]),
    opens("the answer twice", |query, one, _| vec![of(query, &[ip(one)]), of(query, &[ip(one)])]),
    opens("a second answer behind the first", |query, one, two| {
        vec![of(query, &[ip(one)]), of(query, &[ip(two)])]
    }),
    opens("two answers in one datagram", |query, one, two| {
        vec![[of(query, &[ip(one)]), of(query, &[ip(two)])].concat()]
    }),
    opens("a wrong identifier before the right one", |query, one, two| {
        vec![with(&of(query, &[ip(two)]), 0, &[query[0] ^ 1]), of(query, &[ip(one)])]
    }),
    opens("sixteen aliases", |query, one, _| {
        let mut records: Vec<Record> = Vec::new();
        let mut owner = Vec::new();
        for number in 0..16 {
            let next = format!("edge-{number}.cdn.example.net");
            records.push(cname(owner, &next));
            owner = wire_name(&next);
        }
        records.push(Record { owner, ..ip(one) });
        vec![of(query, &records)]
    }),
    opens("an alias in a circle, and an address", |query, one, _| {
        vec![of(query, &[cname(Vec::new(), "b.example"), cname(wire_name("b.example"), NAME), ip(one)])]
    }),
    passes("an alias in a circle", |query, _, _| {
        vec![of(query, &[cname(Vec::new(), "b.example"), cname(wire_name("b.example"), NAME)])]
    }),
    opens("an owner that points at itself", |query, one, _| {
        let place = u16::try_from(question_end(query).unwrap_or(0)).unwrap_or(0) | 0xc000;
        vec![of(query, &[Record { owner: place.to_be_bytes().to_vec(), ..ip(one) }])]
    }),
    opens("an owner that points ahead", |query, one, _| {
        vec![of(query, &[Record { owner: vec![0xc0, 0xff], ..ip(one) }])]
    }),
    opens("another owner", |query, one, _| {
        vec![of(query, &[Record { owner: wire_name("other.example"), ..ip(one) }])]
    }),
    opens("EDNS behind it", |query, one, _| {
        let opt = [&[0, 0, 41, 4, 208][..], &[0; 6]].concat();
        vec![with(&[of(query, &[ip(one)]), opt].concat(), 10, &[0, 1])]
    }),
    opens("EDNS with an extended response code behind it", |query, one, _| {
        let opt = [&[0, 0, 41, 4, 208][..], &[1, 0, 0, 0, 0, 0]].concat();
        vec![with(&[of(query, &[ip(one)]), opt].concat(), 10, &[0, 1])]
    }),
    opens("more records than it says", |query, one, two| {
        vec![with(&of(query, &[ip(one), ip(two)]), 6, &[0, 1])]
    }),
    passes("only in the authority section", |query, one, _| {
        vec![with(&of(query, &[ip(one)]), 6, &[0, 0, 0, 1])]
    }),
    passes("only in the additional section", |query, one, _| {
        vec![with(&of(query, &[ip(one)]), 6, &[0, 0, 0, 0, 0, 1])]
    }),
    passes("a truncated answer", |query, one, _| vec![with(&of(query, &[ip(one)]), 2, &[0x83])]),
    passes("no such name", |query, one, _| vec![answer(query, &[ip(one)], 3).unwrap_or_default()]),
    passes("a failure", |query, one, _| vec![answer(query, &[ip(one)], 2).unwrap_or_default()]),
    passes("class CH in the record", |query, one, _| {
        let at = question_end(query).unwrap_or(0) + 4;
        vec![with(&of(query, &[ip(one)]), isize::try_from(at).unwrap_or(0), &[0, 3])]
    }),
    passes("hints of an HTTPS record", |query, one, _| {
        // Priority 1, target ".", alpn h3, ipv4hint or ipv6hint (RFC 9460, 2.2 and 7).
        let (key, hint) = match one {
            IpAddr::V4(ip) => (4, ip.octets().to_vec()),
            IpAddr::V6(ip) => (6, ip.octets().to_vec()),
        };
        let length = u8::try_from(hint.len()).unwrap_or(0);
        let data = [&[0, 1, 0, 0, 1, 0, 3, 2, b'h', b'3', 0, key, 0, length][..], &hint].concat();
        vec![of(query, &[Record { owner: Vec::new(), kind: 65, ttl: 60, data }])]
    }),
    dropped("a wrong identifier", |query, one, _| vec![with(&of(query, &[ip(one)]), 1, &[query[1] ^ 0x80])]),
    dropped("another name", |query, one, _| vec![with(&of(query, &[ip(one)]), 13, b"x")]),
    dropped("another type", |query, one, _| {
        let at = question_end(query).unwrap_or(0) - 3;
        vec![with(&of(query, &[ip(one)]), isize::try_from(at).unwrap_or(0), &[16])]
    }),
    dropped("class CH in the question", |query, one, _| {
        let at = question_end(query).unwrap_or(0) - 1;
        vec![with(&of(query, &[ip(one)]), isize::try_from(at).unwrap_or(0), &[3])]
    }),
    dropped("a question that points at itself", |query, one, _| {
        vec![
            [
                &of(query, &[])[..6],
                &[0, 1, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1],
                &of(query, &[ip(one)])[question_end(query).unwrap_or(0)..],
            ]
            .concat(),
        ]
    }),
    dropped("two questions", |query, one, _| vec![with(&of(query, &[ip(one)]), 5, &[2])]),
    dropped("a query", |query, one, _| vec![with(&of(query, &[ip(one)]), 2, &[1])]),
    dropped("another operation", |query, one, _| vec![with(&of(query, &[ip(one)]), 2, &[0xa1])]),
    dropped("fewer records than it says", |query, one, _| vec![with(&of(query, &[ip(one)]), 7, &[2])]),
    dropped("a record that is cut off", |query, one, _| {
        let message = of(query, &[ip(one)]);
        vec![message[..message.len() - 1].to_vec()]
    }),
    dropped("an address of another size", |query, one, _| {
        let data = [ip(one).data, vec![0]].concat();
        vec![of(query, &[ip(one), Record { data, ..ip(one) }])]
    }),
    dropped("a label of an unknown kind", |query, one, _| {
        vec![of(query, &[Record { owner: vec![0x41, 0], ..ip(one) }])]
    }),
    dropped("an owner without an end", |query, one, _| {
        vec![[of(query, &[ip(one)]), [1, b'a'].repeat(30)].concat()]
            .into_iter()
            .map(|message| with(&message, 7, &[2]))
            .collect()
    }),
    dropped("a thousand records", |query, one, _| {
        vec![of(query, &(0..1000).map(|_| ip(one)).collect::<Vec<_>>())]
    }),
    dropped("nothing but a header", |query, _, _| vec![of(query, &[])[..12].to_vec()]),
    dropped("bytes that are no DNS", |_, _, _| vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]),
];

/// Each case has an identifier and addresses of its own.
#[rstest]
fn only_what_a_whole_answer_says_is_open(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let pair = move |number: u16| (place(family, 2 * number), place(family, 2 * number + 1));
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| {
            let number = u16::from_be_bytes([query[0], query[1]]);
            let (one, two) = pair(number);
            CASES.get(usize::from(number)).map_or_else(Vec::new, |case| (case.make)(query, one, two))
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let mut steps = Vec::new();
    for number in 0..u16::try_from(CASES.len())? {
        let (one, two) = pair(number);
        steps.push(Step::Ask { to: resolver(family), message: query(number, NAME, kind(family)) });
        // A duplicate must not be there for the next.
        steps.extend([touch(one), touch(two), Step::Renew]);
    }
    let came = watched.script(&steps)?;
    let mut wrong = Vec::new();
    for (case, came) in CASES.iter().zip(came.chunks(4)) {
        let [asked, one, two, _] = came else { anyhow::bail!("{came:?}") };
        let open = [one.is_ok(), two.is_ok()];
        let told = [one, two].into_iter().all(|came| came.is_ok() || refused(came));
        if asked.is_ok() != case.comes || open != case.open || !told {
            wrong.push(format!("{}: comes {}, open {open:?}: {came:?}", case.name, asked.is_ok()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The witness: what is open is reached, what is not is not.
    lab.fence()?;
    for (case, number) in CASES.iter().zip(0..) {
        let (one, two) = pair(number);
        for (ip, open) in [(one, case.open[0]), (two, case.open[1])] {
            let packets = lab.sniffer.to(ip, 0).len();
            ensure!((packets > 0) == open, "{}: {packets} packets to {ip}", case.name);
        }
    }
    Ok(())
}

/// What an answer of the other family's kind says, is open as well: it is the same name.
#[test]
fn addresses_of_either_family_are_open_by_either_question() -> Result<()> {
    let lab = Lab::new()?;
    let family = Family::V6;
    let four = |number| match place(Family::V4, number) {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| {
            let mapped = Record::address(four(2).to_ipv6_mapped().into(), 60);
            let private = Record::address(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), 60);
            vec![of(query, &[ip(four(1).into()), mapped, private, ip(place(Family::V6, 3))])]
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let mapped = |ip: Ipv4Addr| IpAddr::from(ip.to_ipv6_mapped());
    let came = watched.script(&[
        Step::Ask { to: resolver(family), message: query(1, NAME, AAAA) },
        touch(four(1).into()),
        touch(mapped(four(2))),
        touch(four(2).into()),
        touch(place(Family::V6, 3)),
        touch(mapped(Ipv4Addr::new(10, 0, 0, 1))),
        touch(Ipv4Addr::new(10, 0, 0, 1).into()),
        touch(four(3).into()),
    ])?;
    let ok: Vec<bool> = came.iter().map(Came::is_ok).collect();
    ensure!(ok == [true, true, true, true, true, false, false, false], "{came:?}");
    Ok(())
}

/// No special-purpose network is open by name, its first and its last address. A rule that names one opens it.
#[rstest]
fn rebinding_opens_nothing(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let special: Vec<IpAddr> = SPECIAL
        .iter()
        .filter(|special| special.net.is_v4() == (family == Family::V4))
        .flat_map(|special| {
            let first = u128::from_be_bytes(special.net.addr().octets());
            let last = first | u128::MAX.checked_shr(special.net.prefix().into()).unwrap_or(0);
            [first, last].map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)).to_canonical())
        })
        .collect();
    let told = special.clone();
    let named = place(family, 1);
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| {
            // One at a time, so that there is room for all.
            let number = usize::from(u16::from_be_bytes([query[0], query[1]]));
            let ip = told.get(number).copied().unwrap_or(named);
            vec![of(query, &[Record::address(ip, 60)])]
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let mut steps = Vec::new();
    for (number, ip) in (0..).zip(special.iter().chain([&named])) {
        steps.push(Step::Ask { to: resolver(family), message: query(number, NAME, kind(family)) });
        steps.push(touch(*ip));
    }
    let came = watched.script(&steps)?;
    for (ip, came) in special.iter().zip(came.chunks(2)) {
        ensure!(came[0].is_ok() && refused(&came[1]), "{ip}: {came:?}");
    }
    ensure!(came.last().is_some_and(Came::is_ok), "the twin: {:?}", came.last());
    drop(watched);

    let (private, network) = match family {
        Family::V4 => ("10.1.2.3".parse::<IpAddr>()?, "10.1.0.0/16"),
        Family::V6 => ("fd00:1::3".parse()?, "fd00:1::/32"),
    };
    let watched = Watched::new(&lab, &policy(family).allow(network, &[ALLOWED_PORT], &["tcp"]))?;
    let came = watched.script(&[touch(private), touch(named)])?;
    ensure!(came[0].is_ok() && refused(&came[1]), "{came:?}");
    Ok(())
}

/// As long as a TTL lasts, and no less than five minutes: then a connection goes on, a new one is refused until the name is
/// asked for again.
#[rstest]
fn an_address_is_open_for_its_time(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(0, 60, 3600)] ttl: u32,
) -> Result<()> {
    let lab = Lab::new()?;
    let named = family.named(1);
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| vec![of(query, &[Record::address(named, ttl)])]),
    )?;
    let mut watched = Watched::new(&lab, &policy(family))?;
    let to = SocketAddr::from((named, ALLOWED_PORT));
    let ask = Step::Ask { to: resolver(family), message: query(1, NAME, kind(family)) };
    let connect = Step::Connect { to, text: "new".to_owned() };
    let before = monotonic();
    ensure!(watched.script(from_ref(&ask))?[0].is_ok(), "no answer");
    let (ends, after) = (watched.expiry(named)?, monotonic());
    let time = ttl.max(PIN_LEAST);
    ensure!((before + time..=after + time + 1).contains(&ends), "{ends}, and it was {before} to {after}");

    let mut talker = watched.start(&["talk", &to.to_string()])?;
    ensure!(talker.say(0, "one")?.errno == 0, "before");
    watched.expire(named)?;
    let came = watched.script(from_ref(&connect))?;
    ensure!(refused(&came[0]), "after its time: {came:?}");
    ensure!(talker.say(0, "two")?.errno == 0, "a connection goes on");
    // Also when it is decided anew, because the policy may have changed.
    watched.configure(watched.cfg)?;
    let said = talker.say(0, "six")?;
    ensure!(said.errno == 0 && !said.broken, "{said:?}");
    let came = watched.script(&[ask, connect])?;
    ensure!(came.iter().all(Came::is_ok), "asked again: {came:?}");
    let bytes = || match lab.servers.tally(to, Transport::Tcp).bytes {
        12 => Ok(()),
        bytes => Err(bytes.to_string()),
    };
    agentnet_tests::eventually::eventually(agentnet_tests::eventually::DEADLINE, "all has arrived", bytes)
}

/// Seconds of `CLOCK_MONOTONIC`.
fn monotonic() -> u32 {
    u32::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec).unwrap_or(0)
}

/// An answer that comes when nobody waits any more is dropped and opens nothing.
#[rstest]
fn a_late_answer_opens_nothing(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let mut held: Option<Vec<u8>> = None;
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, _| {
            // The first query is answered with the second, and both are then there.
            match held.take() {
                None => {
                    held = Some(query.to_vec());
                    Vec::new()
                }
                Some(first) => vec![of(&first, &[ip(place(family, 1))]), of(query, &[ip(place(family, 2))])],
            }
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let steps = |second: u16| {
        [
            Step::Tell { to: resolver(family), message: query(1, NAME, kind(family)) },
            Step::Wait,
            Step::Ask { to: resolver(family), message: query(second, NAME, kind(family)) },
            touch(place(family, 1)),
            touch(place(family, 2)),
        ]
    };
    let came = watched.script_with_pause(&steps(2), |pid| watched.age_queries(pid, 31))?;
    ensure!(came[2].back.starts_with(&[0, 2]), "the first answer came late: {:?}", came[2]);
    ensure!(refused(&came[3]) && came[4].is_ok(), "{came:?}");
    // The twin: not yet late.
    let came = watched.script_with_pause(&steps(3), |pid| watched.age_queries(pid, 20))?;
    ensure!(came[2].back.starts_with(&[0, 1]) && came[3].is_ok(), "{came:?}");
    Ok(())
}

/// Over TCP: byte by byte, in segments, several messages in one.
#[rstest]
fn answers_over_tcp_come_in_any_pieces(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 7, 100, usize::MAX)] size: usize,
) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = Resolver::start_in_pieces(
        &lab.server,
        &[resolver(family)],
        size,
        Box::new(move |query, _| {
            let number = u16::from_be_bytes([query[0], query[1]]);
            vec![of(query, &[ip(place(family, number)), ip(place(family, number + 10))])]
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let queries: Vec<Vec<u8>> = (1..=3).map(|number| framed(&query(number, NAME, kind(family)))).collect();
    let record = if family == Family::V4 { 16 } else { 28 };
    let expect = queries.iter().map(|query| query.len() + 2 * record).sum();
    let mut steps = vec![Step::Stream { to: resolver(family), parts: vec![queries.concat()], expect }];
    steps.extend((1..=3).chain(11..=13).map(|number| touch(place(family, number))));
    steps.push(touch(place(family, 4)));
    let came = watched.script(&steps)?;
    let (last, rest) = came.split_last().ok_or_else(|| anyhow::anyhow!("nothing"))?;
    ensure!(rest.iter().all(Came::is_ok) && refused(last), "{came:?}");
    Ok(())
}

/// What was cut off is asked for again over TCP, and that opens.
#[rstest]
fn truncated_answers_are_asked_for_again(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = Resolver::start(
        &lab.server,
        &[resolver(family)],
        Box::new(move |query, transport| match transport {
            Transport::Udp => vec![with(&of(query, &[ip(place(family, 1))]), 2, &[0x83])],
            Transport::Tcp => vec![of(query, &[ip(place(family, 2))])],
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let message = query(1, NAME, kind(family));
    let parts = vec![framed(&message)];
    let came = watched.script(&[
        Step::Ask { to: resolver(family), message },
        touch(place(family, 1)),
        Step::Stream { to: resolver(family), parts, expect: 30 },
        touch(place(family, 1)),
        touch(place(family, 2)),
    ])?;
    let ok: Vec<bool> = came.iter().map(Came::is_ok).collect();
    ensure!(ok == [true, false, true, false, true], "{came:?}");
    Ok(())
}

/// Of an answer over TCP, 8 KiB and a segment are read: what is larger does not come and opens nothing.
/// `docs/limitations.md` says so.
#[rstest]
fn an_answer_that_is_too_large_does_not_come(
    #[values(Family::V4, Family::V6)] family: Family,
    // The first has exactly 8 KiB before its last segment.
    #[values((4096, 48), (usize::MAX, 70))] (size, number): (usize, u16),
) -> Result<()> {
    let lab = Lab::new()?;
    let _resolver = Resolver::start_in_pieces(
        &lab.server,
        &[resolver(family)],
        size,
        Box::new(move |query, _| {
            let number = u16::from_be_bytes([query[0], query[1]]);
            let text = || Record { owner: Vec::new(), kind: 16, ttl: 1, data: vec![b'x'; 238] };
            let mut records: Vec<Record> = (0..number).map(|_| text()).collect();
            records.push(ip(place(family, number)));
            vec![of(query, &records)]
        }),
    )?;
    let watched = Watched::new(&lab, &policy(family))?;
    let ask = |number| {
        let message = query(number, NAME, kind(family));
        let length = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
        let parts = vec![[&length[..], &message].concat()];
        Step::Stream { to: resolver(family), parts, expect: usize::from(number) * 250 }
    };
    let came =
        watched.script(&[ask(32), touch(place(family, 32)), ask(number), touch(place(family, number))])?;
    ensure!(came[0].is_ok() && came[1].is_ok(), "8,000 bytes: {:?} {:?}", came[0].step, came[1]);
    ensure!(
        came[2].step == "read" && refused(&came[3]),
        "{number} times 250 bytes: {:?} {:?}",
        came[2].step,
        came[3]
    );
    Ok(())
}
