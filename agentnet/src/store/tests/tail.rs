//! Stored and live as one.

use std::io;

use super::{Query, Source, Store, Stream, Tail, at, mark, name};
use crate::{
    alert::model::Output,
    store::{
        follow::{Engine, Event},
        tail::Remark,
    },
};

/// A tail and what it has shown.
struct Shown {
    tail: Tail,
    marks: Vec<String>,
}

impl Shown {
    fn of(store: &Store, from: i64) -> Self {
        let tail = Tail::new(store.options.directory.clone(), Stream::Alerts, Query::default(), at(from));
        Self { tail, marks: Vec::new() }
    }

    fn on(&mut self, event: Event) -> Option<Remark> {
        let marks = &mut self.marks;
        self.tail
            .on(event, &mut |line| {
                marks.push(mark(line));
                Ok(())
            })
            .unwrap()
    }

    fn told(&mut self, output: Output) -> Option<Remark> {
        self.on(Event::Output(Engine::Daemon, Box::new(output)))
    }

    fn read_all(&mut self) {
        let marks = &mut self.marks;
        self.tail
            .read_all(&mut |line| {
                marks.push(mark(line));
                Ok(())
            })
            .unwrap();
    }

    /// What was shown since the last time.
    fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.marks)
    }
}

#[test]
fn what_is_stored_and_told_is_shown_once() {
    let store = Store::of(64 << 10);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    let mut write = |mark: &str, second| {
        let output = source.alert(mark, at(second));
        log.append(&output, at(second));
        output
    };
    let mut shown = Shown::of(&store, 10);
    write("before", 9);
    write("1", 10);
    let two = write("2", 11);
    shown.read_all();
    assert_eq!(shown.take(), ["1", "2"]);
    let three = write("3", 12);
    assert_eq!(shown.on(Event::Begun(Engine::Daemon, None)), None);
    assert_eq!(shown.take(), ["3"]);
    for late in [two, three] {
        assert_eq!(shown.told(late), None);
    }
    assert_eq!(shown.told(write("4", 13)), None);
    assert_eq!(shown.take(), ["4"]);
    let unwritten = Source::of("a").alert("5", at(14));
    shown.told(unwritten);
    assert_eq!(shown.take(), ["5"], "what the disk had no room for is told all the same");
}

#[test]
fn what_a_daemon_wrote_and_did_not_tell_is_read_when_it_dies_and_when_it_is_back() {
    let store = Store::of(64 << 10);
    let mut shown = Shown::of(&store, 0);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    let mut second = 0;
    let mut write = |mark: String| {
        second += 1;
        let output = source.alert(&mark, at(second));
        log.append(&output, at(second));
        output
    };
    assert_eq!(shown.on(Event::Begun(Engine::Daemon, None)), None);
    let mut expected = Vec::new();
    for round in 0..20 {
        // Segments end in between, at another line each time.
        for number in 0..round {
            let mark = format!("told {round}.{number}");
            let output = write(mark.clone());
            shown.told(output);
            expected.push(mark);
        }
        for number in 0..3 {
            let mark = format!("lost {round}.{number}");
            write(mark.clone());
            expected.push(mark);
        }
        assert_eq!(shown.on(Event::Gone(Engine::Daemon)), Some(Remark::Gone(Engine::Daemon)));
        write(format!("away {round}"));
        expected.push(format!("away {round}"));
        assert_eq!(shown.on(Event::Begun(Engine::Daemon, None)), Some(Remark::Back(Engine::Daemon, 1)));
        assert_eq!(shown.take(), std::mem::take(&mut expected));
    }
    assert!(store.segments("a").len() > 5);
}

#[test]
fn agents_that_nobody_told_of_are_read() {
    let store = Store::of(64 << 10);
    let mut shown = Shown::of(&store, 0);
    assert!(shown.tail.changed().is_empty());
    store.log("brief").append(&Source::of("brief").alert("1", at(1)), at(1));
    let changed = shown.tail.changed();
    assert_eq!(changed, [name("brief")]);
    let marks = &mut shown.marks;
    shown
        .tail
        .read_changed(changed, &mut |line| {
            marks.push(mark(line));
            Ok(())
        })
        .unwrap();
    assert_eq!(shown.take(), ["1"]);
    assert!(shown.tail.changed().is_empty());
}

#[test]
fn only_what_is_wanted_is_shown() {
    let store = Store::of(64 << 10);
    let mut shown = Shown::of(&store, 0);
    shown.tail = Tail::new(
        store.options.directory.clone(),
        Stream::Alerts,
        Query { agent: Some(name("a")), ..Query::default() },
        at(0),
    );
    let (mut log, mut source) = (store.log("b"), Source::of("b"));
    let other = source.alert("b", at(1));
    log.append(&other, at(1));
    shown.on(Event::Begun(Engine::Daemon, None));
    shown.told(other);
    shown.told(Source::of("a").alert("a", at(1)));
    assert_eq!(shown.take(), ["a"]);
}

#[test]
fn what_was_missed_is_said_and_a_screen_that_fails_is_not_ignored() {
    let store = Store::of(64 << 10);
    let mut shown = Shown::of(&store, 0);
    let missed = shown.on(Event::Missed(Engine::Daemon, 7));
    assert_eq!(missed, Some(Remark::Missed(Engine::Daemon, 7)));
    let output = Box::new(Source::of("a").alert("1", at(1)));
    let failed =
        shown.tail.on(Event::Output(Engine::Daemon, output), &mut |_| Err(io::ErrorKind::BrokenPipe.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}
