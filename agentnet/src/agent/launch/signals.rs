//! Signals on both sides: what the command inherits, and what its parent passes on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};
use signal_hook_registry::SigId;

/// The highest signal number of Linux on the architectures supported (`_NSIG` is one of 1..=64).
const LAST_SIGNAL: i32 = 64;

/// Bit `n-1` for signal `n`: ignored, and blocked, when the process started.
static IGNORED_AT_START: AtomicU64 = AtomicU64::new(0);
static BLOCKED_AT_START: AtomicU64 = AtomicU64::new(0);

/// The dynamic loader calls what is in this section before Rust's runtime, which sets SIGPIPE to ignored and
/// so hides what the caller had set; the command must get the caller's.
#[used]
#[unsafe(link_section = ".init_array")]
static CAPTURE: extern "C" fn() = capture;

extern "C" fn capture() {
    let mut ignored = 0;
    let mut blocked = 0;
    // SAFETY: both structures are plain data for which zero bytes are valid; the kernel fills them. The null
    // pointers ask for the present state and change nothing.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        let masked = libc::sigprocmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut mask) == 0;
        for signal in 1..=LAST_SIGNAL {
            let mut action: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                ignored |= bit(signal);
            }
            if masked && libc::sigismember(&raw const mask, signal) == 1 {
                blocked |= bit(signal);
            }
        }
    }
    IGNORED_AT_START.store(ignored, Ordering::Relaxed);
    BLOCKED_AT_START.store(blocked, Ordering::Relaxed);
}

/// Whether this process was started with `signal` ignored.
pub(super) fn is_ignored_at_start(signal: i32) -> bool {
    IGNORED_AT_START.load(Ordering::Relaxed) & bit(signal) != 0
}

fn bit(signal: i32) -> u64 {
    1u64 << (signal - 1)
}

/// Every signal blocked in this thread until dropped: a child forked meanwhile runs no handler of its
/// parent's, which would write to descriptors it shares with it.
pub(super) struct AllBlocked(libc::sigset_t);

impl AllBlocked {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: zero bytes are a valid sigset_t; both pointers are to live sets.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) {
                0 => Ok(Self(before)),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the kernel in `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// In the child: dispositions and mask as they were when this process started. Handlers become the default,
/// as `execve` would make them; what was ignored (nohup, a systemd service's SIGPIPE) stays ignored.
///
/// Async-signal-safe.
pub(super) fn restore_as_at_start() {
    let ignored = IGNORED_AT_START.load(Ordering::Relaxed);
    let blocked = BLOCKED_AT_START.load(Ordering::Relaxed);
    // SAFETY: zero bytes are valid for both structures; the handler is SIG_DFL or SIG_IGN, no function. SIGKILL,
    // SIGSTOP and the C library's own two signals are refused, and are right as they are.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        for signal in 1..=LAST_SIGNAL {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = if ignored & bit(signal) != 0 { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            if blocked & bit(signal) != 0 {
                libc::sigaddset(&raw mut mask, signal);
            }
        }
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
    }
}

/// What the parent takes note of while the command runs, apart from SIGCHLD. SIGINT, SIGQUIT and SIGTSTP are
/// here so that the terminal's do not end or stop the parent before the command had its say.
const FORWARDED: [i32; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGWINCH,
];

/// Ignored by the parent while the command runs: `tcsetpgrp` and output from the background must not stop it
/// (a handler would not do: the call is then restarted for ever).
const IGNORED: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];

/// A signal the parent received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) signal: i32,
    /// Sent by a process to this one (or to the group, which cannot be told apart), not by the terminal, whose
    /// signals the command has received as well.
    pub(super) by_process: bool,
}

/// The parent's signals as bytes in a pipe, readable by `poll` and by an async runtime alike. The handlers go
/// through the registry that tokio uses, so that either works beside the other.
pub(super) struct Signals {
    read: OwnedFd,
    write: Arc<OwnedFd>,
    registered: Vec<SigId>,
    ignored: Vec<(i32, libc::sigaction)>,
}

impl Signals {
    /// Starts with SIGCHLD alone: also needed since a child of a process that ignores SIGCHLD leaves no status.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut this = Self { read, write: Arc::new(write), registered: Vec::new(), ignored: Vec::new() };
        this.register(libc::SIGCHLD)?;
        Ok(this)
    }

    /// From here on the command answers for the process: see [`FORWARDED`] and [`IGNORED`].
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        for signal in FORWARDED {
            self.register(signal)?;
        }
        for signal in IGNORED {
            let before = set_disposition(signal, libc::SIG_IGN)?;
            self.ignored.push((signal, before));
        }
        Ok(())
    }

    fn register(&mut self, signal: i32) -> io::Result<()> {
        let write = Arc::clone(&self.write);
        let number = u8::try_from(signal).unwrap_or(0);
        let action = move |info: &libc::siginfo_t| {
            // Codes of the kernel's own are positive. A full pipe has unread bytes in it, which is all that
            // SIGCHLD needs.
            let _ = rustix::io::write(&*write, &[number, u8::from(info.si_code <= 0)]);
        };
        // SAFETY: the action only does arithmetic and a raw write(2) that leaves errno alone: it allocates
        // nothing, locks nothing and cannot panic.
        let id = unsafe { signal_hook_registry::register_sigaction(signal, action) }?;
        self.registered.push(id);
        Ok(())
    }

    /// Readable when [`Signals::take`] has something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// What has arrived since, without SIGCHLD; never blocks.
    pub(super) fn take(&self) -> io::Result<Vec<Received>> {
        let mut all = Vec::new();
        let mut buffer = [0u8; 512];
        loop {
            match rustix::io::read(&self.read, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(all),
                // A record is two bytes and a write of two bytes to a pipe is atomic, so records stay whole.
                Ok(n) => all.extend(
                    buffer
                        .get(..n)
                        .unwrap_or_default()
                        .chunks_exact(2)
                        .filter_map(|r| {
                            let [signal, by_process] = *r else { return None };
                            Some(Received { signal: i32::from(signal), by_process: by_process != 0 })
                        })
                        .filter(|r| r.signal != libc::SIGCHLD),
                ),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Signals {
    /// The actions end; the registry's handlers stay, so that what ends the supervision (a last Ctrl-C) does
    /// not cut short the clean-up that follows it.
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook_registry::unregister(id);
        }
        for (signal, before) in self.ignored.drain(..) {
            // SAFETY: `before` is what sigaction(2) filled in for this signal.
            unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
        }
    }
}

/// Stops this process with `signal` as its default disposition would, and returns when it is continued; at
/// once if the kernel ignores it (an orphaned process group has nobody to continue it).
pub(super) fn stop_self(signal: i32) -> io::Result<()> {
    let before = if signal == libc::SIGSTOP { None } else { Some(set_disposition(signal, libc::SIG_DFL)?) };
    // SAFETY: raise has no memory preconditions.
    unsafe { libc::raise(signal) };
    if let Some(before) = before {
        // SAFETY: `before` is what sigaction(2) filled in for this signal.
        unsafe { libc::sigaction(signal, &raw const before, std::ptr::null_mut()) };
    }
    Ok(())
}

/// Sets `signal` to SIG_DFL or SIG_IGN and returns what it was.
fn set_disposition(signal: i32, to: libc::sighandler_t) -> io::Result<libc::sigaction> {
    // SAFETY: zero bytes are a valid sigaction; `to` is no function.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = to;
        if libc::sigaction(signal, &raw const action, &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}
