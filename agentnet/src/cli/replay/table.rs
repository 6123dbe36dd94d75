//! The table of `agentnet replay --summary`.

use std::io::{self, Write};

use bytesize::ByteSize;

use crate::{
    alert::text::clean,
    replay::{Summary, summary::Told},
};

/// Rows of destinations.
const ROWS: usize = 50;

pub(super) fn write(out: &mut impl Write, name: &str, summary: &Summary) -> io::Result<()> {
    let seconds = summary.first.map_or(0, |first| summary.last.since(first)) / 1_000_000_000;
    writeln!(
        out,
        "{name}: {} packets, {}, {}{}",
        summary.packets,
        ByteSize::b(summary.bytes).display().iec(),
        span(seconds),
        match summary.not_ip {
            0 => String::new(),
            packets => format!("; {packets} packets are not of IP or could not be read"),
        },
    )?;
    if !summary.protocols.is_empty() {
        writeln!(
            out,
            "\n{:<18} {:>9} {:>10} {:>12} {:>12}",
            "protocol", "flows", "packets", "sent", "received"
        )?;
        let mut rows: Vec<_> = summary.protocols.iter().collect();
        rows.sort_by_key(|(_, protocol)| std::cmp::Reverse(protocol.flows));
        for (name, protocol) in rows {
            writeln!(
                out,
                "{name:<18} {:>9} {:>10} {:>12} {:>12}",
                protocol.flows,
                protocol.packets,
                ByteSize::b(protocol.out).display().iec().to_string(),
                ByteSize::b(protocol.back).display().iec().to_string(),
            )?;
        }
    }
    alerts(out, summary)
}

fn alerts(out: &mut impl Write, summary: &Summary) -> io::Result<()> {
    if summary.alerts.is_empty() {
        return writeln!(out, "\nnothing found");
    }
    writeln!(
        out,
        "\n{:<24} {:<18} {:<8} {:>7} {:>10}  destination",
        "agent", "found", "action", "alerts", "after"
    )?;
    let mut rows: Vec<_> = summary.alerts.iter().collect();
    rows.sort_by_key(|(_, told)| (std::cmp::Reverse(told.action), told.first));
    for ((agent, kind, subject), told) in rows.iter().take(ROWS) {
        let Told { alerts, action, first } = told;
        let after = first.since(summary.first.unwrap_or_default()) / 1_000_000_000;
        writeln!(
            out,
            "{:<24} {kind:<18} {:<8} {alerts:>7} {:>10}  {}",
            clean(agent, 24),
            action.verdict(),
            span(after),
            clean(subject, 80),
        )?;
    }
    let left = u64::try_from(rows.len().saturating_sub(ROWS)).unwrap_or(u64::MAX) + summary.more;
    if left > 0 {
        writeln!(out, "and {left} more; without --summary each is a line of JSON")?;
    }
    Ok(())
}

/// A span of time in its two largest units.
fn span(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}
