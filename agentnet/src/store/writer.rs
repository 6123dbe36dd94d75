//! One engine's writing of one stream of one agent.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{
    Readers,
    access::{self, AccessError, Result, failed},
    append::append,
    segment::{self, Name},
    trouble::{Trouble, Unreported},
};

/// A segment ends when it is this old, so that retention by age has something to remove.
const SEGMENT_AGE: SignedDuration = SignedDuration::from_hours(24);

/// Locked by whoever writes in a directory. A file of its own and root's only: a reader could lock a
/// segment and keep it from being removed.
pub(super) const LOCK: &str = "lock";

/// Names that are tried for a new segment before something must be wrong.
const NAMES: usize = 16;

/// Appends the lines of one stream of one agent.
#[derive(Debug)]
pub(super) struct Writer {
    stream: PathBuf,
    directory: PathBuf,
    readers: Readers,
    segment_bytes: u64,
    /// Set when a segment ends: it is time to look at what is over the limits.
    due: Arc<AtomicBool>,
    /// Held while anything is written here.
    lock: Option<File>,
    open: Option<Open>,
    unreported: Unreported,
}

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    name: Name,
    identity: (u64, u64),
    length: u64,
    /// The last line has no end, because the disk was full.
    torn: bool,
}

impl Writer {
    /// A writer in the directory `agent` of that of a stream, neither of which needs to be there.
    pub(super) fn new(
        stream: PathBuf,
        agent: &Path,
        readers: Readers,
        segment_bytes: u64,
        due: Arc<AtomicBool>,
    ) -> Self {
        let directory = stream.join(agent);
        Self {
            stream,
            directory,
            readers,
            segment_bytes: segment_bytes.max(1),
            due,
            lock: None,
            open: None,
            unreported: Unreported::default(),
        }
    }

    /// Changes from the next segment on who may read and how large it becomes.
    pub(super) fn reconfigure(&mut self, readers: Readers, segment_bytes: u64) {
        self.segment_bytes = segment_bytes.max(1);
        if readers != self.readers {
            self.readers = readers;
            self.lock = None;
            self.open = None;
        }
    }

    /// The directory of the segments.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory, which appending does as well.
    pub(super) fn prepare(&mut self) -> Result<()> {
        if self.lock.is_none() {
            self.lock = Some(self.lock_directory()?);
        }
        Ok(())
    }

    /// Writes `line` as one line of JSON. What cannot be written is counted; the trouble comes back when it
    /// is time to say so.
    pub(super) fn append(&mut self, line: &impl Serialize, now: Timestamp) -> Option<Trouble> {
        if let Err(error) = self.write(line, now) {
            self.unreported.lost(error);
        }
        self.unreported.take(now, false)
    }

    /// The trouble that was not reported yet.
    pub(super) fn close(mut self, now: Timestamp) -> Option<Trouble> {
        self.unreported.take(now, true)
    }

    fn write(&mut self, line: &impl Serialize, now: Timestamp) -> Result<(), String> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        let needed = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if let Some(open) = &self.open
            && (open.is_over(needed, self.segment_bytes, now) || !open.is_in_place())
        {
            self.open = None;
            self.due.store(true, Ordering::Relaxed);
        }
        if self.open.is_none() {
            self.open = Some(self.begin(now).map_err(|error| error.to_string())?);
        }
        let Some(open) = &mut self.open else { return Err("no segment is open".to_owned()) };
        open.write(bytes).map_err(|error| format!("{}: {error}", open.path.display()))
    }

    /// Begins a segment that sorts behind all others, whatever the clock says.
    fn begin(&mut self, now: Timestamp) -> Result<Open> {
        self.prepare()?;
        let others = match segment::list(&self.directory) {
            Ok(others) if self.is_locked() => others,
            // Somebody has removed the directory.
            _ => {
                self.lock = Some(self.lock_directory()?);
                segment::list(&self.directory).map_err(failed(&self.directory))?
            }
        };
        let mut name = Name::at(now);
        if let Some(newest) = others.into_iter().max() {
            name = name.max(newest.next());
        }
        for _ in 0..NAMES {
            let path = segment::path(&self.directory, name);
            match access::segment(&path, self.readers) {
                Ok((file, refused)) => {
                    self.told(refused);
                    return Open::new(file, path, name);
                }
                Err(AccessError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {
                    name = name.next();
                }
                Err(error) => return Err(error),
            }
        }
        Err(failed(&self.directory)(io::ErrorKind::AlreadyExists.into()))
    }

    /// Takes the shared lock that keeps the directory and its newest segment from being removed.
    fn lock_directory(&mut self) -> Result<File> {
        let path = self.directory.join(LOCK);
        for _ in 0..NAMES {
            match access::agent_directory(&self.stream, &self.directory, self.readers) {
                Ok((_directory, refused)) => self.told(refused),
                // Removed since it was made: nothing was in it yet.
                Err(AccessError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let lock = match options.custom_flags(libc::O_NOFOLLOW).open(&path) {
                // Removed since it was made.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(failed(&path))?,
            };
            lock.lock_shared().map_err(failed(&path))?;
            // Whoever removes an empty directory holds the lock for that time.
            if is_at(&lock, &path) {
                return Ok(lock);
            }
        }
        Err(failed(&path)(io::ErrorKind::ResourceBusy.into()))
    }

    fn is_locked(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| is_at(lock, &self.directory.join(LOCK)))
    }

    fn told(&mut self, refused: Option<AccessError>) {
        if let Some(error) = refused {
            self.unreported.disorder(format!("readers get no access to {error}"));
        }
    }
}

impl Open {
    fn new(file: File, path: PathBuf, name: Name) -> Result<Self> {
        let metadata = file.metadata().map_err(failed(&path))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { file, path, name, identity, length: 0, torn: false })
    }

    fn is_over(&self, needed: u64, limit: u64, now: Timestamp) -> bool {
        let old = now.duration_since(self.name.time()) >= SEGMENT_AGE;
        self.length > 0 && (old || self.length.saturating_add(needed) > limit)
    }

    /// Whether nobody has removed or moved it.
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    fn write(&mut self, line: Vec<u8>) -> io::Result<()> {
        let written = append(&self.file, line, &mut self.torn)?;
        self.length += u64::try_from(written).unwrap_or(0);
        Ok(())
    }
}

/// Whether `path` is the name of an open file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}
