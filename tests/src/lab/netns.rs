//! Network namespaces without a name: kept by a descriptor, gone with the process that made them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::Arc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace, and the mount namespace of what is started in it.
#[derive(Clone)]
pub struct Namespace {
    net: Arc<OwnedFd>,
    mounts: Option<Arc<OwnedFd>>,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN`.
    pub fn new() -> Result<Self> {
        let maker = thread::spawn(|| -> io::Result<OwnedFd> {
            // SAFETY: a network namespace belongs to this thread alone, which ends here.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Ok(File::open("/proc/thread-self/ns/net")?.into())
        });
        let fd = joined(maker)?
            .context("a network namespace needs root: start the tests by `cargo xtask test`")?;
        Ok(Self { net: Arc::new(fd), mounts: None })
    }

    /// Lets commands that are started in it have these mounts.
    pub fn set_mounts(&mut self, mounts: OwnedFd) {
        self.mounts = Some(Arc::new(mounts));
    }

    /// The descriptor that keeps it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.net.as_fd()
    }

    fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs `body` in the namespace, in a thread of its own.
    ///
    /// # Errors
    /// Of `body`.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                body()
            });
            thread.join().map_err(|_| anyhow!("a thread of the lab panicked"))?
        })
    }

    /// Starts a thread that lives in the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<JoinHandle<Result<T>>> {
        let namespace = self.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            namespace.enter()?;
            body()
        })?;
        Ok(thread)
    }

    /// Makes `command` start in the namespace, with its mounts: cgroups and bpffs can be seen.
    pub fn attach(&self, command: &mut Command) {
        let namespace = self.clone();
        let enter = move || {
            namespace.enter()?;
            match &namespace.mounts {
                Some(mounts) => enter_mounts(mounts.as_fd()),
                None => Ok(()),
            }
        };
        // SAFETY: setns(2) is async-signal-safe, and nothing is allocated after the fork.
        unsafe { command.pre_exec(enter) };
    }
}

/// Enters a mount namespace, with the working directory at its top.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`, or with a second thread.
pub fn enter_mounts(mounts: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(mounts, Some(LinkNameSpaceType::Mount))?)
}

fn joined<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the lab panicked"))
}
