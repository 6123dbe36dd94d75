//! A file of the user's that lines are appended to, `agentnet run --alerts FILE`. It is the user's to rotate.

use std::{
    fs::{File, Metadata, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    append::append,
    trouble::{Trouble, Unreported},
};

/// Read and write for the owner, read for the group.
const MODE: u32 = 0o640;

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is a link: what it points to is somebody else's choice.
    #[error("{} is a symbolic link, which is not followed; name the file itself", path.display())]
    Link {
        /// The file.
        path: PathBuf,
    },
    /// It is a directory, a pipe, a socket or a block device.
    #[error("{} is not a regular file; name a file, or `-` for the terminal", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It has a second name, through which something else would be written.
    #[error("{} is a hard link to a file that has other names too; name a file of its own", path.display())]
    Shared {
        /// The file.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot write alerts to {}: {source}; name another file with --alerts", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Appends lines. Several processes may append to one file: each line is one write.
#[derive(Debug)]
pub struct AppendFile {
    path: PathBuf,
    open: Option<Open>,
    unreported: Unreported,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// The last line has no end, because the disk was full or the machine stopped.
    torn: bool,
}

impl AppendFile {
    /// Opens the file at `path`, made if it is not there.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let open = Open::new(path)?;
        Ok(Self { path: path.to_owned(), open: Some(open), unreported: Unreported::default() })
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `line` as one line of JSON. What cannot be written is counted; the trouble comes back when it
    /// is time to say so.
    pub fn append(&mut self, line: &impl Serialize, now: Timestamp) -> Option<Trouble> {
        if let Err(error) = self.write(line) {
            self.unreported.lost(error);
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
        self.reopen_if_moved().map_err(|error| error.to_string())?;
        let open = self.open.as_mut().ok_or_else(|| "the file is not open".to_owned())?;
        append(&open.file, bytes, &mut open.torn).map(drop).map_err(|error| error.to_string())
    }

    /// Somebody else rotated or removed the file: go on in the one that now has the name.
    fn reopen_if_moved(&mut self) -> Result<(), FileError> {
        if self.open.as_ref().is_some_and(|open| open.is_at(&self.path)) {
            return Ok(());
        }
        self.open = None;
        self.open = Some(Open::new(&self.path)?);
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> Result<Self, FileError> {
        let io = |source| FileError::Io { path: path.to_owned(), source };
        let mut how = OpenOptions::new();
        // Not blocking: to open a pipe nobody reads must fail, not wait.
        how.read(true)
            .append(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
        // Not made at the first try: a sticky directory refuses root an existing file of somebody else's then.
        let opened = match how.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => how.create(true).open(path),
            opened => opened,
        };
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => FileError::Link { path: path.to_owned() },
            Some(libc::EISDIR | libc::ENXIO) => FileError::NotAFile { path: path.to_owned() },
            _ => io(error),
        })?;
        let metadata = file.metadata().map_err(io)?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_char_device() {
            return Err(FileError::NotAFile { path: path.to_owned() });
        }
        if kind.is_file() && metadata.nlink() > 1 {
            return Err(FileError::Shared { path: path.to_owned() });
        }
        let length = if kind.is_file() { metadata.len() } else { 0 };
        let torn = length > 0 && {
            let mut last = [0];
            file.read_exact_at(&mut last, length - 1).map_err(io)?;
            last != *b"\n"
        };
        let (device, inode) = identity(&metadata);
        Ok(Self { file, device, inode, torn })
    }

    /// Whether the file still has this name.
    fn is_at(&self, path: &Path) -> bool {
        std::fs::symlink_metadata(path).is_ok_and(|metadata| identity(&metadata) == (self.device, self.inode))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}
