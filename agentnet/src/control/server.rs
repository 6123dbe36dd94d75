//! The side that answers: connections to an engine's own socket, one request each.
//!
//! Tasks here only read and write; whoever owns the state answers, see [`Call`].

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{fs::PermissionsExt as _, net::UnixListener as StdListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    frame,
    protocol::{Reply, Request},
};

/// How long a peer may take to ask, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections that are served at a time; more wait.
const CONNECTIONS: usize = 8;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Reply>,
}

/// Listens at `path`, for root and `uid`.
///
/// # Errors
/// If the socket cannot be made.
pub fn listen(path: &Path, uid: u32) -> io::Result<StdListener> {
    // Until here only its owner, root, has the write permission that connecting takes.
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    std::os::unix::fs::chown(path, Some(uid), None)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves connections until the receiver of `calls` is gone.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    // Out of descriptors, most likely; trying again at once would only burn time.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = calls.closed() => return,
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(stream, &calls).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
}

async fn converse(mut stream: UnixStream, calls: &mpsc::Sender<Call>) -> Result<(), frame::FrameError> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    let Some(request) = timeout(PATIENCE, frame::read_async(&mut stream)).await.map_err(late)?? else {
        return Ok(());
    };
    let (answer, answered) = oneshot::channel();
    // An engine that is about to end answers nobody; the connection just closes.
    if calls.send(Call { request, answer }).await.is_err() {
        return Ok(());
    }
    if let Ok(reply) = answered.await {
        let bytes = frame::encode(&reply)?;
        timeout(PATIENCE, stream.write_all(&bytes)).await.map_err(late)??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::net::UnixStream as StdStream};

    use super::*;
    use crate::control::protocol::Failure;

    #[tokio::test]
    async fn a_request_is_answered_by_the_owner_and_garbage_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = listen(&path, rustix::process::getuid().as_raw()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let (calls, mut called) = mpsc::channel(1);
        tokio::spawn(serve(UnixListener::from_std(listener).unwrap(), calls));

        let asked = tokio::task::spawn_blocking(move || {
            let mut garbage = StdStream::connect(&path).unwrap();
            garbage.write_all(&[0xff; 64]).unwrap();
            // The engine hangs up; with bytes unread the kernel may call that a reset.
            assert!(!matches!(frame::read::<Reply>(&garbage), Ok(Some(_))));
            super::super::client::status(&path)
        });
        let call = called.recv().await.unwrap();
        assert_eq!(call.request, Request::Status);
        let failure = Failure { message: "no".into(), exit: 1 };
        call.answer.send(Reply::Error(failure.clone())).unwrap();
        let answer = asked.await.unwrap();
        assert!(matches!(answer, Err(super::super::client::ClientError::Failure(got)) if got == failure));
    }
}
