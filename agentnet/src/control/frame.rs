//! Frames: a length (`u32`, little endian) and that many bytes of JSON. The first byte of a frame may carry
//! a file descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, Interest},
    net::UnixStream as AsyncStream,
};

/// Most bytes of JSON in a frame. The largest thing sent is a policy file.
pub const MAX_BYTES: usize = 4 << 20;

const PREFIX_BYTES: usize = size_of::<u32>();

/// A frame that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The connection failed, or ended within a frame.
    #[error("the connection between agentnet and its engine failed: {0}")]
    Io(#[from] io::Error),
    /// The other side announces, or this side was to send, more than fits.
    #[error("a message of {0} bytes is more than the {MAX_BYTES} that agentnet and its engine exchange")]
    TooLong(usize),
    /// The other side speaks something else.
    #[error("agentnet and its engine do not understand each other ({0}); are they the same version?")]
    Json(#[from] serde_json::Error),
}

type Result<T, E = FrameError> = std::result::Result<T, E>;

/// The bytes of the frame that holds `message`.
///
/// # Errors
/// If it is longer than [`MAX_BYTES`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - PREFIX_BYTES;
    let prefix = u32::try_from(len).ok().filter(|_| len <= MAX_BYTES).ok_or(FrameError::TooLong(len))?;
    for (byte, value) in bytes.iter_mut().zip(prefix.to_le_bytes()) {
        *byte = value;
    }
    Ok(bytes)
}

/// How many bytes follow the length `prefix`.
fn length(prefix: [u8; PREFIX_BYTES]) -> Result<usize> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if len <= MAX_BYTES { Ok(len) } else { Err(FrameError::TooLong(len)) }
}

/// Writes a frame.
///
/// # Errors
/// If the connection fails or the message is too long.
pub fn write(mut to: impl Write, message: &impl Serialize) -> Result<()> {
    Ok(to.write_all(&encode(message)?)?)
}

/// Reads a frame; `None` if the other side closed the connection before one began.
///
/// # Errors
/// If the connection fails or ends within the frame, or if the frame is not what is expected.
pub fn read<T: DeserializeOwned>(mut from: impl Read) -> Result<Option<T>> {
    let mut prefix = [0; PREFIX_BYTES];
    let (first, rest) = prefix.split_at_mut(1);
    loop {
        match from.read(first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    from.read_exact(rest)?;
    finish_read(from, prefix).map(Some)
}

fn finish_read<T: DeserializeOwned>(mut from: impl Read, prefix: [u8; PREFIX_BYTES]) -> Result<T> {
    let mut body = vec![0; length(prefix)?];
    from.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

/// Like [`read`], without blocking. Not to be cancelled and called again: what it read is lost.
///
/// # Errors
/// As [`read`].
pub async fn read_async<T: DeserializeOwned>(mut from: impl AsyncRead + Unpin) -> Result<Option<T>> {
    let mut prefix = [0; PREFIX_BYTES];
    let (first, rest) = prefix.split_at_mut(1);
    if from.read(first).await? == 0 {
        return Ok(None);
    }
    from.read_exact(rest).await?;
    let mut body = vec![0; length(prefix)?];
    from.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}

/// Like [`read_with_fd`], without blocking; see [`read_async`].
///
/// # Errors
/// As [`read`].
pub async fn read_with_fd_async<T: DeserializeOwned>(
    from: &mut AsyncStream,
) -> Result<Option<(T, Option<OwnedFd>)>> {
    let Beginning { mut prefix, received, fd } = loop {
        from.readable().await?;
        match from.try_io(Interest::READABLE, || receive_with_fd(from.as_fd())) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => break received?,
        }
    };
    if received == 0 {
        return Ok(None);
    }
    from.read_exact(prefix.get_mut(received..).unwrap_or_default()).await?;
    let mut body = vec![0; length(prefix)?];
    from.read_exact(&mut body).await?;
    Ok(Some((serde_json::from_slice(&body)?, fd)))
}

/// Writes a frame that carries `fd`.
///
/// # Errors
/// As [`write()`].
pub fn write_with_fd(to: &UnixStream, message: &impl Serialize, fd: BorrowedFd<'_>) -> Result<()> {
    let bytes = encode(message)?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    // Never false: the space is measured for it.
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(to, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)
    })
    .map_err(io::Error::from)?;
    let mut stream = to;
    Ok(stream.write_all(bytes.get(sent..).unwrap_or_default())?)
}

