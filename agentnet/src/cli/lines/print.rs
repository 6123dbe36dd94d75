//! Lines on standard output.

use std::io::{self, BufWriter, Write};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use owo_colors::OwoColorize as _;
use serde_json::Value;

use crate::{
    alert::{
        render::Renderer,
        text::{MAX_COMM, MAX_SENTENCE, clean},
    },
    store::line::Line,
};

/// Width of the column of agents.
const AGENT: usize = 14;

/// Prints lines for people or machines.
pub(super) struct Printer<W: Write = BufWriter<anstream::AutoStream<io::Stdout>>> {
    out: W,
    json: bool,
    /// Whether each line says whose it is.
    agents: bool,
    renderer: Renderer,
    zone: TimeZone,
    /// That of the last line, or today.
    date: Date,
}

impl Printer {
    /// Prints to standard output; `agents` if each line is to say whose it is.
    pub(super) fn new(json: bool, agents: bool, zone: TimeZone, now: Timestamp) -> Self {
        let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        let out = BufWriter::new(anstream::stdout());
        Self::to(out, json, agents, Renderer::new(color, zone.clone()), zone, now)
    }
}

impl<W: Write> Printer<W> {
    fn to(out: W, json: bool, agents: bool, renderer: Renderer, zone: TimeZone, now: Timestamp) -> Self {
        let date = now.to_zoned(zone.clone()).date();
        Self { out, json, agents, renderer, zone, date }
    }

    /// Prints a line; it may wait in a buffer.
    pub(super) fn show(&mut self, line: &Line) -> io::Result<()> {
        if self.json {
            return writeln!(self.out, "{}", line.text);
        }
        let time = line.time.to_zoned(self.zone.clone());
        if time.date() != self.date {
            self.date = time.date();
            // The lines themselves have the time of day only.
            writeln!(self.out, "{}", format!("-- {} --", self.date).dimmed())?;
        }
        if self.agents {
            write!(self.out, "{:<AGENT$} ", clean(&line.agent, MAX_COMM))?;
        }
        match line.output() {
            Some(output) => writeln!(self.out, "{}", self.renderer.line(&output)),
            None => writeln!(self.out, "{} {}", time.strftime("%H:%M:%S"), unknown(&line.text)),
        }
    }

    /// Prints what waits in the buffer.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What can be said of a line that a later version wrote.
fn unknown(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str, most| clean(value[name].as_str().unwrap_or("?"), most);
    format!(
        "{} ({}): {}",
        field("kind", MAX_COMM),
        field("severity", MAX_COMM),
        field("reason", MAX_SENTENCE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALERT: &str = r#"{"time":"2026-11-22T12:04:15.250000000Z","id":"01a20324-8612-7400-8000-000a5d2c91e7","host":"host1","agent":"demo","kind":"enforcement","severity":"info","action":"alerted","reason":"Policy demo is in force.","process":null,"destination":null,"policy":{"name":"demo","rule":null,"file":null,"line":null},"evidence":{"type":"enforcement","state":"started"},"technique":null,"community_id":null,"count":1}"#;

    fn printed(json: bool, agents: bool, lines: &[&str]) -> String {
        let mut out = Vec::new();
        let now = "2026-11-22T13:00:00Z".parse().unwrap();
        let renderer = Renderer::new(false, TimeZone::UTC);
        let mut printer = Printer::to(&mut out, json, agents, renderer, TimeZone::UTC, now);
        for line in lines {
            printer.show(&Line::parse(line.as_bytes()).unwrap()).unwrap();
        }
        String::from_utf8(anstream::adapter::strip_bytes(&out).into_vec()).unwrap()
    }

    #[test]
    fn json_is_printed_as_it_is_stored() {
        let newer = ALERT.replace("\"host1\"", "\"host1\",  \"new\":1");
        assert_eq!(printed(true, true, &[ALERT, &newer]), format!("{ALERT}\n{newer}\n"));
    }

    #[test]
    fn people_are_told_whose_it_is_and_of_which_day() {
        let earlier = ALERT.replace("11-22T12", "11-21T12");
        insta::assert_snapshot!(printed(false, true, &[ALERT, &earlier, ALERT]));
        insta::assert_snapshot!(printed(false, false, &[ALERT]));
    }

    #[test]
    fn what_a_later_version_wrote_is_told_as_far_as_it_goes() {
        let newer = ALERT
            .replace("\"enforcement\",\"severity\":\"info\"", "\"mind\\u001breading\",\"severity\":\"dire\"");
        insta::assert_snapshot!(printed(false, true, &[&newer]));
    }
}
