//! What is sampled of payload, and what is told of a flow at its end.

use std::net::SocketAddr;

use agentnet_common::{
    abi::{SAMPLE_BUDGET, SAMPLE_DATAGRAMS, SAMPLE_EVERY, SAMPLE_TCP_BYTES},
    addr::Endpoint,
    event::{SAMPLE_STREAM, Way},
    user::SampleRecord,
};
use agentnet_tests::{
    lab::{
        Lab,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        server::Transport,
        watched::Watched,
    },
    probe::talk::poured,
};
use anyhow::{Result, ensure};
use rstest::rstest;

/// HTTP in the clear: sampled whole.
const STREAM_PORT: u16 = 80;

fn policy() -> Policy {
    Policy::standard().allow_hosts(&[STREAM_PORT], &["tcp"])
}

fn port(family: Family, port: u16) -> SocketAddr {
    SocketAddr::from((family.allowed(), port))
}

fn far(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

/// The samples of one way put together: they must follow on each other from the beginning, byte by byte.
fn without_gap(samples: &[SampleRecord]) -> Result<usize> {
    let mut next = 0;
    for sample in samples {
        let offset = usize::try_from(sample.head.offset)?;
        ensure!(offset == next, "a sample at {offset} follows {next} bytes");
        for (index, &byte) in sample.bytes.iter().enumerate() {
            ensure!(byte == poured(offset + index), "byte {} is not the one that was sent", offset + index);
        }
        next += sample.bytes.len();
    }
    Ok(next)
}

/// The first bytes of a connection are sampled both ways, and no more of them; its end says what it carried.
#[rstest]
fn a_connection_is_sampled_at_its_head(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(1, 700, 1 << 16)] chunk: usize,
) -> Result<()> {
    const BYTES: usize = 20_000;
    let lab = Lab::new()?;
    let mut watched = Watched::new(&lab, &policy())?;
    let to = port(family, ALLOWED_PORT);
    let chunk = chunk.to_string();
    watched.run(&["pour", &to.to_string(), &BYTES.to_string(), "--chunk", &chunk])?;
    let end = watched.ends(1)?.remove(0);
    ensure!(lab.servers.tally(to, Transport::Tcp).bytes == BYTES, "the server did not get everything");
    for way in Way::ALL {
        let samples = watched.samples(*way)?;
        let sampled = without_gap(&samples)?;
        ensure!(u64::try_from(sampled)? == SAMPLE_TCP_BYTES, "{} {sampled} bytes", way.label());
        for sample in &samples {
            ensure!(far(&sample.head.endpoint) == to, "{sample:?}");
            ensure!(
                sample.head.process.pid != 0 && sample.head.process.comm.starts_with(b"probe\0"),
                "{sample:?}"
            );
            ensure!(sample.head.header.flow == end.header.flow, "{sample:?} is not of {end:?}");
            ensure!(sample.head.flags & SAMPLE_STREAM == 0, "{sample:?}");
        }
    }
    ensure!(far(&end.endpoint) == to && end.local_port != 0, "{end:?}");
    // Headers come on top.
    ensure!(end.tx_bytes > u64::try_from(BYTES)? && end.rx_bytes > u64::try_from(BYTES)?, "{end:?}");
    ensure!(end.tx_packets > 0 && end.rx_packets > 0 && end.header.time > end.began, "{end:?}");
    ensure!(watched.counters()?.unsampled == 0, "{:?}", watched.counters()?);
    Ok(())
}

/// Of HTTP in the clear everything that leaves is sampled.
#[rstest]
fn a_stream_is_sampled_whole(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(333, 1 << 16)] chunk: usize,
) -> Result<()> {
    const BYTES: usize = 600_000;
    let lab = Lab::new()?;
    let mut watched = Watched::new(&lab, &policy())?;
    let chunk = chunk.to_string();
    let to = port(family, STREAM_PORT).to_string();
    watched.run(&["pour", &to, &BYTES.to_string(), "--chunk", &chunk])?;
    watched.ends(1)?;
    let out = watched.samples(Way::Out)?;
    let sampled = without_gap(&out)?;
    ensure!(sampled == BYTES, "{sampled} of {BYTES} bytes");
    ensure!(
        out.iter().any(|sample| sample.head.flags & SAMPLE_STREAM != 0),
        "nothing says that more follows"
    );
    ensure!(u64::try_from(without_gap(&watched.samples(Way::In)?)?)? == SAMPLE_TCP_BYTES, "the answer");
    Ok(())
}

/// What is more than the budget is let through, not sampled and counted: the offsets and the counter agree.
#[test]
fn what_is_over_the_budget_is_counted() -> Result<()> {
    let bytes = usize::try_from(4 * SAMPLE_BUDGET)?;
    let lab = Lab::new()?;
    let mut watched = Watched::new(&lab, &policy())?;
    let to = port(Family::V4, STREAM_PORT);
    watched.run(&["pour", &to.to_string(), &bytes.to_string(), "--chunk", "1048576"])?;
    watched.ends(1)?;
    ensure!(lab.servers.tally(to, Transport::Tcp).bytes == bytes, "sampling held something back");
    let out = watched.samples(Way::Out)?;
    let sampled: usize = out.iter().map(|sample| sample.bytes.len()).sum();
    let mut next = 0;
    let mut gaps = 0;
    for sample in &out {
        ensure!(sample.head.offset >= next, "{:?} goes back", sample.head);
        gaps += sample.head.offset - next;
        next = sample.head.offset + u64::try_from(sample.bytes.len())?;
    }
    gaps += u64::try_from(bytes)? - next;
    let counters = watched.counters()?;
    ensure!(u64::try_from(sampled)? + gaps == u64::try_from(bytes)?, "{sampled} and {gaps} of {bytes}");
    ensure!(gaps > 0 && counters.unsampled + counters.samples_lost > 0, "{gaps}: {counters:?}");
    Ok(())
}

/// Of a socket of UDP the first datagrams are sampled, and later ones now and then.
#[rstest]
fn datagrams_are_sampled_now_and_then(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    const COUNT: u64 = 200;
    let lab = Lab::new()?;
    let mut watched = Watched::new(&lab, &policy())?;
    let to = family.allowed_endpoint();
    watched.run(&["pour", &to.to_string(), &COUNT.to_string(), "--udp"])?;
    let end = watched.ends(1)?.remove(0);
    let expected: Vec<u64> = (0..COUNT)
        .filter(|number| *number < SAMPLE_DATAGRAMS || (number + 1).is_multiple_of(SAMPLE_EVERY))
        .collect();
    for way in Way::ALL {
        let samples = watched.samples(*way)?;
        let numbers: Vec<u64> = samples.iter().map(|sample| sample.head.offset).collect();
        ensure!(numbers == expected, "{}: {numbers:?}", way.label());
        for sample in samples {
            let text = format!("datagram {}", sample.head.offset);
            ensure!(sample.bytes == text.as_bytes(), "{sample:?}");
        }
    }
    ensure!((end.tx_packets, end.rx_packets) == (COUNT, COUNT), "{end:?}");
    ensure!(far(&end.endpoint) == to, "{end:?}");
    Ok(())
}
