//! A web server that has just what clients of the tests ask for: a repository of git, an index of Python packages, a registry
//! of npm, a directory.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::os::fd::{AsFd as _, OwnedFd};

use super::netns::Namespace;

/// The port that it is on.
pub const WEB_PORT: u16 = 7080;
/// How long it waits for the rest of a request.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server. It ends when it is dropped.
pub struct Web {
    answered: Arc<AtomicUsize>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Web {
    /// Starts one on all of `at`.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn start(namespace: &Namespace, at: &[SocketAddr]) -> Result<Self> {
        let listeners = namespace.run(|| {
            at.iter()
                .map(|at| TcpListener::bind(at).with_context(|| format!("a web server at {at}")))
                .collect::<Result<Vec<_>>>()
        })?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let answered = Arc::<AtomicUsize>::default();
        let (stop_in, answered_in) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = namespace.spawn("web", move || serve(&listeners, &stop_in, &answered_in))?;
        Ok(Self { answered, stop, thread: Some(thread) })
    }

    /// How many requests were answered.
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listeners: &[TcpListener], stop: &OwnedFd, answered: &Arc<AtomicUsize>) -> Result<()> {
    loop {
        let mut fds = vec![PollFd::new(stop, PollFlags::IN)];
        fds.extend(
            listeners.iter().map(|listener| PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)),
        );
        poll(&mut fds, None)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            return Ok(());
        }
        for (listener, _) in listeners.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let (stream, _) = listener.accept()?;
            let answered = Arc::clone(answered);
            // A client that goes away in the middle is its own matter.
            thread::spawn(move || talk(stream, &answered).ok());
        }
    }
}

fn talk(mut stream: TcpStream, answered: &AtomicUsize) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => head.extend(&buffer[..length]),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (status, kind, body) = page(path);
    let shown = if method == "HEAD" { "" } else { body.as_str() };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{shown}",
        body.len()
    )?;
    answered.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Status, type and body of what is at a path.
fn page(path: &str) -> (&'static str, &'static str, String) {
    let object = "0123456789abcdef0123456789abcdef01234567";
    match path.split('?').next().unwrap_or_default() {
        "/repo.git/info/refs" => ("200 OK", "text/plain", format!("{object}\trefs/heads/main\n")),
        "/repo.git/HEAD" => ("200 OK", "text/plain", "ref: refs/heads/main\n".to_owned()),
        "/simple/harmless/" => {
            let link = "<a href=\"harmless-1.0-py3-none-any.whl\">harmless-1.0-py3-none-any.whl</a>";
            ("200 OK", "text/html", format!("<!DOCTYPE html><html><body>{link}</body></html>"))
        }
        "/-/ping" => ("200 OK", "application/json", "{}".to_owned()),
        "/" => (
            "200 OK",
            "text/html",
            "<html><body><a href=\"harmless-page\">harmless-page</a></body></html>".to_owned(),
        ),
        _ => ("404 Not Found", "text/plain", "none\n".to_owned()),
    }
}
