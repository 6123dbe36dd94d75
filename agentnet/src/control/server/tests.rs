use std::{io::Write as _, os::unix::net::UnixStream as StdStream};

use super::*;
use crate::control::client;

#[tokio::test]
async fn a_request_is_answered_by_the_owner_and_garbage_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = listen(&path, rustix::process::getuid().as_raw(), 0o600).unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let (calls, mut called) = mpsc::channel(1);
    tokio::spawn(Server::new(calls).serve(UnixListener::from_std(listener).unwrap()));

    let asked = tokio::task::spawn_blocking(move || {
        for garbage in [&[0xff; 64][..], b"\x04\0\0\0null", b"\x01\0\0\0{"] {
            let mut stream = StdStream::connect(&path).unwrap();
            stream.write_all(garbage).unwrap();
            // The engine says no and hangs up; with bytes unread the kernel may call that a reset.
            let answer = frame::read::<Reply>(&stream);
            assert!(
                !matches!(answer, Ok(Some(ref reply)) if !matches!(reply, Reply::Error(_))),
                "{answer:?}"
            );
        }
        client::status(&path)
    });
    let Some(Call::Asked { request, caller, mut replies, .. }) = called.recv().await else {
        panic!("something else than a request");
    };
    assert_eq!(request, Request::Status);
    assert_eq!(caller.peer.uid, rustix::process::getuid().as_raw());
    let failure = Failure::new("no");
    replies.send(Reply::Error(failure.clone()));
    drop(replies);
    let answer = asked.await.unwrap();
    assert!(matches!(answer, Err(client::ClientError::Failure(got)) if got == failure));
}

#[tokio::test]
async fn a_session_goes_on_after_its_first_request_and_its_end_is_told() {
    let (ours, theirs) = StdStream::pair().unwrap();
    let (calls, mut called) = mpsc::channel(1);
    let mut server = Server::new(calls);
    let (connection, mut outbox) = server.adopt(ours).unwrap();
    outbox.send(Reply::Notice("hello".into()));
    let client = tokio::task::spawn_blocking(move || {
        assert!(matches!(frame::read(&theirs), Ok(Some(Reply::Notice(text))) if text == "hello"));
        frame::write(&theirs, &Request::Finish { wait: true }).unwrap();
    });
    let said = called.recv().await;
    assert!(
        matches!(said, Some(Call::Said { connection: of, request: Request::Finish { wait: true } }) if of == connection)
    );
    client.await.unwrap();
    assert!(matches!(called.recv().await, Some(Call::Gone { connection: of }) if of == connection));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_nothing_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = listen(&path, rustix::process::getuid().as_raw(), 0o600).unwrap();
    let (calls, _called) = mpsc::channel(1);
    tokio::spawn(Server::new(calls).serve(UnixListener::from_std(listener).unwrap()));
    let mut idle = UnixStream::connect(&path).await.unwrap();
    assert!(matches!(frame::read_async::<Reply>(&mut idle).await, Ok(None)));
}
