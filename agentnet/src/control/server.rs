//! The side that answers. Tasks here only read and write; whoever owns the state answers, see [`Call`].
//!
//! A connection asks once and gets its answer. Two requests keep it open: [`Request::Run`], whose client says
//! later that its command has ended, and [`Request::Follow`].

mod places;

use std::{
    fs::{self, Permissions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            fs::{MetadataExt as _, PermissionsExt as _},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{interval, timeout},
};

use self::places::{Asked, Places};
use super::{
    caller::Caller,
    frame::{self, FrameError},
    outbox::{Outbox, Replies},
    protocol::{Failure, Reply, Request},
};

/// How long a peer may take to ask, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often is looked whether clients find the listener.
const LOOK: Duration = Duration::from_secs(1);

/// How long a follower may take nothing before it is given up. What it misses meanwhile is counted.
const FOLLOWER_PATIENCE: Duration = Duration::from_secs(60);

/// Something that a connection brings about.
#[derive(Debug)]
pub enum Call {
    /// Its first request.
    Asked {
        /// The connection.
        connection: u64,
        /// Who asks.
        caller: Arc<Caller>,
        /// What is asked.
        request: Request,
        /// What came along.
        fd: Option<OwnedFd>,
        /// Where answers go. The connection is closed when this is dropped.
        replies: Outbox,
    },
    /// What it says later.
    Said {
        /// The connection.
        connection: u64,
        /// What is asked.
        request: Request,
    },
    /// It is gone, or will not say anything more.
    Gone {
        /// The connection.
        connection: u64,
    },
}

/// Listens at `path`; who may connect is the mode's to say, who may ask what is not.
///
/// # Errors
/// If the socket cannot be made.
pub fn listen(path: &Path, owner: u32, mode: u32) -> io::Result<StdListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    std::os::unix::fs::chown(path, Some(owner), None)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// All connections of an engine.
#[derive(Debug)]
pub struct Server {
    calls: mpsc::Sender<Call>,
    tasks: JoinSet<()>,
    places: Places,
    next: u64,
    place: Option<Place>,
}

/// Where clients look for a listener.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), file: (found.dev(), found.ino()) })
    }

    /// Whether clients that look there find something else, or nothing.
    fn is_lost(&self) -> bool {
        Self::of(&self.path).map_or(true, |now| now.file != self.file)
    }
}

impl Server {
    /// Hands what connections ask to the receiver of `calls`.
    pub fn new(calls: mpsc::Sender<Call>) -> Self {
        Self { calls, tasks: JoinSet::new(), places: Places::default(), next: 0, place: None }
    }

    /// Ends when clients do not find it at `path` any more, where its listener must be.
    ///
    /// # Errors
    /// If it is not there.
    pub fn found_at(self, path: &Path) -> io::Result<Self> {
        Ok(Self { place: Some(Place::of(path)?), ..self })
    }

    /// Takes over a connection that has asked already: the client that started this engine.
    ///
    /// # Errors
    /// If it cannot be used without blocking.
    pub fn adopt(&mut self, stream: std::os::unix::net::UnixStream) -> io::Result<(u64, Outbox)> {
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let connection = self.number();
        let (outbox, replies) = Outbox::new();
        let calls = self.calls.clone();
        self.tasks.spawn(async move {
            told(session(stream, connection, replies, &calls).await);
        });
        Ok((connection, outbox))
    }

    /// Serves connections to `listener` until the receiver of calls is gone, or nobody can connect any more.
    pub async fn serve(mut self, listener: UnixListener) {
        let mut look = interval(LOOK);
        loop {
            tokio::select! {
                _ = look.tick() => if let Some(place) = self.place.as_ref().filter(|place| place.is_lost()) {
                    tracing::error!(path = %place.path.display(), "the control socket was removed, and nobody can connect any more");
                    break;
                },
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.accept(stream),
                    Err(error) if passes(&error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        // Out of descriptors, most likely; trying again at once would only burn time.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => {
                        tracing::error!(%error, "no connection can be accepted any more");
                        break;
                    }
                },
                Some(ended) = self.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    self.places.leave(id);
                }
                () = self.calls.closed() => break,
            }
        }
        self.drain().await;
    }

    /// Waits until the last replies are written, or given up.
    async fn drain(mut self) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("a client does not read; it misses the end");
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn accept(&mut self, stream: UnixStream) {
        let caller = match Caller::of(stream.as_fd()) {
            Ok(caller) => Arc::new(caller),
            Err(error) => return tracing::debug!(%error, "a caller that cannot be told is not served"),
        };
        let Some(asked) = self.places.make_room(caller.peer.uid) else {
            return tracing::debug!(uid = caller.peer.uid, "too many connections");
        };
        let connection = self.number();
        let calls = self.calls.clone();
        let told_places = asked.clone();
        let uid = caller.peer.uid;
        let task = self.tasks.spawn(async move {
            told(converse(stream, connection, caller, &told_places, &calls).await);
        });
        self.places.take(task, uid, asked);
    }
}

