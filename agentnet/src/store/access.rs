//! Directories and files that root alone writes and a few may read.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{XattrFlags, fsetxattr};

use super::Readers;

/// Mode of a stream's directory. It tells the names of agents, which the registry tells as well.
const STREAM_MODE: u32 = 0o755;
/// Mode of an agent's directory.
const AGENT_MODE: u32 = 0o750;
/// Mode of a segment.
const SEGMENT_MODE: u32 = 0o640;

/// Why a directory or file is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It belongs to somebody else, or somebody else may write to it.
    #[error(
        "{} can be changed by others than its owner (owner {uid}, mode {mode:o}); remove it or take their \
         rights away",
        path.display()
    )]
    Unsafe {
        /// What it is.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its mode.
        mode: u32,
    },
    /// The system refuses.
    #[error("{}: {error}", path.display())]
    Io {
        /// What was to be used.
        path: PathBuf,
        /// Why it cannot be.
        #[source]
        error: io::Error,
    },
}

pub(super) type Result<T, E = AccessError> = std::result::Result<T, E>;

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> AccessError {
    move |error| AccessError::Io { path: path.to_owned(), error }
}

/// Opens the directory `agent` in that of a stream, both made if they are not there, and gives it to
/// `readers`. That they cannot be given their rights is the second result.
pub(super) fn agent_directory(
    stream: &Path,
    agent: &Path,
    readers: Readers,
) -> Result<(File, Option<AccessError>)> {
    if let Some(store) = stream.parent() {
        DirBuilder::new().recursive(true).mode(STREAM_MODE).create(store).map_err(failed(store))?;
    }
    directory(stream, STREAM_MODE)?;
    let directory = directory(agent, AGENT_MODE)?;
    let refused = give(&directory, AGENT_MODE, readers).map_err(failed(agent)).err();
    Ok((directory, refused))
}

fn directory(path: &Path, mode: u32) -> Result<File> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(path)(error)),
        _ => {}
    }
    // A link to elsewhere is not followed, so that what is made in it is where it seems to be.
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let directory = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed(path))?;
    let metadata = directory.metadata().map_err(failed(path))?;
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if uid != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(AccessError::Unsafe { path: path.to_owned(), uid, mode });
    }
    Ok(directory)
}

/// Makes the segment at `path`, which must not exist, for `readers` to read. That they cannot be given
/// their rights is the second result.
pub(super) fn segment(path: &Path, readers: Readers) -> Result<(File, Option<AccessError>)> {
    let file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(SEGMENT_MODE)
        .open(path)
        .map_err(failed(path))?;
    let refused = give(&file, SEGMENT_MODE, readers).map_err(failed(path)).err();
    Ok((file, refused))
}

/// Sets who may read `file`; nobody but its owner may write.
fn give(file: &File, mode: u32, readers: Readers) -> io::Result<()> {
    if readers.group.is_some() {
        std::os::unix::fs::fchown(file, None, readers.group)?;
    }
    // The umask of whoever started the engine has no say.
    file.set_permissions(Permissions::from_mode(mode))?;
    match readers.user {
        Some(uid) if uid != rustix::process::geteuid().as_raw() => allow_user(file, uid, mode),
        _ => Ok(()),
    }
}

/// Adds the user `uid` with the rights of the group to a file with this mode.
///
/// By an access control list (acl(5)) and not by the file's group: whoever shares a primary group with the
/// user, such as `users` on some systems, is not to read what that user's agents did.
fn allow_user(file: impl AsFd, uid: u32, mode: u32) -> io::Result<()> {
    // include/uapi/linux/posix_acl.h and posix_acl_xattr.h
    const VERSION: u32 = 2;
    const USER_OBJ: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    const NOBODY_IN_PARTICULAR: u32 = u32::MAX;
    let rights = |shift: u32| u16::try_from((mode >> shift) & 7).unwrap_or(0);
    let entries = [
        (USER_OBJ, rights(6), NOBODY_IN_PARTICULAR),
        (USER, rights(3), uid),
        (GROUP_OBJ, rights(3), NOBODY_IN_PARTICULAR),
        (MASK, rights(3), NOBODY_IN_PARTICULAR),
        (OTHER, rights(0), NOBODY_IN_PARTICULAR),
    ];
    let mut list = VERSION.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(rights.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    Ok(fsetxattr(file, "system.posix_acl_access", &list, XattrFlags::empty())?)
}
