//! Standard error, written to by a thread of its own: whoever does not read it delays nobody but the end.

use std::{
    io::Write as _,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
};

/// Texts that may wait for a slow reader.
const CAPACITY: usize = 1024;

/// The queue to the thread. What finds no room while the command runs is dropped and counted.
pub(super) struct Stderr {
    queue: SyncSender<String>,
    writer: JoinHandle<()>,
    dropped: u64,
}

impl Stderr {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there cannot be another.
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, texts) = sync_channel(CAPACITY);
        let writer = thread::Builder::new().name("stderr".to_owned()).spawn(move || write(&texts))?;
        Ok(Self { queue, writer, dropped: 0 })
    }

    /// Writes `text`, if there is room for it.
    pub(super) fn send(&mut self, text: String) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(text) {
            self.dropped += 1;
        }
    }

    /// How many texts were dropped since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Writes `text`, which says that `dropped` texts were dropped, or remembers them if there is no room.
    pub(super) fn resend(&mut self, text: String, dropped: u64) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(text) {
            self.dropped += dropped;
        }
    }

    /// Writes `last` and waits until everything is written, or the reader is gone.
    pub(super) fn close(self, last: impl IntoIterator<Item = String>) {
        let Self { queue, writer, .. } = self;
        for text in last {
            if queue.send(text).is_err() {
                break;
            }
        }
        drop(queue);
        // It does not panic, and if it did there would be nothing to write to.
        let _ = writer.join();
    }
}

fn write(texts: &Receiver<String>) {
    while let Ok(text) = texts.recv() {
        // In one piece, as the command may write to the same terminal.
        if anstream::stderr().lock().write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}
