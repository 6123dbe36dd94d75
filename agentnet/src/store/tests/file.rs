//! A file of the user's on a real file system.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::store::file::{AppendFile, FileError};

fn at(seconds: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("alerts.jsonl");
    (dir, path)
}

fn lines(path: &Path) -> Vec<u32> {
    fs::read_to_string(path).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn lines_are_appended_and_others_may_not_read_them() {
    let (_dir, path) = place();
    for number in [1_u32, 2] {
        let mut log = AppendFile::open(&path).unwrap();
        assert_eq!(log.append(&number, at(0)), None);
    }
    assert_eq!(lines(&path), [1, 2]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
}

#[test]
fn a_full_disk_is_counted_and_said_once_a_minute() {
    let mut log = AppendFile::open(Path::new("/dev/full")).unwrap();
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
    let mut log = AppendFile::open(&path).unwrap();
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
    let mut log = AppendFile::open(&path).unwrap();
    assert_eq!(log.append(&2, at(0)), None);
    assert_eq!(log.append(&3, at(0)), None);
    assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"to\n2\n3\n");
}

#[test]
fn a_file_that_was_rotated_or_removed_by_others_is_made_again() {
    let (_dir, path) = place();
    let mut log = AppendFile::open(&path).unwrap();
    assert_eq!(log.append(&1, at(0)), None);
    let moved = path.with_extension("moved");
    fs::rename(&path, &moved).unwrap();
    assert_eq!(log.append(&2, at(0)), None);
    fs::remove_file(&path).unwrap();
    assert_eq!(log.append(&3, at(0)), None);
    assert_eq!((lines(&moved), lines(&path)), (vec![1], vec![3]));
}

#[test]
fn what_is_not_a_file_of_its_own_is_refused() {
    let (dir, path) = place();
    let other = dir.path().join("other");
    fs::write(&other, "").unwrap();
    symlink(&other, &path).unwrap();
    assert!(matches!(AppendFile::open(&path), Err(FileError::Link { .. })));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&other, &path).unwrap();
    assert!(matches!(AppendFile::open(&path), Err(FileError::Shared { .. })));
    assert!(matches!(AppendFile::open(dir.path()), Err(FileError::NotAFile { .. })));
    let socket = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(AppendFile::open(&socket), Err(FileError::NotAFile { .. })));
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(AppendFile::open(&pipe), Err(FileError::NotAFile { .. })));
    let missing = dir.path().join("missing").join("alerts.jsonl");
    let error = AppendFile::open(&missing).unwrap_err().to_string();
    assert!(error.contains("No such file") && error.contains("--alerts"), "{error}");
}
