//! Appending whole lines.

use std::{fs::File, io};

use rustix::io::{Errno, retry_on_intr, write};

/// Writes `line`, which has its end, and returns how many bytes that took. `torn` says whether the last
/// line in the file has none, because the disk was full or the machine stopped: then it gets one first.
///
/// # Errors
/// If not all of it was written.
pub(super) fn append(file: &File, mut line: Vec<u8>, torn: &mut bool) -> io::Result<usize> {
    if *torn {
        line.insert(0, b'\n');
    }
    // One write and not `write_all`: the rest of a line would land behind another process's line.
    let written = retry_on_intr(|| write(file, &line))?;
    *torn = written < line.len() && (written > 0 || *torn);
    if written < line.len() { Err(Errno::NOSPC.into()) } else { Ok(written) }
}
