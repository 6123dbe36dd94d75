//! The directory of policies, and when something in it has changed.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, path::Path, time::Duration};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, sleep_until},
};

use super::sources::register;

/// How long nothing more may happen before it is read: several files that belong together come one by one.
const CALM: Duration = Duration::from_millis(200);

/// Changes of the files in a directory.
pub(super) struct PolicyWatch {
    events: AsyncFd<OwnedFd>,
    /// When it has been calm for long enough.
    calm: Option<Instant>,
    /// Whether the directory is there no more, or cannot be waited for.
    gone: bool,
    /// Why, until it is told.
    why: Option<io::Error>,
}

impl PolicyWatch {
    /// Watches `directory`.
    ///
    /// # Errors
    /// If it is not there, or the kernel refuses.
    pub(super) fn new(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // A file that is being written is not read: when it is closed, or moved here, it is whole.
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, what)?;
        Ok(Self { events: register(fd, Interest::READABLE)?, calm: None, gone: false, why: None })
    }

    /// Waits until something has changed and it has been calm for a while. May be dropped and called again.
    ///
    /// # Errors
    /// If the directory is gone, once; or if it cannot be waited for.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            if let Some(why) = self.why.take() {
                return Err(why);
            }
            if self.gone {
                std::future::pending::<()>().await;
            }
            let Some(calm) = self.calm else {
                self.take().await?;
                continue;
            };
            tokio::select! {
                () = sleep_until(calm) => {
                    self.calm = None;
                    return Ok(());
                }
                taken = self.take() => taken?,
            }
        }
    }

    /// Takes note of what has changed until now. After a reading that began later it can be [`forgotten`](Self::forget).
    pub(super) fn note(&mut self) {
        if !self.gone {
            self.read();
        }
    }

    /// What was noted has been read: it is not read once more because of it, and so nothing that was done by hand in the
    /// meantime is undone.
    pub(super) const fn forget(&mut self) {
        self.calm = None;
    }

    async fn take(&mut self) -> io::Result<()> {
        self.events.readable_mut().await?.clear_ready();
        // After it was cleared: what comes later makes it ready again.
        self.read();
        Ok(())
    }

    fn read(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.events.get_ref(), &mut buffer);
        let why = loop {
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::IGNORED) => {
                    break io::ErrorKind::NotFound.into();
                }
                Ok(_) => self.calm = Some(Instant::now() + CALM),
                Err(rustix::io::Errno::AGAIN) => return,
                Err(error) => break error.into(),
            }
        };
        self.gone = true;
        self.why = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_file_that_comes_changes_or_goes_is_told_once_it_is_calm() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = PolicyWatch::new(directory.path()).unwrap();
        let file = directory.path().join("p.toml");
        fs::write(&file, "a").unwrap();
        watch.changed().await.unwrap();
        assert!(watch.calm.is_none());
        fs::write(&file, "b").unwrap();
        watch.note();
        assert!(watch.calm.is_some());
        watch.forget();
        assert!(watch.calm.is_none());
        fs::rename(&file, directory.path().join("q.toml")).unwrap();
        watch.changed().await.unwrap();
        fs::remove_file(directory.path().join("q.toml")).unwrap();
        watch.changed().await.unwrap();
        fs::remove_dir(directory.path()).unwrap();
        assert_eq!(watch.changed().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(PolicyWatch::new(directory.path()).is_err());
    }
}
