//! `tls_hellos`: hellos with something changed in them, and a second reader of what they say.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    dice::Dice,
    lab::{
        Lab,
        hello::{Hello, read},
        net::{Family, TLS_PORT},
        policy::Policy,
        resolver::{A, Resolver, query},
        server::Transport,
        watched::Watched,
    },
    probe::script::Step,
};
use anyhow::{Result, ensure};

const NAME: &str = "api.example.com";
/// How many.
const HELLOS: usize = 300;

/// What leaves is what the other reader reads the right name in; and of what it does, all leaves.
#[test]
fn two_readers_agree() -> Result<()> {
    let lab = Lab::new()?;
    let server = SocketAddr::from((Family::V4.named(1), TLS_PORT));
    let resolver = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
    let _resolver = Resolver::of_zone(&lab.server, &[resolver], &[(NAME, vec![server.ip()])])?;
    let policy = Policy::standard().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[TLS_PORT]);
    let watched = Watched::new(&lab, &policy)?;
    let mut dice = Dice::new();
    let plain = Hello::to(NAME).record();
    let mut hellos = Vec::new();
    while hellos.len() < HELLOS {
        let mut hello = plain.clone();
        for _ in 0..=dice.below(2) {
            let at = dice.below(hello.len());
            let known = [
                0,
                1,
                2,
                3,
                22,
                b'.',
                b'A',
                b'z',
                0x7f,
                0x80,
                0xff,
                hello[at] ^ 0x20,
                hello[at].wrapping_add(1),
            ];
            hello[at] = known[dice.below(known.len())];
        }
        if dice.below(64) == 0 {
            hello.truncate(1 + dice.below(hello.len()));
        }
        hellos.push(hello);
    }
    let mut steps = vec![Step::Ask { to: resolver, message: query(7, NAME, A) }];
    steps.extend(hellos.iter().map(|hello| Step::Stream {
        to: server,
        parts: vec![hello.clone()],
        expect: hello.len(),
    }));
    let came = watched.script(&steps)?;
    let (mut left, mut bytes) = (0, 0);
    for (hello, came) in hellos.iter().zip(&came[1..]) {
        let right = read(hello).as_deref() == Some(NAME);
        // One that is cut off waits for the rest.
        ensure!(came.is_ok() == right, "{hello:?} {:?}: {} {}", read(hello), came.step, came.errno);
        left += usize::from(right);
        bytes += if right { hello.len() } else { 0 };
    }
    ensure!((HELLOS / 10..HELLOS * 9 / 10).contains(&left), "{left} of {HELLOS} left");
    let arrived = lab.servers.tally(server, Transport::Tcp).bytes;
    ensure!(arrived == bytes, "{arrived} of {bytes} bytes");
    Ok(())
}
