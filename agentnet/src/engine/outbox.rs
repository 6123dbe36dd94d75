//! Replies on their way to the client: a bounded queue that never makes the engine wait.

use std::time::Duration;

use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
};

use crate::control::{
    frame,
    protocol::{Reply, too_fast},
};

/// Replies that may wait for a slow client.
const CAPACITY: usize = 1024;

/// How long the last replies may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The queue. What finds no room is dropped and counted, and the client is told how many.
#[derive(Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Reply>,
    writer: JoinHandle<()>,
    dropped: u64,
    logged: bool,
}

impl Outbox {
    /// Begins to write to `client`.
    pub fn new(client: impl AsyncWrite + Unpin + Send + 'static) -> Self {
        let (queue, replies) = mpsc::channel(CAPACITY);
        Self { queue, writer: tokio::spawn(write(client, replies)), dropped: 0, logged: false }
    }

    /// Says whether a log holds what is dropped.
    pub const fn set_logged(&mut self, logged: bool) {
        self.logged = logged;
    }

    /// Puts a reply into the queue, if there is room.
    pub fn send(&mut self, reply: Reply) {
        self.tell_dropped();
        if let Err(TrySendError::Full(_)) = self.queue.try_send(reply) {
            self.dropped += 1;
        }
    }

    /// Puts the last replies into the queue and waits until all were written, or the client is given up.
    pub async fn close(self, last: impl IntoIterator<Item = Reply>) {
        let Self { queue, writer, dropped, logged } = self;
        let notice = (dropped > 0).then(|| Reply::Notice(too_fast(dropped, logged)));
        let deliver = async move {
            for reply in notice.into_iter().chain(last) {
                if queue.send(reply).await.is_err() {
                    return;
                }
            }
            // The writer ends when it has written what is queued and nobody can queue more.
            drop(queue);
            let _ = writer.await;
        };
        if tokio::time::timeout(PATIENCE, deliver).await.is_err() {
            tracing::warn!("the client does not read; it misses the end");
        }
    }

    fn tell_dropped(&mut self) {
        if self.dropped == 0 {
            return;
        }
        let notice = Reply::Notice(too_fast(self.dropped, self.logged));
        if self.queue.try_send(notice).is_ok() {
            self.dropped = 0;
        }
    }
}

async fn write(mut client: impl AsyncWrite + Unpin, mut replies: mpsc::Receiver<Reply>) {
    while let Some(reply) = replies.recv().await {
        let written = match frame::encode(&reply) {
            Ok(bytes) => client.write_all(&bytes).await,
            Err(error) => {
                tracing::error!(%error, "a reply cannot be sent");
                continue;
            }
        };
        // Without a reader there is nobody to tell; the queue is emptied by dropping it.
        if written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    async fn received(mut client: impl tokio::io::AsyncRead + Unpin) -> Vec<String> {
        let mut seen = Vec::new();
        while let Ok(Some(reply)) = frame::read_async::<Reply>(&mut client).await {
            seen.push(match reply {
                Reply::Notice(text) => text,
                other => format!("{other:?}"),
            });
        }
        seen
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_costs_nothing_and_is_told() {
        let (engine, client) = duplex(64);
        let mut outbox = Outbox::new(engine);
        let sent = CAPACITY * 3;
        for number in 0..sent {
            outbox.send(Reply::Notice(number.to_string()));
            tokio::task::yield_now().await;
        }
        let reader = tokio::spawn(received(client));
        outbox.close([Reply::Finished]).await;
        let seen = reader.await.unwrap();
        let shown = seen.iter().filter(|text| text.parse::<usize>().is_ok()).count();
        let told: usize = seen
            .iter()
            .filter_map(|text| text.split_once(" lines came"))
            .map(|(n, _)| n.parse::<usize>().unwrap())
            .sum();
        assert!(told > 0, "nothing was dropped, the test proves nothing");
        assert_eq!(shown + told, sent);
        assert_eq!(seen.last().map(String::as_str), Some("Finished"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_given_up() {
        let (engine, client) = duplex(1);
        let outbox = Outbox::new(engine);
        outbox.close([Reply::Finished]).await;
        drop(client);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_no_trouble() {
        let (engine, client) = duplex(64);
        drop(client);
        let mut outbox = Outbox::new(engine);
        for _ in 0..CAPACITY * 2 {
            outbox.send(Reply::Finished);
            tokio::task::yield_now().await;
        }
        outbox.close([Reply::Finished]).await;
    }
}
