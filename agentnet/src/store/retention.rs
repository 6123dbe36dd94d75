//! Removing what is over the limits, oldest first.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use super::{
    Limits,
    segment::{self, Name},
    writer::{LOCK, is_at},
};

/// Least that a segment counts for, as it takes a block on disk however short it is: so the limit on bytes
/// bounds the number of files as well.
const BLOCK: u64 = 4096;

/// A segment that may be removed.
#[derive(Debug)]
struct Candidate {
    agent: usize,
    name: Name,
    bytes: u64,
    written: Timestamp,
}

/// The directory of an agent.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    bytes: u64,
    segments: usize,
    /// Held if nobody writes here; nobody begins to while it is.
    unused: Option<File>,
}

/// Removes from the directory of a stream what is older than the limits allow, then the oldest of what is
/// more, and directories with nothing left in them. An agent that fills more than half of the room loses
/// its own first: what an agent does must not wash out what was written about the others.
///
/// Returns how many segments were removed.
///
/// # Errors
/// With the first that could not be removed, after all others were.
pub fn sweep(stream: &Path, limits: Limits, now: Timestamp) -> io::Result<usize> {
    let mut failure = None;
    let mut directories = Vec::new();
    let mut candidates = Vec::new();
    for agent in segment::agents(stream)? {
        match look(&stream.join(agent), directories.len(), &mut candidates) {
            Ok(directory) => directories.push(directory),
            // Another engine may have been quicker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    candidates.sort_by_key(|candidate| (candidate.written, candidate.name));
    let mut total: u64 = directories.iter().map(|directory| directory.bytes).sum();
    let mut removed = 0;
    let mut remove = |candidate: &Candidate, directories: &mut [Directory], total: &mut u64| {
        let Some(directory) = directories.get_mut(candidate.agent) else { return };
        match fs::remove_file(segment::path(&directory.path, candidate.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => failure = failure.take().or(Some(error)),
            // Gone already is as good.
            _ => {
                removed += 1;
                directory.segments -= 1;
                directory.bytes = directory.bytes.saturating_sub(candidate.bytes);
                *total = total.saturating_sub(candidate.bytes);
            }
        }
    };
    candidates.retain(|candidate| {
        let old = now.duration_since(candidate.written) > limits.age;
        if old {
            remove(candidate, &mut directories, &mut total);
        }
        !old
    });
    candidates.retain(|candidate| {
        let greedy = directories
            .get(candidate.agent)
            .is_some_and(|directory| total > limits.bytes && directory.bytes > limits.bytes / 2);
        if greedy {
            remove(candidate, &mut directories, &mut total);
        }
        !greedy
    });
    for candidate in &candidates {
        if total <= limits.bytes {
            break;
        }
        remove(candidate, &mut directories, &mut total);
    }
    for directory in directories {
        if directory.segments == 0 && directory.unused.is_some() {
            // Refused while somebody keeps something else in it, which is then theirs.
            let _ = fs::remove_file(directory.path.join(LOCK)).and_then(|()| fs::remove_dir(&directory.path));
        }
    }
    failure.map_or(Ok(removed), Err)
}

/// Adds what may be removed of an agent's directory to `candidates`.
fn look(path: &Path, agent: usize, candidates: &mut Vec<Candidate>) -> io::Result<Directory> {
    let unused = lock(&path.join(LOCK))?;
    let mut names = segment::list(path)?;
    names.sort();
    let newest = names.last().copied();
    let (mut bytes, mut segments) = (0, 0);
    for name in names {
        let metadata = match fs::symlink_metadata(segment::path(path, name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let size = metadata.len().next_multiple_of(BLOCK).max(BLOCK);
        bytes += size;
        segments += 1;
        if unused.is_some() || Some(name) != newest {
            let written = Timestamp::from_second(metadata.mtime()).unwrap_or(name.time());
            candidates.push(Candidate { agent, name, bytes: size, written });
        }
    }
    Ok(Directory { path: path.to_owned(), bytes, segments, unused })
}

/// The lock of a directory, unless somebody writes there.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = options.custom_flags(libc::O_NOFOLLOW).open(path)?;
    match lock.try_lock() {
        // Somebody has removed the directory, and somebody else perhaps made it again.
        Ok(()) => Ok(is_at(&lock, path).then_some(lock)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}