/// Whether accept(2) may succeed after this error: one connection failed, or the host is short of something.
fn passes(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    let losses = [libc::ECONNABORTED, libc::EINTR, libc::EAGAIN];
    error.raw_os_error().is_some_and(|error| shortages.contains(&error) || losses.contains(&error))
}

fn told(result: Result<(), FrameError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn late<T>(_: T) -> FrameError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

async fn converse(
    mut stream: UnixStream,
    connection: u64,
    caller: Arc<Caller>,
    asked: &Asked,
    calls: &mpsc::Sender<Call>,
) -> Result<(), FrameError> {
    let first = timeout(PATIENCE, frame::read_with_fd_async(&mut stream)).await.map_err(late)?;
    let (request, fd) = match first {
        Ok(Some(first)) => first,
        Ok(None) => return Ok(()),
        Err(FrameError::Io(error)) => return Err(error.into()),
        Err(error) => {
            let failure = Reply::Error(Failure::new(error.to_string()).exit(2));
            timeout(PATIENCE, stream.write_all(&frame::encode(&failure)?)).await.map_err(late)??;
            return Err(error);
        }
    };
    asked.store(true, Ordering::Relaxed);
    let is_session = matches!(request, Request::Run(_));
    let is_follower = matches!(request, Request::Follow(_));
    let (replies, queue) = Outbox::new();
    // An engine that is about to end answers nobody; the connection just closes.
    if calls.send(Call::Asked { connection, caller, request, fd, replies }).await.is_err() {
        return Ok(());
    }
    if is_session {
        return session(stream, connection, queue, calls).await;
    }
    let (reader, writer) = stream.into_split();
    if !is_follower {
        return write(writer, queue, Some(PATIENCE)).await;
    }
    let written = tokio::select! {
        written = write(writer, queue, Some(FOLLOWER_PATIENCE)) => written,
        () = listen_to(reader, connection, None) => Ok(()),
    };
    // Nobody waits for it but the engine, which forgets the follower.
    let _ = calls.send(Call::Gone { connection }).await;
    written
}

/// A client whose command is governed. It may stop reading for as long as its user stops it.
async fn session(
    stream: UnixStream,
    connection: u64,
    replies: Replies,
    calls: &mpsc::Sender<Call>,
) -> Result<(), FrameError> {
    let (reader, writer) = stream.into_split();
    let listening = async {
        listen_to(reader, connection, Some(calls)).await;
        let _ = calls.send(Call::Gone { connection }).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        written = write(writer, replies, None) => written,
        () = listening => Ok(()),
    }
}

/// Reads what the client says until it is gone.
async fn listen_to(mut reader: OwnedReadHalf, connection: u64, calls: Option<&mpsc::Sender<Call>>) {
    loop {
        match (frame::read_async(&mut reader).await, calls) {
            (Ok(Some(request)), Some(calls)) => {
                if calls.send(Call::Said { connection, request }).await.is_err() {
                    return;
                }
            }
            (Ok(Some(_)), None) => {}
            (Ok(None) | Err(FrameError::Io(_)), _) => return,
            (Err(error), _) => return tracing::warn!(%error, "a client is not understood"),
        }
    }
}

/// Writes replies until there are no more.
async fn write(
    mut writer: OwnedWriteHalf,
    mut replies: Replies,
    patience: Option<Duration>,
) -> Result<(), FrameError> {
    while let Some(reply) = replies.next().await {
        let bytes = match frame::encode(&reply) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a reply cannot be sent");
                frame::encode(&Reply::Error(Failure::new(error.to_string())))?
            }
        };
        match patience {
            Some(patience) => timeout(patience, writer.write_all(&bytes)).await.map_err(late)??,
            None => writer.write_all(&bytes).await?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
