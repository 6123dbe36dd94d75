//! The log: JSON lines in a file that is rotated by size.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{
        FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// Least time between two reports of trouble with the file.
pub const REPORT_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// Read and write for the owner, read for the group: the agent's own user must not edit what is said
/// about it.
const MODE: u32 = 0o640;

/// How much is kept, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes of all segments together.
    pub total_bytes: u64,
    /// Segments, the one being written included; at least 2.
    pub segments: u32,
    /// Group that may read new files; `None` leaves it to the system.
    pub group: Option<u32>,
}

impl Default for Options {
    /// 64 MiB in 8 segments.
    fn default() -> Self {
        Self { total_bytes: 64 << 20, segments: 8, group: None }
    }
}

impl Options {
    fn segment_bytes(&self) -> u64 {
        (self.total_bytes / u64::from(self.segments.max(2))).max(1)
    }
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is a link: what it points to is somebody else's choice.
    #[error("{} is a symbolic link, which is not followed; name the file itself", path.display())]
    Link {
        /// The log.
        path: PathBuf,
    },
    /// It is a directory, a pipe, a socket or a block device.
    #[error("{} is not a regular file; name a file, or `-` for the terminal", path.display())]
    NotAFile {
        /// The log.
        path: PathBuf,
    },
    /// It has a second name, through which something else would be written.
    #[error("{} is a hard link to a file that has other names too; name a file of its own", path.display())]
    Shared {
        /// The log.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot write alerts to {}: {source}; name another file with --alerts", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Trouble with the file, reported at most once every [`REPORT_INTERVAL`]. Nothing stops for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Lines that were not written since the last report.
    pub lost: u64,
    /// What the system said last.
    pub error: String,
}

/// Appends lines. Several processes may append to one file: each line is one write.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    options: Options,
    open: Option<Open>,
    unreported: Unreported,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    regular: bool,
    length: u64,
    /// The last line has no end, because the disk was full or the machine stopped.
    torn: bool,
}

#[derive(Debug, Default)]
struct Unreported {
    lost: u64,
    error: Option<String>,
    last: Option<Timestamp>,
}

impl Log {
    /// Opens the log at `path`, made if it is not there.
    ///
    /// # Errors
    /// See [`LogError`].
    pub fn open(path: &Path, options: Options) -> Result<Self, LogError> {
        let open = Open::new(path, &options)?;
        Ok(Self { path: path.to_owned(), options, open: Some(open), unreported: Unreported::default() })
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `line` as one line of JSON. What cannot be written is counted; the trouble comes back when it
    /// is time to say so.
    pub fn append(&mut self, line: &impl Serialize, now: Timestamp) -> Option<Trouble> {
        if let Err(error) = self.write(line) {
            self.unreported.lost += 1;
            self.unreported.error = Some(error);
        }
        self.unreported.take(now, false)
    }

    /// The trouble that was not reported yet.
    pub fn close(mut self, now: Timestamp) -> Option<Trouble> {
        self.unreported.take(now, true)
    }

    fn write(&mut self, line: &impl Serialize) -> Result<(), String> {
        let mut bytes = serde_json::to_vec(line).map_err(|error| error.to_string())?;
        bytes.push(b'\n');
        let needed = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.reopen_if_moved().map_err(|error| error.to_string())?;
        if self.open.as_ref().is_some_and(|open| open.is_over(needed, self.options.segment_bytes()))
            && let Err(error) = self.rotate()
        {
            // Evidence is worth more than the quota of one segment, not than the disk.
            self.unreported.error = Some(format!("cannot rotate: {error}"));
        }
        let open = self.open.as_mut().ok_or_else(|| "the file is not open".to_owned())?;
        if open.is_over(needed, self.options.total_bytes) {
            return Err("the log is full and cannot be rotated".to_owned());
        }
        open.write(&mut bytes).map_err(|error| error.to_string())
    }

    /// Somebody else rotated or removed the file: go on in the one that now has the name.
    fn reopen_if_moved(&mut self) -> Result<(), LogError> {
        if self.open.as_mut().is_some_and(|open| open.is_at(&self.path)) {
            return Ok(());
        }
        self.open = None;
        self.open = Some(Open::new(&self.path, &self.options)?);
        Ok(())
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2` and so on; the oldest goes.
    fn rotate(&mut self) -> Result<(), LogError> {
        for number in (1..self.options.segments.max(2) - 1).rev() {
            self.rename(&self.segment(number), &self.segment(number + 1))?;
        }
        self.rename(&self.path, &self.segment(1))?;
        self.open = None;
        self.open = Some(Open::new(&self.path, &self.options)?);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), LogError> {
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LogError::Io { path: self.path.clone(), source: error })
            }
            _ => Ok(()),
        }
    }

    fn segment(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

impl Open {
    fn new(path: &Path, options: &Options) -> Result<Self, LogError> {
        let io = |source| LogError::Io { path: path.to_owned(), source };
        let mut how = OpenOptions::new();
        // Not blocking: to open a pipe nobody reads must fail, not wait.
        how.read(true)
            .append(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        let (file, made) = match how.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = how.open(path).map_err(|error| match error.raw_os_error() {
                    Some(libc::ELOOP) => LogError::Link { path: path.to_owned() },
                    Some(libc::EISDIR | libc::ENXIO) => LogError::NotAFile { path: path.to_owned() },
                    _ => io(error),
                })?;
                (file, false)
            }
            Err(error) => return Err(io(error)),
        };
        let metadata = file.metadata().map_err(io)?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_char_device() {
            return Err(LogError::NotAFile { path: path.to_owned() });
        }
        if kind.is_file() && metadata.nlink() > 1 {
            return Err(LogError::Shared { path: path.to_owned() });
        }
        if made && options.group.is_some() {
            std::os::unix::fs::fchown(&file, None, options.group).map_err(io)?;
            file.set_permissions(std::fs::Permissions::from_mode(MODE)).map_err(io)?;
        }
        let length = if kind.is_file() { metadata.len() } else { 0 };
        let torn = length > 0 && {
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1).map_err(io)?;
            last != *b"\n"
        };
        let (device, inode) = identity(&metadata);
        Ok(Self { file, device, inode, regular: kind.is_file(), length, torn })
    }

    /// Whether the file still has this name; takes note of what others have appended.
    fn is_at(&mut self, path: &Path) -> bool {
        let Ok(metadata) = std::fs::symlink_metadata(path) else {
            return false;
        };
        self.length = metadata.len();
        identity(&metadata) == (self.device, self.inode)
    }

    fn is_over(&self, needed: u64, limit: u64) -> bool {
        self.regular && self.length > 0 && self.length.saturating_add(needed) > limit
    }

    fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if self.torn {
            bytes.insert(0, b'\n');
        }
        // One write and not `write_all`: the rest of a line would land behind another process's line.
        let written = loop {
            match self.file.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.torn = written < bytes.len() && (written > 0 || self.torn);
        if written < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on device"));
        }
        Ok(())
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Unreported {
    fn take(&mut self, now: Timestamp, all: bool) -> Option<Trouble> {
        // A clock that was set back does not silence the report.
        let waited = self.last.is_none_or(|last| now < last || now.duration_since(last) >= REPORT_INTERVAL);
        if !(waited || all) {
            return None;
        }
        let error = self.error.take()?;
        self.last = Some(now);
        Some(Trouble { lost: std::mem::take(&mut self.lost), error })
    }
}
