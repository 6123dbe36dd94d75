//! What detection costs on one core: events, payload, captures. All traffic is made here, nothing is sent.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use agentnet::{
    detect::{
        action::Actions,
        bank::{Bank, Config},
        event::{Agent, Body, Chunk, Direction, Dns, Event, Flow, Lineage, Message, Time, Transport},
        finding::Repeats,
        ledger::Keys,
    },
    replay::{
        Replay,
        pcap::{Capture, CaptureError},
    },
};
use anyhow::{Context as _, Result};

use super::others;

/// How long each measure goes on.
const LENGTH: Duration = Duration::from_secs(3);

/// A row: what, how fast, the goal.
pub type Row = (String, String, String);

/// A query of type A.
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Names of a busy host: most again and again, some new.
fn names(tunnel: bool) -> Vec<Vec<u8>> {
    let known = [
        "www.example.com",
        "api.github.com",
        "registry.npmjs.org",
        "pypi.org",
        "files.pythonhosted.org",
        "api.anthropic.com",
        "o11.ingest.sentry.io",
        "ocsp.digicert.com",
        "cdn.jsdelivr.net",
        "fonts.gstatic.com",
    ];
    let mut state = 7_u64;
    (0..4096)
        .map(|number: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match number % 16 {
                _ if tunnel => query(&format!("{state:016x}{:016x}.{number:x}.tunnel-7.net", !state)),
                0 => query(&format!("host{}.cdn{}.example{}.org", number, state % 7, number % 97)),
                place => query(known[place % known.len()]),
            }
        })
        .collect()
}

fn event<'a>(time: u64, flow: u64, body: Body<'a>) -> Event<'a> {
    let end = |last, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port);
    Event {
        time: Time(1_700_000_000_000_000_000 + time),
        agent: Agent { id: 1, name: "bench" },
        process: None,
        lineage: Lineage::default(),
        flow: Flow { id: flow, protocol: 17, local: end(1, 40_000), remote: end(2, 53) },
        body,
    }
}

fn bank() -> Bank {
    Bank::new(Config::default(), Keys::new(11, 13), Repeats::Counted)
}

/// Events a second of processor time, and nanoseconds of each.
fn dns(tunnel: bool) -> (f64, f64) {
    let names = names(tunnel);
    let mut bank = bank();
    let (start, before, mut count) = (Instant::now(), cpu(), 0_u64);
    while start.elapsed() < LENGTH {
        for name in &names {
            let dns =
                Dns { direction: Direction::Egress, transport: Transport::Udp, message: Message::Wire(name) };
            let _ = bank.on_event(&event(count * 1_000_000, 1, Body::Dns(dns)));
            count += 1;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / cpu().saturating_sub(before).as_secs_f64();
    (rate, 1e9 / rate)
}

/// Bytes of payload a second of processor time.
fn http(packed: bool) -> f64 {
    let text: String = (0..)
        .map(|number| format!("{{\"role\":\"user\",\"id\":{number},\"content\":\"please look at the function in main.rs and say what it does\"}},"))
        .take(600)
        .collect();
    let body = if packed {
        (0..text.len())
            .map(|at| {
                b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[(at * at + at / 7) % 64]
            })
            .collect()
    } else {
        text.into_bytes()
    };
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), &body].concat();
    let mut bank = bank();
    let (start, before, mut bytes) = (Instant::now(), cpu(), 0_u64);
    while start.elapsed() < LENGTH {
        for chunk in request.chunks(4096) {
            let chunk = Chunk { direction: Direction::Egress, offset: bytes, gap: 0, bytes: chunk };
            let _ = bank.on_event(&event(bytes, 1, Body::Chunk(chunk)));
            bytes += chunk.bytes.len() as u64;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = bytes as f64 / cpu().saturating_sub(before).as_secs_f64();
    rate
}

/// Writes a capture of `packets`, three of four of DNS and the rest of HTTP.
fn capture(path: &Path, packets: u32) -> Result<()> {
    let mut out =
        BufWriter::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?);
    for word in [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 65535, 101] {
        out.write_all(&word.to_le_bytes())?;
    }
    let names = names(false);
    let get = b"GET /simple/requests/ HTTP/1.1\r\nHost: pypi.example.org\r\nUser-Agent: pip/24.0\r\nAccept: */*\r\n\r\n";
    let mut sequence = 1_u32;
    for number in 0..packets {
        let (protocol, transport) = if number % 4 < 3 {
            let name = &names[number as usize % names.len()];
            let length = u16::try_from(8 + name.len())?;
            let port = 20_000 + u16::try_from(number % 20_000)?;
            (17, [&port.to_be_bytes()[..], &[0, 53], &length.to_be_bytes(), &[0, 0], name].concat())
        } else {
            let header = [
                &[0x9c, 0x40, 0, 80][..],
                &sequence.to_be_bytes(),
                &[0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0],
                get,
            ]
            .concat();
            sequence = sequence.wrapping_add(u32::try_from(get.len())?);
            (6, header)
        };
        let total = u16::try_from(20 + transport.len())?.to_be_bytes();
        let client = u8::try_from(number % 50)?;
        let ip =
            [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, client, 10, 2, 0, 1];
        let length = u32::try_from(ip.len() + transport.len())?;
        for word in [1_700_000_000 + number / 5000, number % 5000 * 200, length, length] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(&ip)?;
        out.write_all(&transport)?;
    }
    out.flush().context("cannot write the capture")
}

/// Packets a second of processor time.
fn replay(path: &Path, packets: u32) -> Result<f64> {
    let mut replay = Replay::new("bench".into(), "none".into(), Actions::default(), Config::default());
    let start = cpu();
    let mut told = 0_usize;
    Capture::new(File::open(path)?)?.each(|frame| {
        told += replay.frame(&frame).count();
        Ok::<(), CaptureError>(())
    })?;
    told += replay.end().count();
    let spent = cpu().saturating_sub(start);
    anyhow::ensure!(replay.summary().packets == u64::from(packets), "not every packet was read");
    let _ = told;
    Ok(f64::from(packets) / spent.as_secs_f64())
}

/// Processor time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Largest resident set so far, in MiB.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
}

/// Measures everything.
///
/// # Errors
/// If no capture can be written.
pub fn measure(packets: u32) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let path = folder.path().join("bench.pcap");
    capture(&path, packets)?;
    let rate = replay(&path, packets)?;
    let memory = peak().map_or("?".to_owned(), |peak| format!("{peak} MiB"));
    let mut rows = vec![
        ("replay, packets a second of processor time".to_owned(), format!("{rate:.0}"), "800,000".to_owned()),
        ("replay, peak memory".to_owned(), memory, "100 MB".to_owned()),
    ];
    for (what, tunnel) in [("names of every day", false), ("a tunnel's names", true)] {
        let (rate, nanos) = dns(tunnel);
        rows.push((
            format!("DNS events a second, {what}"),
            format!("{rate:.0} ({nanos:.0} ns each)"),
            "500,000; D1+D2 2 µs".to_owned(),
        ));
    }
    for (what, packed) in [("JSON", false), ("base64", true)] {
        rows.push((
            format!("HTTP payload, {what}"),
            format!("{:.0} MB/s", http(packed) / 1e6),
            "200 MB/s".to_owned(),
        ));
    }
    rows.extend(others::rows(&path, packets));
    Ok(rows)
}
