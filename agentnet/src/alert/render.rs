//! For people: one line for each alert and flow, and a summary at the end.
//!
//! Everything an agent can choose is cleaned here once more, because alerts are also rendered from files
//! and streams.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use jiff::tz::TimeZone;
use owo_colors::{OwoColorize as _, Style};

use super::{
    class::{Class, reason_from_label},
    door::UnixSocket,
    model::{
        Action, Alert, Destination, Direction, Evidence, Flow, FlowAction, FlowEvidence, Output, PolicyRef,
        Process, Query, Severity,
    },
    names::{Socket, SocketOption},
    summary::{Refused, Summary},
    text::{MAX_COMM, MAX_SENTENCE, clean, plural},
};
use crate::policy::special::is_metadata;

/// Width of the column of processes.
const WHO: usize = 16;
/// Width of the column of destinations.
const WHAT: usize = 24;
/// Width of the column of reasons in a summary.
const WHY: usize = 28;
/// Rows of each table of a summary.
const ROWS: usize = 20;
/// Suggestions of a summary.
const SUGGESTIONS: usize = 10;

/// Stands for destinations that were not told apart.
const VARIOUS: &str = "various destinations";

/// Renders in the colours and the time zone it was made with.
#[derive(Clone, Debug)]
pub struct Renderer {
    color: bool,
    zone: TimeZone,
}

/// The looks of a line's parts.
#[derive(Clone, Copy)]
enum Look {
    Good,
    Bad,
    Warn,
    Dim,
    Strong,
}

impl Renderer {
    /// With `color`, ANSI sequences are written; whether a stream wants them is for its owner to know.
    pub const fn new(color: bool, zone: TimeZone) -> Self {
        Self { color, zone }
    }

    /// One line without its end.
    pub fn line(&self, output: &Output) -> String {
        match output {
            Output::Alert(alert) => self.alert(alert),
            Output::Flow(flow) => self.flow(flow),
        }
    }

    fn alert(&self, alert: &Alert) -> String {
        let time = self.time(alert.time);
        let evidence = match &alert.evidence {
            Evidence::Verdict(evidence) => evidence,
            Evidence::Loss(_) => return self.message(&time, "! lost", Look::Warn, &alert.reason),
            Evidence::Enforcement(_) if alert.severity >= Severity::High => {
                return self.message(&time, "! warning", Look::Bad, &alert.reason);
            }
            Evidence::Act(_) => return self.message(&time, "• by hand", Look::Strong, &alert.reason),
            // No alert has a flow as evidence.
            Evidence::Enforcement(_) | Evidence::Flow(_) => {
                return self.message(&time, "· notice", Look::Dim, &alert.reason);
            }
            Evidence::Detection(_) => {
                let (verb, look) = match alert.action {
                    Action::Blocked | Action::Quarantined => ("✗ blocked", Look::Bad),
                    Action::Alerted => ("! found", Look::Warn),
                };
                return self.message(&time, verb, look, &alert.reason);
            }
        };
        let (verb, look) = match alert.action {
            Action::Blocked | Action::Quarantined => ("✗ blocked", Look::Bad),
            Action::Alerted => ("! audited", Look::Warn),
        };
        let (mut why, place) = match &alert.policy.rule {
            Some(rule) => (clean(rule, MAX_SENTENCE), place(&alert.policy)),
            None => (
                short(evidence.reason.as_deref().unwrap_or_default(), alert.destination.as_ref()),
                format!("(policy {})", clean(&alert.policy.name, MAX_COMM)),
            ),
        };
        why += &times(alert.count);
        let what = if evidence.various && alert.count > 1 {
            VARIOUS.to_owned()
        } else {
            let from = evidence.direction == Direction::Ingress;
            if let Some(Query { name, kind }) = &evidence.query {
                clean(&format!("dns {kind} {name}"), MAX_SENTENCE)
            } else if let Some(name) = &evidence.server_name {
                let to = what(alert.destination.as_ref(), None, None, false);
                clean(&format!("tls {name} {to}"), MAX_SENTENCE)
            } else if let Some(socket) = &evidence.unix {
                clean(&socket.to_string(), MAX_SENTENCE)
            } else {
                what(alert.destination.as_ref(), evidence.socket.as_ref(), evidence.option.as_ref(), from)
            }
        };
        self.columns(&time, (verb, look), alert.process.as_ref(), &what, &why, &place)
    }

    fn flow(&self, flow: &Flow) -> String {
        let time = self.time(flow.time);
        let (various, carried) = match &flow.evidence {
            Evidence::Verdict(evidence) => (evidence.various, None),
            Evidence::Flow(carried) => (carried.various, Some(carried)),
            Evidence::Loss(_) | Evidence::Enforcement(_) | Evidence::Detection(_) | Evidence::Act(_) => {
                (false, None)
            }
        };
        let what = if various && flow.count > 1 {
            VARIOUS.to_owned()
        } else {
            what(flow.destination.as_ref(), None, None, false)
        };
        let why = match carried {
            Some(carried) => carried_in_words(carried),
            None => clean(flow.policy.rule.as_deref().unwrap_or("allowed"), MAX_SENTENCE),
        } + &times(flow.count);
        self.columns(
            &time,
            match flow.action {
                FlowAction::Allowed => ("✓ allowed", Look::Good),
                FlowAction::Ended => ("· ended", Look::Dim),
            },
            flow.process.as_ref(),
            &what,
            &why,
            &place(&flow.policy),
        )
    }