/// Reads a frame and the descriptor it carries, if any; `None` as in [`read`].
///
/// # Errors
/// As [`read`].
pub fn read_with_fd<T: DeserializeOwned>(from: &UnixStream) -> Result<Option<(T, Option<OwnedFd>)>> {
    let Beginning { mut prefix, received, fd } = receive_with_fd(from.as_fd())?;
    if received == 0 {
        return Ok(None);
    }
    let mut stream = from;
    stream.read_exact(prefix.get_mut(received..).unwrap_or_default())?;
    Ok(Some((finish_read(stream, prefix)?, fd)))
}

/// The beginning of a frame: a prefix of which so many bytes came, and the descriptor they carry.
struct Beginning {
    prefix: [u8; PREFIX_BYTES],
    received: usize,
    fd: Option<OwnedFd>,
}

fn receive_with_fd(from: BorrowedFd<'_>) -> io::Result<Beginning> {
    let mut prefix = [0; PREFIX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(from, &mut [IoSliceMut::new(&mut prefix)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fd = ancillary.drain().find_map(|message| match message {
        // Whatever else came is closed when the iterator is dropped.
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(Beginning { prefix, received: received.bytes, fd })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt as _};

    use super::*;

    fn frame(len: u32, body: &[u8]) -> Vec<u8> {
        [&len.to_le_bytes(), body].concat()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        for text in ["", "a", "\u{0}ü\n"] {
            write(&mut bytes, &text).unwrap();
        }
        let mut from = bytes.as_slice();
        for text in ["", "a", "\u{0}ü\n"] {
            assert_eq!(read::<String>(&mut from).unwrap().as_deref(), Some(text));
        }
        assert_eq!(read::<String>(&mut from).unwrap(), None, "a clean end");
    }

    #[test]
    fn the_longest_frame_fits_and_one_byte_more_does_not() {
        let longest = "x".repeat(MAX_BYTES - 2);
        let bytes = encode(&longest).unwrap();
        assert_eq!(read::<String>(bytes.as_slice()).unwrap(), Some(longest.clone()));
        assert!(matches!(encode(&(longest + "x")), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        let huge = u32::try_from(MAX_BYTES).unwrap() + 1;
        // The announced length is refused before anything of that size is allocated.
        assert!(matches!(read::<String>(frame(huge, b"").as_slice()), Err(FrameError::TooLong(_))));
        assert!(matches!(read::<String>(frame(u32::MAX, b"").as_slice()), Err(FrameError::TooLong(_))));
        for malformed in [&b"\"a"[..], b"\xff\xff", b"7", b"", b"\"a\" \"b\""] {
            let bytes = frame(u32::try_from(malformed.len()).unwrap(), malformed);
            assert!(matches!(read::<String>(bytes.as_slice()), Err(FrameError::Json(_))), "{malformed:?}");
        }
    }

    #[tokio::test]
    async fn every_truncation_is_an_error_and_never_a_message() {
        let whole = encode(&"message").unwrap();
        for len in 1..whole.len() {
            let part = &whole[..len];
            assert!(matches!(read::<String>(part), Err(FrameError::Io(_))), "{len} bytes");
            assert!(matches!(read_async::<String>(part).await, Err(FrameError::Io(_))), "{len} bytes");
        }
        assert_eq!(read_async::<String>(&whole[..]).await.unwrap().as_deref(), Some("message"));
        assert_eq!(read_async::<String>(&[][..]).await.unwrap(), None);
    }

    #[test]
    fn a_descriptor_travels_with_its_frame() {
        let (left, right) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        write_with_fd(&left, &"with", file.as_fd()).unwrap();
        write(&left, &"without").unwrap();
        let (text, fd): (String, _) = read_with_fd(&right).unwrap().unwrap();
        let arrived = fs::File::from(fd.expect("a descriptor was sent"));
        assert_eq!(
            (text.as_str(), arrived.metadata().unwrap().ino()),
            ("with", file.metadata().unwrap().ino())
        );
        let (text, fd): (String, _) = read_with_fd(&right).unwrap().unwrap();
        assert_eq!((text.as_str(), fd.is_none()), ("without", true));
        drop(left);
        assert!(read_with_fd::<String>(&right).unwrap().is_none());
    }

    #[test]
    fn a_long_frame_with_a_descriptor_arrives_whole() {
        let (left, right) = UnixStream::pair().unwrap();
        let text = "x".repeat(MAX_BYTES - 2);
        std::thread::scope(|scope| {
            scope.spawn(|| write_with_fd(&left, &text, left.as_fd()).unwrap());
            let (arrived, fd): (String, _) = read_with_fd(&right).unwrap().unwrap();
            assert!(arrived == text && fd.is_some());
        });
    }
}
