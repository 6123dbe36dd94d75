//! How a client and the engine it has started find each other.
//!
//! sudo closes inherited descriptors and may put a terminal of its own in between, so no descriptor and no
//! pipe reaches the engine through it; a path does. The client listens on a socket in a directory of mode
//! 0700, the engine connects, each asks the kernel who the other is, and the directory is removed.

use std::{
    fs::Permissions,
    io,
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use super::peer::Peer;

/// Why the two did not meet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RendezvousError {
    /// There is no place for the socket.
    #[error("cannot make a socket in $XDG_RUNTIME_DIR, $TMPDIR or /tmp: {0}")]
    Listen(#[source] io::Error),
    /// The engine ended without having connected.
    #[error("the engine did not connect: {0}")]
    Accept(#[source] io::Error),
    /// The engine cannot reach the client's socket.
    #[error("cannot connect to the client at {}: {error}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Both are an agent, whose policy closes Unix sockets.
    #[error(
        "this process is under a policy itself, which closes Unix sockets to it; if it is to have agents of its own, add to \
         that policy: [local] unix = \"any\", or have a daemon and its socket in unix_allow"
    )]
    Governed,
    /// Somebody else connected.
    #[error("user {0} connected in the place of the engine, which is root")]
    NotRoot(u32),
    /// The client is not the user that started the engine.
    #[error("the client is user {client}, and the engine was started by user {starter}")]
    OtherUser {
        /// The client's user.
        client: u32,
        /// Who started the engine.
        starter: u32,
    },
}

/// The client's side.
#[derive(Debug)]
pub struct Rendezvous {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Rendezvous {
    /// Begins to listen.
    ///
    /// # Errors
    /// If no place for the socket can be found.
    pub fn open() -> Result<Self, RendezvousError> {
        // A path that does not fit into a socket address fails like one that cannot be written.
        let runtime =
            std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
        let places = runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp")]);
        let mut refusal = io::ErrorKind::NotFound.into();
        for place in places {
            match Self::open_in(&place) {
                Ok(rendezvous) => return Ok(rendezvous),
                Err(error) => refusal = error,
            }
        }
        Err(RendezvousError::Listen(refusal))
    }

    fn open_in(place: &Path) -> io::Result<Self> {
        let mut builder = tempfile::Builder::new();
        let directory =
            builder.prefix("agentnet-").permissions(Permissions::from_mode(0o700)).tempdir_in(place)?;
        let listener = UnixListener::bind(directory.path().join("engine"))?;
        Ok(Self { directory, listener })
    }

    /// The socket's path.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("engine")
    }

    /// Takes the connection of the engine, which is there already or does not come: the engine connects
    /// before the command that starts it returns.
    ///
    /// # Errors
    /// If there is none, or if it is not root's.
    pub fn accept(self) -> Result<UnixStream, RendezvousError> {
        let accepted = self.listener.set_nonblocking(true).and_then(|()| self.listener.accept());
        let (stream, _) = accepted.map_err(RendezvousError::Accept)?;
        let peer = Peer::of(&stream).map_err(RendezvousError::Accept)?;
        if peer.uid != 0 {
            return Err(RendezvousError::NotRoot(peer.uid));
        }
        stream.set_nonblocking(false).map_err(RendezvousError::Accept)?;
        Ok(stream)
    }
}

/// The engine's side: connects to a client, which must be user `starter`.
///
/// # Errors
/// If there is no such client, or if it is somebody else.
pub fn connect(path: &Path, starter: u32) -> Result<UnixStream, RendezvousError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EPERM) => RendezvousError::Governed,
        _ => RendezvousError::Connect { path: path.to_owned(), error },
    };
    let stream = UnixStream::connect(path).map_err(failed)?;
    let client = Peer::of(&stream).map_err(failed)?.uid;
    if client != starter {
        return Err(RendezvousError::OtherUser { client, starter });
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    #[test]
    fn both_sides_meet_and_leave_nothing() {
        let rendezvous = Rendezvous::open().unwrap();
        let path = rendezvous.path();
        let mode = path.parent().unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let mut engine = connect(&path, own_uid()).unwrap();
        let accepted = rendezvous.accept();
        assert!(!path.exists() && !path.parent().unwrap().exists());
        if own_uid() == 0 {
            engine.write_all(b"x").unwrap();
            assert_eq!(accepted.unwrap().read(&mut [0; 2]).unwrap(), 1);
        } else {
            assert!(matches!(accepted, Err(RendezvousError::NotRoot(_))));
        }
    }

    #[test]
    fn an_engine_that_does_not_come_is_not_waited_for() {
        assert!(matches!(Rendezvous::open().unwrap().accept(), Err(RendezvousError::Accept(_))));
    }

    #[test]
    fn a_client_of_another_user_is_refused() {
        let rendezvous = Rendezvous::open().unwrap();
        let refused = connect(&rendezvous.path(), own_uid() + 1);
        assert!(matches!(refused, Err(RendezvousError::OtherUser { .. })));
    }
}
