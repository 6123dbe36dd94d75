//! Writing.

use std::{fs, path::Path};

use super::{Source, Store, at, bytes};

#[test]
fn a_segment_ends_at_its_size_and_names_sort_by_time() {
    let store = Store::of(64 << 10);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    for number in 0..40 {
        assert_eq!(log.append(&source.alert(&number.to_string(), at(number)), at(number)), None);
    }
    let segments = store.segments("a");
    assert!(segments.len() > 3, "{segments:?}");
    for segment in &segments {
        assert!((1..=4 << 10).contains(&bytes(segment)), "{segment:?}: {} bytes", bytes(segment));
    }
    assert_eq!(store.read(), (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_segment_ends_after_a_day() {
    let store = Store::of(1 << 20);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    for (second, segments) in [(0, 1), (86_399, 1), (86_400, 2), (86_401, 2)] {
        log.append(&source.alert("x", at(second)), at(second));
        assert_eq!(store.segments("a").len(), segments, "after {second} s");
    }
}

#[test]
fn a_clock_that_is_set_back_changes_no_order_of_names() {
    let store = Store::of(1 << 20);
    for (number, second) in [5000, 100, 100, 90].into_iter().enumerate() {
        store.log("a").append(&Source::of("a").alert(&number.to_string(), at(second)), at(second));
    }
    let marks: Vec<_> = store
        .segments("a")
        .iter()
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            text.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned()
        })
        .collect();
    assert_eq!(marks, ["0", "1", "2", "3"]);
}

#[test]
fn a_torn_line_is_skipped_and_counted_and_the_next_engine_begins_on_its_own() {
    let store = Store::of(1 << 20);
    let mut source = Source::of("a");
    store.log("a").append(&source.alert("1", at(1)), at(1));
    let segment = store.segments("a").remove(0);
    let whole = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, format!("{whole}{}", &whole[..whole.len() / 2])).unwrap();
    store.log("a").append(&source.alert("2", at(2)), at(2));
    let mut history = store.history(super::Query::default());
    assert_eq!(history.by_ref().map(|line| super::mark(&line)).collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(history.torn(), 1);
}

#[test]
fn what_others_remove_is_made_again() {
    let store = Store::of(1 << 20);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    let mut append = |mark: &str, second| log.append(&source.alert(mark, at(second)), at(second));
    assert_eq!(append("1", 1), None);
    fs::remove_file(store.segments("a").remove(0)).unwrap();
    assert_eq!(append("2", 2), None);
    assert_eq!(store.read(), ["2"]);
    fs::remove_dir_all(&store.options.directory).unwrap();
    assert_eq!(append("3", 3), None);
    assert_eq!(store.read(), ["3"]);
    let moved = store.options.directory.with_extension("moved");
    fs::rename(&store.options.directory, moved).unwrap();
    assert_eq!(append("4", 4), None);
    assert_eq!(store.read(), ["4"]);
}

#[test]
fn trouble_is_counted_told_once_a_minute_and_passes_by_itself() {
    let store = Store::of(1 << 20);
    let (mut log, mut source) = (store.log("a"), Source::of("a"));
    let mut append = |second: i64| log.append(&source.alert(&second.to_string(), at(second)), at(second));
    // In the place of the directory.
    fs::write(&store.options.directory, "").unwrap();
    let trouble = append(0).unwrap();
    assert_eq!(trouble.lost, 1);
    assert!(trouble.error.contains(store.options.directory.to_str().unwrap()), "{}", trouble.error);
    for second in 1..60 {
        assert_eq!(append(second), None);
    }
    assert_eq!(append(60).map(|trouble| trouble.lost), Some(60));
    assert_eq!(append(61), None);
    fs::remove_file(&store.options.directory).unwrap();
    assert_eq!(append(120).map(|trouble| trouble.lost), Some(1), "what was lost before it passed");
    assert_eq!(append(200), None);
    assert_eq!(store.read(), ["120", "200"]);
}

#[test]
fn every_stream_has_a_directory_of_its_own() {
    let store = Store::of(1 << 20);
    let mut log = store.log("a");
    log.append(&Source::of("a").alert("1", at(1)), at(1));
    assert_eq!(log.directory(), store.directory("a"));
    log.prepare().unwrap();
    assert!(store.options.directory.join("flows").join("a").is_dir());
    assert!(log.close(at(2)).is_empty());
    assert!(Path::new(&store.options.directory).is_dir());
}
