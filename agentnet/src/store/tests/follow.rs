//! Connections to engines, here played by the test.

use std::{fs, path::Path, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::mpsc::Receiver,
    time::timeout,
};

use super::{Source, Stream, at, name};
use crate::{
    control::{
        frame,
        protocol::{Failure, Follow, Reply, Request},
    },
    store::follow::{Engine, Event, Followers, Look},
};

const REQUEST: Follow = Follow { what: Stream::Alerts, agent: None, min_severity: None };

/// The socket of an engine.
fn listen(root: &Path, place: &str) -> UnixListener {
    let directory = root.join(place);
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("control.sock");
    let _ = fs::remove_file(&path);
    UnixListener::bind(path).unwrap()
}

async fn accept(listener: &UnixListener) -> UnixStream {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let asked = soon(frame::read_async::<Request>(&mut stream)).await.unwrap();
    assert_eq!(asked, Some(Request::Follow(REQUEST)));
    stream
}

async fn send(stream: &mut UnixStream, reply: Reply) {
    stream.write_all(&frame::encode(&reply).unwrap()).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.unwrap()
}

async fn next(events: &mut Receiver<Event>) -> String {
    match soon(events.recv()).await.unwrap() {
        Event::Output(engine, output) => {
            let line = super::Line::of(&output).unwrap();
            format!("{engine}: {}", super::mark(&line))
        }
        event => format!("{event:?}"),
    }
}

/// Looks for engines until one of them has connected.
async fn connected(followers: &mut Followers, listener: &UnixListener) -> UnixStream {
    let look = async {
        loop {
            followers.look();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        stream = accept(listener) => stream,
        () = look => unreachable!(),
    }
}

#[tokio::test]
async fn engines_that_appear_are_followed_and_those_that_come_back_again() {
    let root = tempfile::tempdir().unwrap();
    let (mut followers, mut events) = Followers::new(root.path().to_owned(), REQUEST);
    assert_eq!(followers.look(), Look::default(), "nobody is there, nobody refuses");

    let daemon = listen(root.path(), "daemon");
    let mut one = connected(&mut followers, &daemon).await;
    send(&mut one, Reply::Done(String::new())).await;
    assert_eq!(next(&mut events).await, "Begun(Daemon, None)");
    send(&mut one, Reply::Output(Source::of("a").alert("1", at(1)))).await;
    assert_eq!(next(&mut events).await, "the daemon: 1");

    let run = listen(root.path(), "agents/b");
    let mut other = connected(&mut followers, &run).await;
    // An engine that says at once what there is.
    send(&mut other, Reply::Output(Source::of("b").alert("2", at(2)))).await;
    assert_eq!(next(&mut events).await, "Begun(Run(AgentName(\"b\")), None)");
    assert_eq!(next(&mut events).await, "the engine of agent b: 2");
    send(&mut other, Reply::Missed(3)).await;
    assert_eq!(next(&mut events).await, "Missed(Run(AgentName(\"b\")), 3)");

    drop(one);
    assert_eq!(next(&mut events).await, "Gone(Daemon)");
    drop(daemon);
    let daemon = listen(root.path(), "daemon");
    let mut one = connected(&mut followers, &daemon).await;
    send(&mut one, Reply::Done(String::new())).await;
    assert_eq!(next(&mut events).await, "Begun(Daemon, None)");
    send(&mut other, Reply::Missed(4)).await;
    assert_eq!(next(&mut events).await, "Missed(Run(AgentName(\"b\")), 4)", "it was followed all the time");
}

#[tokio::test]
async fn an_engine_that_refuses_is_asked_once_until_it_is_another() {
    let root = tempfile::tempdir().unwrap();
    let (mut followers, mut events) = Followers::new(root.path().to_owned(), REQUEST);
    let daemon = listen(root.path(), "daemon");
    let mut stream = connected(&mut followers, &daemon).await;
    let failure = serde_json::json!({ "message": "not for you", "exit": 1 });
    send(&mut stream, Reply::Error(serde_json::from_value::<Failure>(failure).unwrap())).await;
    assert_eq!(next(&mut events).await, "Refused(Daemon, \"not for you\")");
    let refused = async {
        while !followers.look().refused {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon(refused).await;
    for _ in 0..20 {
        assert!(followers.look().refused);
        tokio::task::yield_now().await;
    }
    // Had it been asked again, that would wait here.
    let again = daemon.into_std().unwrap().accept();
    assert_eq!(again.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    let daemon = listen(root.path(), "daemon");
    let mut stream = connected(&mut followers, &daemon).await;
    send(&mut stream, Reply::Done("hear".to_owned())).await;
    assert_eq!(next(&mut events).await, "Begun(Daemon, Some(\"hear\"))");
}

#[tokio::test]
async fn an_engine_of_another_version_is_told_apart_from_one_that_ends() {
    let root = tempfile::tempdir().unwrap();
    let (mut followers, mut events) = Followers::new(root.path().to_owned(), REQUEST);
    let daemon = listen(root.path(), "daemon");
    let mut stream = connected(&mut followers, &daemon).await;
    stream.write_all(&[3, 0, 0, 0, b'?', b'?', b'?']).await.unwrap();
    let refused = next(&mut events).await;
    assert!(refused.starts_with("Refused(Daemon") && refused.contains("same version"), "{refused}");
}

#[tokio::test]
async fn an_engine_that_was_gone_first_is_told_of_once() {
    let root = tempfile::tempdir().unwrap();
    let (mut followers, _events) = Followers::new(root.path().to_owned(), REQUEST);
    // Its socket stays, as a killed engine leaves it.
    drop(listen(root.path(), "agents/a"));
    let unreached = soon(async {
        loop {
            match followers.look().unreached {
                none if none.is_empty() => tokio::time::sleep(Duration::from_millis(2)).await,
                agents => break agents,
            }
        }
    });
    assert_eq!(unreached.await, [name("a")]);
    for _ in 0..50 {
        assert_eq!(followers.look(), Look::default());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // One that hangs up without a word, and takes its socket along.
    let run = listen(root.path(), "agents/b");
    drop(connected(&mut followers, &run).await);
    fs::remove_file(root.path().join("agents/b/control.sock")).unwrap();
    let unreached = soon(async {
        loop {
            let look = followers.look();
            if look.unreached == [name("b")] {
                break;
            }
            assert_eq!(look, Look::default());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    unreached.await;
}

#[tokio::test]
async fn engines_of_other_agents_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    let request = Follow { agent: Some(name("a")), ..REQUEST };
    let (mut followers, _events) = Followers::new(root.path().to_owned(), request);
    let other = listen(root.path(), "agents/b");
    for _ in 0..20 {
        followers.look();
        tokio::task::yield_now().await;
    }
    let asked = other.into_std().unwrap().accept();
    assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn an_engine_is_named_as_people_know_it() {
    assert_eq!(Engine::Run(name("a")).to_string(), "the engine of agent a");
}