    fn columns(
        &self,
        time: &str,
        (verb, look): (&str, Look),
        process: Option<&Process>,
        what: &str,
        why: &str,
        place: &str,
    ) -> String {
        let who = match process {
            Some(process) => format!("{}({})", clean(&process.comm, MAX_COMM), process.pid),
            None => "-".to_owned(),
        };
        let line = format!(
            "{} {}  {who:<WHO$}  {what:<WHAT$}  {why}  {}",
            self.paint(time, Look::Dim),
            self.paint(verb, look),
            self.paint(place, Look::Dim),
        );
        line.trim_end().to_owned()
    }

    fn message(&self, time: &str, verb: &str, look: Look, sentence: &str) -> String {
        let verb = format!("{verb:<9}");
        format!(
            "{} {}  {}",
            self.paint(time, Look::Dim),
            self.paint(&verb, look),
            clean(sentence, MAX_SENTENCE)
        )
    }

    /// What happened altogether; `log` is where the lines are.
    pub fn summary(&self, summary: &Summary, log: Option<&Path>) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}",
            self.paint(
                &format!(
                    "agentnet: agent {} under policy {}",
                    clean(&summary.agent, MAX_COMM),
                    clean(&summary.policy, MAX_COMM)
                ),
                Look::Strong
            )
        );
        self.allowed(&mut text, summary);
        self.refused(&mut text, summary, false);
        self.refused(&mut text, summary, true);
        for (what, lost) in &summary.losses {
            let _ = writeln!(
                text,
                "  {}     {lost} {}",
                self.paint("lost", Look::Warn),
                clean(what, MAX_SENTENCE)
            );
        }
        if let Some(log) = log {
            let _ = writeln!(text, "  log      {}", clean(&log.to_string_lossy(), MAX_SENTENCE));
        }
        suggestions(&mut text, summary);
        text
    }

    fn allowed(&self, text: &mut String, summary: &Summary) {
        let flows =
            sum(summary.allowed.iter().map(|row| row.count)).saturating_add(summary.allowed_elsewhere);
        if flows == 0 {
            let _ = writeln!(text, "  {}  nothing", self.paint("allowed", Look::Good));
            return;
        }
        let _ = writeln!(
            text,
            "  {}  {} in {}, {} sent",
            self.paint("allowed", Look::Good),
            plural(flows, "flow"),
            plural(summary.packets, "packet"),
            bytes(summary.bytes),
        );
        for row in summary.allowed.iter().take(ROWS) {
            let rule = clean(row.policy.rule.as_deref().unwrap_or_default(), MAX_SENTENCE);
            let line = format!(
                "{:>7}×  {:<WHAT$}  {rule}  {}",
                row.count,
                far(&row.destination),
                place(&row.policy)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        }
        more(text, summary.allowed.len(), summary.allowed_elsewhere);
    }

    fn refused(&self, text: &mut String, summary: &Summary, audited: bool) {
        let rows: Vec<&Refused> = summary.refused.iter().filter(|row| row.audited == audited).collect();
        // Which of both they were is not known of those without a row; refusals are the graver reading.
        let elsewhere = if audited { 0 } else { summary.refused_elsewhere };
        let total = sum(rows.iter().map(|row| row.count)).saturating_add(elsewhere);
        let verb = match (audited, total) {
            (true, 0) => return,
            (true, _) => self.paint("audited", Look::Warn),
            (false, _) => self.paint("refused", Look::Bad),
        };
        if total == 0 {
            let _ = writeln!(text, "  {verb}  nothing");
            return;
        }
        let end = if audited { ", let through because the policy only audits" } else { "" };
        let _ = writeln!(text, "  {verb}  {}{end}", plural(total, "attempt"));
        for row in rows.iter().take(ROWS) {
            let what = match (&row.name, &row.unix) {
                (Some(name), _) => format!("dns {}", clean(name, MAX_SENTENCE)),
                (None, Some(socket)) => clean(&socket.to_string(), MAX_SENTENCE),
                (None, None) => {
                    what(row.destination.as_ref(), row.socket.as_ref(), row.option.as_ref(), false)
                }
            };
            let why = match &row.denied_by {
                Some(rule) => clean(rule, MAX_SENTENCE),
                None => short(&row.reason, row.destination.as_ref()),
            };
            let who: Vec<String> = row.processes.iter().map(|comm| clean(comm, MAX_COMM)).collect();
            let line = format!("{:>7}×  {what:<WHAT$}  {why:<WHY$}  {}", row.count, who.join(", "));
            let _ = writeln!(text, "{}", line.trim_end());
        }
        more(text, rows.len(), elsewhere);
    }

    fn time(&self, time: jiff::Timestamp) -> String {
        time.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }

    fn paint(&self, text: &str, look: Look) -> String {
        if !self.color {
            return text.to_owned();
        }
        let style = Style::new();
        let style = match look {
            Look::Good => style.green(),
            Look::Bad => style.red().bold(),
            Look::Warn => style.yellow().bold(),
            Look::Dim => style.dimmed(),
            Look::Strong => style.bold(),
        };
        text.style(style).to_string()
    }
}

