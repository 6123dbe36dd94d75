//! Reading.

use std::fs;

use jiff::SignedDuration;

use super::{History, Query, Severity, Source, Store, Stream, at, mark, name};

#[test]
fn lines_of_all_agents_come_in_the_order_of_writing() {
    let store = Store::of(64 << 10);
    let agents = ["a", "b", "c"];
    let mut logs: Vec<_> = agents.iter().map(|agent| (store.log(agent), Source::of(agent))).collect();
    let mut written = Vec::new();
    for number in 0..300_i64 {
        // Now one writes more, now another; segments end at different times.
        let index = usize::try_from((number * number / 7) % 3).unwrap();
        let (log, source) = &mut logs[index];
        assert_eq!(log.append(&source.alert(&number.to_string(), at(number)), at(number)), None);
        written.push(number.to_string());
    }
    assert!(store.segments("a").len() > 3);
    assert_eq!(store.read(), written);
}

#[test]
fn agents_whose_segments_begin_later_are_not_opened_before() {
    let store = Store::of(1 << 20);
    for number in 0..500_i64 {
        let agent = format!("run-{number}");
        let now = at(number * 60);
        store.log(&agent).append(&Source::of(&agent).alert(&number.to_string(), now), now);
    }
    let mut history = store.history(Query::default());
    let first = history.next().unwrap();
    assert_eq!(mark(&first), "0");
    // Removed before the merge comes to it: nobody holds it open.
    let last = store.segments("run-499").remove(0);
    fs::remove_file(last).unwrap();
    let rest: Vec<_> = history.by_ref().map(|line| mark(&line)).collect();
    assert_eq!(rest, (1..499).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(history.error().is_none() && history.torn() == 0);
}

#[test]
fn lines_can_be_chosen() {
    let store = Store::of(64 << 10);
    let severities = [Severity::Info, Severity::Medium, Severity::Critical];
    for (agent, later) in [("a", 0), ("b", 500)] {
        let (mut log, mut source) = (store.log(agent), Source::of(agent));
        for second in 0..90 {
            let severity = severities[usize::try_from(second % 3).unwrap()];
            let now = at(second) + SignedDuration::from_millis(later);
            log.append(&source.alert_of(&format!("{agent}{second}"), severity, now), now);
        }
    }
    let read = |query| store.history(query).map(|line| mark(&line)).collect::<Vec<_>>();
    let of_a = read(Query { agent: Some(name("a")), ..Query::default() });
    assert_eq!(of_a, (0..90).map(|second| format!("a{second}")).collect::<Vec<_>>());
    let late = read(Query { since: Some(at(88)), ..Query::default() });
    assert_eq!(late, ["a88", "b88", "a89", "b89"]);
    let written_late = read(Query { written_since: Some(at(88)), ..Query::default() });
    assert_eq!(written_late, late);
    let grave = read(Query {
        agent: Some(name("b")),
        since: Some(at(84)),
        min_severity: Some(Severity::Medium),
        ..Query::default()
    });
    assert_eq!(grave, ["b85", "b86", "b88", "b89"]);
    assert!(read(Query { agent: Some(name("nobody")), ..Query::default() }).is_empty());
    assert!(read(Query { since: Some(at(1000)), ..Query::default() }).is_empty());
}

#[test]
fn what_is_no_line_is_skipped_and_counted() {
    let store = Store::of(8 << 20);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    log.append(&source.alert("1", at(1)), at(1));
    let segment = store.segments("a").remove(0);
    let good = fs::read(&segment).unwrap();
    let huge = vec![b'x'; 3 << 20];
    let mut bytes = Vec::new();
    for part in
        [&good[..], b"{\"time\":\n", b"\n", b"\xff\xfe\n", b"null\n", &huge, b"\n", &good, &good[..20]]
    {
        bytes.extend(part);
    }
    fs::write(&segment, bytes).unwrap();
    let mut history = store.history(Query::default());
    let lines: Vec<_> = history.by_ref().map(|line| line.text).collect();
    let text = String::from_utf8(good).unwrap();
    assert_eq!(lines, [text.trim_end(), text.trim_end()]);
    assert_eq!(history.torn(), 5, "half a line, not text, no object, too long, cut short");
}

#[test]
fn what_a_later_version_wrote_is_a_line_as_well() {
    let store = Store::of(1 << 20);
    store.log("a").append(&Source::of("a").alert("1", at(1)), at(1));
    let segment = store.segments("a").remove(0);
    let text = fs::read_to_string(&segment).unwrap();
    let newer = text
        .replace("\"severity\":\"critical\"", "\"severity\":\"dire\",\"new\":[1]")
        .replace("\"kind\":\"enforcement\"", "\"kind\":\"mind_reading\"");
    assert_ne!(newer, text);
    fs::write(&segment, &newer).unwrap();
    let line = store.history(Query { min_severity: Some(Severity::Critical), ..Query::default() }).next();
    let line = line.unwrap();
    assert_eq!(line.text, newer.trim_end());
    assert!(line.output().is_none());
}

#[test]
fn a_line_that_comes_live_is_the_line_that_is_stored() {
    let store = Store::of(1 << 20);
    let output = Source::of("a").alert("1", at(1));
    store.log("a").append(&output, at(1));
    let stored = store.history(Query::default()).next().unwrap();
    assert_eq!(super::Line::of(&stored.output().unwrap()), Some(stored.clone()));
    assert_eq!(super::Line::of(&output), Some(stored));
}

#[test]
fn nothing_is_no_error() {
    let store = Store::of(1 << 20);
    assert!(store.read().is_empty());
    let history = History::open(&store.options.directory, Stream::Flows, Query::default()).unwrap();
    assert!(history.hidden().is_empty());
}
