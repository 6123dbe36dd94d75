//! Ways to get bytes into a connection that nobody has judged.

use std::{
    fs::File,
    io::{self, Write as _},
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::fs::sendfile;
use serde::{Deserialize, Serialize};

use super::script::Failed;
use crate::sys::{self, RawAddr};

/// One of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// A connection that says `first`, is let go, and made anew from the same socket to say `then`.
    Again {
        /// Where to at first.
        before: SocketAddr,
        /// What is said there.
        first: Vec<u8>,
        /// Where to then.
        to: SocketAddr,
        /// What is said there.
        then: Vec<u8>,
    },
    /// Pages of a file, whose bytes change from those of `one` to those of `other` and back all the time, over as many
    /// connections.
    Flipped {
        /// Where to.
        to: SocketAddr,
        /// As long as the other.
        one: Vec<u8>,
        /// See there.
        other: Vec<u8>,
        /// How many.
        rounds: usize,
    },
    /// Pages of a pipe.
    Spliced {
        /// Where to.
        to: SocketAddr,
        /// What is in them.
        message: Vec<u8>,
    },
    /// Data in the first packet.
    Fast {
        /// Where to.
        to: SocketAddr,
        /// The data.
        message: Vec<u8>,
    },
    /// Writes, and writes again although that was refused; the errors of both calls in a byte each.
    Twice {
        /// Where to.
        to: SocketAddr,
        /// What is refused.
        first: Vec<u8>,
        /// What is not, by itself.
        then: Vec<u8>,
    },
}

impl Stream {
    /// Carries it out; what came back of it.
    pub(super) fn run(&self) -> Result<Vec<u8>, Failed> {
        match self {
            Self::Again { before, first, to, then } => {
                let fd = connected(*before)?;
                sys::send(&fd, first, 0).map_err(|error| ("first", error))?;
                answer(&fd, first.len())?;
                let nowhere = RawAddr::from_bytes(&[0; 16]);
                sys::connect(&fd, nowhere).map_err(|error| ("disconnect", error))?;
                sys::connect(&fd, *to).map_err(|error| ("connect", error))?;
                sys::send(&fd, then, 0).map_err(|error| ("send", error))?;
                answer(&fd, then.len())
            }
            Self::Flipped { to, one, other, rounds } => flipped(*to, one, other, *rounds),
            Self::Spliced { to, message } => {
                let fd = connected(*to)?;
                let of = |error: rustix::io::Errno| ("splice", io::Error::from(error));
                let (reader, writer) = rustix::pipe::pipe().map_err(of)?;
                let length = rustix::io::write(&writer, message).map_err(of)?;
                let flags = rustix::pipe::SpliceFlags::empty();
                rustix::pipe::splice(&reader, None, &fd, None, length, flags).map_err(of)?;
                answer(&fd, message.len())
            }
            Self::Fast { to, message } => {
                let fd = tcp(*to)?;
                sys::send_to(&fd, message, libc::MSG_FASTOPEN, *to).map_err(|error| ("send", error))?;
                answer(&fd, message.len())
            }
            Self::Twice { to, first, then } => {
                let fd = connected(*to)?;
                let mut errors = Vec::new();
                for message in [first, then] {
                    let errno = sys::send(&fd, message, 0).err().and_then(|error| error.raw_os_error());
                    errors.push(u8::try_from(errno.unwrap_or(0)).unwrap_or(u8::MAX));
                }
                Ok(errors)
            }
        }
    }
}

fn tcp(to: SocketAddr) -> Result<OwnedFd, Failed> {
    sys::socket(sys::family(to), libc::SOCK_STREAM, libc::IPPROTO_TCP).map_err(|error| ("socket", error))
}

fn connected(to: SocketAddr) -> Result<OwnedFd, Failed> {
    let fd = tcp(to)?;
    sys::connect(&fd, to).map_err(|error| ("connect", error))?;
    Ok(fd)
}

/// So many bytes of an echo.
fn answer(fd: &OwnedFd, bytes: usize) -> Result<Vec<u8>, Failed> {
    let mut back = vec![0; bytes];
    let mut have = 0;
    while have < bytes {
        match sys::receive(fd, &mut back[have..]).map_err(|error| ("recv", error))? {
            0 => return Err(("recv", io::ErrorKind::UnexpectedEof.into())),
            length => have += length,
        }
    }
    Ok(back)
}

/// How many rounds were refused, in two bytes.
fn flipped(to: SocketAddr, one: &[u8], other: &[u8], rounds: usize) -> Result<Vec<u8>, Failed> {
    let of = |error: rustix::io::Errno| ("map", io::Error::from(error));
    let memory = rustix::fs::memfd_create("flipped", rustix::fs::MemfdFlags::CLOEXEC).map_err(of)?;
    let mut file = File::from(memory);
    file.write_all(one).map_err(|error| ("write", error))?;
    // SAFETY: a new mapping of a file that is as long.
    let place = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            one.len(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if place == libc::MAP_FAILED {
        return Err(("map", io::Error::last_os_error()));
    }
    let address = place as usize;
    let stop = AtomicBool::new(false);
    let mut refused = 0_u16;
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            let place = address as *mut u8;
            while !stop.load(Ordering::Relaxed) {
                for bytes in [other, one] {
                    // SAFETY: the mapping has room for as many bytes, and lives until this thread has ended.
                    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len()) };
                }
            }
        });
        let result = (0..rounds).try_for_each(|_| {
            let fd = connected(to)?;
            let mut offset = 0;
            let sent = sendfile(&fd, &file, Some(&mut offset), one.len());
            refused += u16::from(sent.is_err());
            // What was taken has come back when the other end has it.
            if sent.is_ok() { answer(&fd, one.len()).map(drop) } else { Ok(()) }
        });
        stop.store(true, Ordering::Relaxed);
        result
    });
    // SAFETY: nobody uses the mapping any more.
    unsafe { libc::munmap(place, one.len()) };
    result.map(|()| refused.to_be_bytes().to_vec())
}
