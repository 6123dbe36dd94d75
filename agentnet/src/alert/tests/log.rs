//! The log on a real file system.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::super::log::{Log, LogError, Options, Trouble};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alerts.jsonl");
    (dir, path)
}

fn small() -> Options {
    Options { total_bytes: 300, segments: 3, group: None }
}

fn lines(path: &Path) -> Vec<u32> {
    fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn lines_are_appended_and_others_may_not_read_them() {
    let (_dir, path) = place();
    for number in [1_u32, 2] {
        let mut log = Log::open(&path, Options::default()).unwrap();
        assert_eq!(log.append(&number, at(0)), None);
    }
    assert_eq!(lines(&path), [1, 2]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
}

#[test]
fn the_newest_segments_stay_within_the_total() {
    let (dir, path) = place();
    let mut log = Log::open(&path, small()).unwrap();
    for number in 1000_u32..1200 {
        assert_eq!(log.append(&number, at(0)), None);
    }
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["alerts.jsonl", "alerts.jsonl.1", "alerts.jsonl.2"]);
    let mut kept = Vec::new();
    let mut bytes = 0;
    for name in names.iter().rev() {
        bytes += fs::metadata(dir.path().join(name)).unwrap().len();
        kept.extend(lines(&dir.path().join(name)));
    }
    assert!(bytes <= 300, "{bytes} bytes");
    assert!(kept.len() >= 40, "{} lines", kept.len());
    let last: Vec<u32> = (1000..1200).collect();
    assert_eq!(kept, last[last.len() - kept.len()..]);
}

#[test]
fn a_full_disk_is_counted_and_said_once_a_minute() {
    let mut log = Log::open(Path::new("/dev/full"), Options::default()).unwrap();
    let trouble = log.append(&1, at(0)).unwrap();
    assert_eq!(trouble.lost, 1);
    assert!(trouble.error.contains("No space left"), "{}", trouble.error);
    for second in 1..60 {
        assert_eq!(log.append(&1, at(second)), None);
    }
    assert_eq!(log.append(&1, at(60)).map(|trouble| trouble.lost), Some(60));
    assert_eq!(log.append(&1, at(61)), None);
    assert_eq!(log.close(at(61)).map(|trouble| trouble.lost), Some(1));
}

#[test]
fn trouble_that_has_passed_leaves_nothing_behind() {
    let (_dir, path) = place();
    let mut log = Log::open(&path, Options::default()).unwrap();
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).unwrap();
    fs::create_dir(&path).unwrap();
    let trouble = log.append(&1, at(0)).unwrap();
    assert!(trouble.error.contains("not a regular file"), "{}", trouble.error);
    fs::remove_dir(&path).unwrap();
    assert_eq!(log.append(&2, at(100)), None);
    assert_eq!(lines(&path), [2]);
    assert_eq!(log.close(at(100)), None);
}

#[test]
fn after_a_torn_line_the_next_one_begins_on_its_own() {
    let (_dir, path) = place();
    fs::write(&path, "1\n{\"to").unwrap();
    let mut log = Log::open(&path, Options::default()).unwrap();
    assert_eq!(log.append(&2, at(0)), None);
    assert_eq!(log.append(&3, at(0)), None);
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"to\n2\n3\n");
}

#[test]
fn a_file_that_was_rotated_or_removed_by_others_is_made_again() {
    let (_dir, path) = place();
    let mut log = Log::open(&path, Options::default()).unwrap();
    assert_eq!(log.append(&1, at(0)), None);
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).unwrap();
    assert_eq!(log.append(&2, at(0)), None);
    fs::remove_file(&path).unwrap();
    assert_eq!(log.append(&3, at(0)), None);
    assert_eq!((lines(&moved), lines(&path)), (vec![1], vec![3]));
}

#[test]
fn a_rotation_that_fails_keeps_the_lines_and_says_so() {
    let (_dir, path) = place();
    let mut log = Log::open(&path, small()).unwrap();
    // A directory that is not empty can be neither replaced nor removed by a rename.
    let in_the_way = path.with_extension("jsonl.2");
    fs::create_dir(&in_the_way).unwrap();
    fs::write(in_the_way.join("file"), "").unwrap();
    fs::write(path.with_extension("jsonl.1"), "").unwrap();
    let troubles: Vec<Trouble> = (1000_u32..1100).filter_map(|number| log.append(&number, at(0))).collect();
    assert_eq!(troubles.len(), 1);
    assert!(troubles[0].error.contains("cannot rotate"), "{}", troubles[0].error);
    let kept = lines(&path);
    assert_eq!(kept, (1000..1060).collect::<Vec<_>>(), "as many as the total allows");
    assert_eq!(log.close(at(1)).map(|trouble| trouble.lost), Some(40));
}

#[test]
fn what_is_not_a_file_of_its_own_is_refused() {
    let (dir, path) = place();
    let other = dir.path().join("other");
    fs::write(&other, "").unwrap();
    symlink(&other, &path).unwrap();
    assert!(matches!(Log::open(&path, small()), Err(LogError::Link { .. })));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&other, &path).unwrap();
    assert!(matches!(Log::open(&path, small()), Err(LogError::Shared { .. })));
    assert!(matches!(Log::open(dir.path(), small()), Err(LogError::NotAFile { .. })));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(Log::open(&socket, small()), Err(LogError::NotAFile { .. })));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(Log::open(&pipe, small()), Err(LogError::NotAFile { .. })));
    let missing = dir.path().join("missing").join("alerts.jsonl");
    let error = Log::open(&missing, small()).unwrap_err().to_string();
    assert!(error.contains("No such file") && error.contains("--alerts"), "{error}");
}
