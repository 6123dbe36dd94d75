//! Which protocol a flow speaks, beside what nDPI says.

use std::{collections::BTreeMap, fs::File, net::SocketAddr, path::Path};

use agentnet::{
    detect::{action::Actions, bank::Config},
    replay::{
        Replay,
        pcap::{Capture, CaptureError},
    },
};
use anyhow::{Context as _, Result};

use super::{Page, data, percent};

/// nDPI's names for the protocols that are named here.
const NAMES: &[(&str, &str)] = &[
    ("TLS", "TLS"),
    ("HTTP", "HTTP"),
    ("DNS", "DNS"),
    ("MDNS", "MDNS"),
    ("QUIC", "QUIC"),
    ("SSH", "SSH"),
    ("SMTP", "SMTP"),
    ("FTP_CONTROL", "FTP"),
    ("IMAP", "IMAP"),
    ("POP3", "POP3"),
    ("POP", "POP3"),
    ("DTLS", "DTLS"),
    ("STUN", "STUN"),
    ("NTP", "NTP"),
    ("DHCP", "DHCP"),
    ("BitTorrent", "BitTorrent"),
    ("SMBv23", "SMB"),
    ("ICMP", "ICMP"),
    ("ICMPV6", "ICMPV6"),
];

pub(super) fn evaluate(root: &Path, page: &mut Page) -> Result<()> {
    let folder = root.join("pcap-ndpi");
    let files = data::files(&folder, ".gz")?;
    if files.is_empty() {
        page.skip(&folder);
        return Ok(());
    }
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut alarms, mut captures) = (0, 0);
    for path in &files {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut replay = Replay::new("eval".into(), "none".into(), Actions::default(), Config::default());
        replay.keep_flows();
        let mut told = 0;
        // Some of these captures are broken on purpose: what came before counts.
        let _ = Capture::new(file).and_then(|mut capture| {
            capture.each(|frame| {
                told += replay.frame(&frame).count();
                Ok::<(), CaptureError>(())
            })
        });
        told += replay.end().count();
        captures += 1;
        if told > 0 {
            alarms += 1;
            page.misses.push(format!("capture {}: {told} alerts", data::name(path)));
        }
        let expected = path.to_string_lossy().trim_end_matches(".gz").to_owned() + ".expected.txt";
        for line in data::lines(Path::new(&expected)).unwrap_or_default() {
            let Some((one, two, name)) = flow(&line) else { continue };
            let Some((_, ours)) = NAMES.iter().find(|(theirs, _)| *theirs == name) else { continue };
            let same = replay.flows().iter().find(|flow| {
                flow.app.is_some_and(|app| app.label() == *ours)
                    && ((flow.client == one && flow.server == two)
                        || (flow.client == two && flow.server == one))
            });
            let count = counts.entry(ours).or_default();
            count.0 += 1;
            if same.is_some() {
                count.1 += 1;
            } else {
                let seen = replay.flows().iter().find(|flow| flow.client == one || flow.client == two);
                let seen = seen.and_then(|flow| flow.app).map_or("nothing", |app| app.label());
                page.misses.push(format!(
                    "protocol of {one} {two} in {}: {ours} expected, {seen} named",
                    data::name(path)
                ));
            }
        }
    }
    page.table("Protocols named as nDPI names them", &["protocol", "flows", "right"]);
    let (mut all, mut right) = (0, 0);
    for (name, (flows, named)) in counts {
        all += flows;
        right += named;
        page.row(&[name.to_owned(), flows.to_string(), percent(named, flows)]);
    }
    page.row(&["all".to_owned(), all.to_string(), percent(right, all)]);
    page.line("");
    page.line(format!("Captures of nDPI with an alert: {alarms} of {captures}."));
    Ok(())
}

/// Both ends and the outer protocol's name of a line of nDPI.
fn flow(line: &str) -> Option<(SocketAddr, SocketAddr, String)> {
    let (ends, rest) = line.split_once(" [proto: ")?;
    let mut words = ends.split_whitespace().skip(2);
    let (one, _, two) = (words.next()?, words.next()?, words.next()?);
    let end = |text: &str| text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, 0)));
    let (numbers, names) = rest.split_once(']')?.0.split_once('/')?;
    let name = if numbers.contains('.') { names.split('.').next()? } else { names };
    Some((end(one)?, end(two)?, name.to_owned()))
}