/// What it was about: the far end, the socket or the option.
fn what(
    destination: Option<&Destination>,
    socket: Option<&Socket>,
    option: Option<&SocketOption>,
    from: bool,
) -> String {
    match (destination, socket, option) {
        (Some(destination), ..) => format!("{}{}", if from { "from " } else { "" }, far(destination)),
        (None, Some(socket), _) => clean(&socket.to_string(), MAX_SENTENCE),
        (None, None, Some(option)) => clean(&option.to_string(), MAX_SENTENCE),
        (None, None, None) => "-".to_owned(),
    }
}

fn far(destination: &Destination) -> String {
    clean(&destination.to_string(), MAX_SENTENCE)
}

/// The few words of a reason; its label where it is of a newer version.
fn short(label: &str, destination: Option<&Destination>) -> String {
    match reason_from_label(label) {
        Some(reason) => {
            Class::of(reason).about(destination.map(|destination| destination.ip), None).short.to_owned()
        }
        None => clean(label, MAX_COMM),
    }
}

/// How many a line stands for, if more than one.
fn times(count: u64) -> String {
    if count > 1 { format!(" ×{count}") } else { String::new() }
}

/// Where the rule is written.
fn place(policy: &PolicyRef) -> String {
    match (&policy.file, policy.line) {
        (Some(file), Some(line)) => format!("{}:{line}", clean(file, MAX_SENTENCE)),
        _ => String::new(),
    }
}

fn more(text: &mut String, rows: usize, elsewhere: u64) {
    let hidden = rows.saturating_sub(ROWS);
    if hidden > 0 || elsewhere > 0 {
        let _ = writeln!(
            text,
            "           and more: {hidden} other rows, {elsewhere} not told apart; see the log"
        );
    }
}

fn suggestions(text: &mut String, summary: &Summary) {
    let mut distinct: Vec<&str> = Vec::new();
    for row in &summary.refused {
        // To open the service that hands out the machine's credentials is not a thing to be pasted.
        let harmless = row.name.is_some()
            || row.destination.as_ref().is_some_and(|destination| !is_metadata(destination.ip));
        if let Some(suggestion) = row.suggestion.as_deref().map(str::trim)
            && harmless
            && !distinct.contains(&suggestion)
        {
            distinct.push(suggestion);
        }
    }
    let sockets: BTreeSet<String> = summary
        .refused
        .iter()
        .filter_map(|row| row.unix.as_ref())
        .filter(|socket| socket.is_harmless())
        .map(UnixSocket::quoted)
        .take(SUGGESTIONS)
        .collect();
    let sockets = (!sockets.is_empty())
        .then(|| format!("[local]\nunix_allow = [{}]", sockets.into_iter().collect::<Vec<_>>().join(", ")));
    distinct.extend(sockets.as_deref());
    if distinct.is_empty() {
        return;
    }
    let policy = clean(&summary.policy, MAX_COMM);
    let _ = writeln!(text, "\nTo allow what was refused, add to policy {policy} what you agree with:");
    for suggestion in distinct.iter().take(SUGGESTIONS) {
        let _ = writeln!(text);
        for line in suggestion.lines() {
            let _ = writeln!(text, "{}", clean(line, MAX_SENTENCE));
        }
    }
    let hidden = distinct.len().saturating_sub(SUGGESTIONS);
    if hidden > 0 {
        let _ = writeln!(text, "\n(and {})", plural(u64::try_from(hidden).unwrap_or(u64::MAX), "more rule"));
    }
}

fn sum(counts: impl Iterator<Item = u64>) -> u64 {
    counts.fold(0, u64::saturating_add)
}

/// Bytes in the largest binary unit of which there is at least one, to one decimal place.
fn bytes(count: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => {
            let tenths = u128::from(count) * 10 / u128::from(size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => plural(count, "byte"),
    }
}

/// How much a flow carried and how long it lasted.
fn carried_in_words(carried: &FlowEvidence) -> String {
    let seconds = carried.duration_ms / 1000;
    let duration = match carried.duration_ms {
        milliseconds @ 0..1000 => format!("{milliseconds} ms"),
        milliseconds @ 1000..60_000 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        _ if seconds < 3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    };
    format!("{} out, {} in, {duration}", bytes(carried.bytes_out), bytes(carried.bytes_in))
}
