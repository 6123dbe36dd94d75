//! Removing.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;

use super::{Limits, Source, Store, Stream, at, bytes};
use crate::store::retention::sweep;

/// Makes a segment of an agent that nobody writes, last written at a time.
fn segment(store: &Store, agent: &str, second: i64, size: usize) {
    let mut source = Source::of(agent);
    store.log(agent).append(&source.alert("x", at(second)), at(second));
    let path = store.segments(agent).pop().unwrap();
    fs::write(&path, vec![b'\n'; size]).unwrap();
    set_time(&path, at(second));
}

fn set_time(path: &Path, time: Timestamp) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(time.as_nanosecond()).unwrap());
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn swept(store: &Store, limits: Limits, second: i64) -> usize {
    sweep(&Stream::Alerts.directory(&store.options.directory), limits, at(second)).unwrap()
}

#[test]
fn the_oldest_go_first_and_what_is_being_written_stays() {
    let store = Store::of(64 << 10);
    for (agent, second) in [("b", 10), ("a", 20), ("a", 30), ("b", 40), ("c", 50)] {
        segment(&store, agent, second, 4096);
    }
    let mut log = store.log("d");
    log.append(&Source::of("d").alert("written", at(5)), at(5));
    set_time(&store.segments("d")[0], at(5));

    let limits = |blocks: u64| Limits { bytes: blocks * 4096, ..store.options.alerts };
    assert_eq!(swept(&store, limits(6), 60), 0);
    assert_eq!(swept(&store, limits(4), 60), 2, "of 10 and of 20 seconds");
    let left = |agent| store.segments(agent).len();
    assert_eq!((left("a"), left("b"), left("c"), left("d")), (1, 1, 1, 1));
    assert_eq!(swept(&store, limits(0), 60), 3);
    assert_eq!((left("a"), left("b"), left("c"), left("d")), (0, 0, 0, 1));
    assert!(!store.directory("a").exists(), "an empty directory stays");
    drop(log);
    assert_eq!(swept(&store, limits(0), 60), 1);
    assert!(!store.directory("d").exists());
}

#[test]
fn one_agent_cannot_wash_out_what_was_written_about_the_others() {
    let store = Store::of(1 << 20);
    for second in 0..4 {
        segment(&store, "quiet", second, 4096);
    }
    for second in 10..40 {
        segment(&store, "loud", second, 4096);
    }
    let limits = Limits { bytes: 8 * 4096, ..store.options.alerts };
    swept(&store, limits, 60);
    assert_eq!((store.segments("quiet").len(), store.segments("loud").len()), (4, 4));
}

#[test]
fn what_is_too_old_goes() {
    let store = Store::of(1 << 20);
    let days = |days: i64| days * 86_400;
    segment(&store, "a", 0, 4096);
    segment(&store, "a", days(1), 4096);
    assert_eq!(swept(&store, store.options.alerts, days(10)), 0);
    assert_eq!(swept(&store, store.options.alerts, days(10) + 1), 1);
    assert_eq!(swept(&store, store.options.alerts, days(12)), 1);
    assert!(!store.directory("a").exists());
}

#[test]
fn short_segments_count_for_the_blocks_they_take() {
    let store = Store::of(1 << 20);
    for second in 0..20 {
        segment(&store, "a", second, 1);
    }
    swept(&store, Limits { bytes: 5 * 4096, ..store.options.alerts }, 60);
    assert!(store.segments("a").len() <= 5, "{} files", store.segments("a").len());
}

#[test]
fn what_is_not_ours_stays_and_hinders_nothing() {
    let store = Store::of(1 << 20);
    segment(&store, "a", 0, 4096);
    let notes = store.directory("a").join("notes.txt");
    fs::write(&notes, "mine").unwrap();
    let outside = store.options.directory.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("20261122T000000.000000001Z.jsonl"), "").unwrap();
    std::os::unix::fs::symlink(&outside, store.directory("link")).unwrap();
    assert_eq!(swept(&store, Limits { bytes: 0, ..store.options.alerts }, 60), 1);
    assert_eq!(bytes(&notes), 4);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "something was removed behind a link");
    segment(&store, "a", 70, 4096);
    assert_eq!(store.segments("a").len(), 1, "the directory is used again");
}

#[test]
fn engines_that_write_and_remove_at_the_same_time_lose_nothing_new() {
    let store = Store::of(64 << 10);
    std::thread::scope(|scope| {
        for agent in ["a", "b", "c"] {
            let store = &store;
            scope.spawn(move || {
                for round in 0..30 {
                    // A new engine each time: directories come and go.
                    let mut log = store.log(agent);
                    let mut source = Source::of(agent);
                    for number in 0..10 {
                        let now = at(round * 10 + number);
                        assert_eq!(log.append(&source.alert("x", now), now), None);
                        assert!(!store.segments(agent).is_empty(), "the segment being written is gone");
                    }
                    drop(log);
                    swept(store, Limits { bytes: 0, ..store.options.alerts }, 10_000);
                }
            });
        }
    });
    swept(&store, Limits { bytes: 0, ..store.options.alerts }, 10_000);
    assert_eq!(fs::read_dir(store.options.directory.join("alerts")).unwrap().count(), 0);
}
