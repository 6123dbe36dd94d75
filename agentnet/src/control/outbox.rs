//! Replies on their way to a client: a bounded queue that never makes the engine wait.

use tokio::sync::mpsc::{self, error::TrySendError};

use super::protocol::Reply;

/// Replies that may wait for a slow client.
const CAPACITY: usize = 1024;

/// The engine's end of the queue. What finds no room is dropped and counted, and the client is told how many.
#[derive(Debug)]
pub struct Outbox {
    queue: mpsc::Sender<Reply>,
    dropped: u64,
}

/// The client's end of the queue.
#[derive(Debug)]
pub struct Replies(mpsc::Receiver<Reply>);

impl Replies {
    /// The next reply; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Reply> {
        self.0.recv().await
    }
}

impl Outbox {
    /// Both ends of a queue.
    pub fn new() -> (Self, Replies) {
        let (queue, replies) = mpsc::channel(CAPACITY);
        (Self { queue, dropped: 0 }, Replies(replies))
    }

    /// Puts a reply into the queue, if there is room. False when nobody is at the other end any more.
    pub fn send(&mut self, reply: Reply) -> bool {
        if self.dropped > 0 && self.queue.try_send(Reply::Missed(self.dropped)).is_ok() {
            self.dropped = 0;
        }
        match self.queue.try_send(reply) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }

    /// Puts the last replies into the queue, waiting for room without making the caller wait.
    pub fn close(self, last: impl IntoIterator<Item = Reply, IntoIter: Send> + Send + 'static) {
        let Self { queue, dropped } = self;
        let missed = (dropped > 0).then_some(Reply::Missed(dropped));
        let last = last.into_iter();
        // It ends when everything is queued or the connection's task has given the client up.
        tokio::spawn(async move {
            for reply in missed.into_iter().chain(last) {
                if queue.send(reply).await.is_err() {
                    return;
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(mut replies: Replies) -> (usize, u64, Option<Reply>) {
        let (mut shown, mut missed, mut last) = (0, 0, None);
        while let Some(reply) = replies.next().await {
            match &reply {
                Reply::Notice(_) => shown += 1,
                Reply::Missed(count) => missed += count,
                _ => {}
            }
            last = Some(reply);
        }
        (shown, missed, last)
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_costs_nothing_and_is_told() {
        let (mut outbox, replies) = Outbox::new();
        let sent = CAPACITY * 3;
        for number in 0..sent {
            assert!(outbox.send(Reply::Notice(number.to_string())));
        }
        outbox.close([Reply::Finished]);
        let (shown, missed, last) = received(replies).await;
        assert!(missed > 0, "nothing was dropped, the test proves nothing");
        assert_eq!(shown + usize::try_from(missed).unwrap(), sent);
        assert!(matches!(last, Some(Reply::Finished)), "{last:?}");
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_no_trouble() {
        let (mut outbox, replies) = Outbox::new();
        drop(replies);
        assert!(!outbox.send(Reply::Finished));
        outbox.close([Reply::Finished]);
    }
}
