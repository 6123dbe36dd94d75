//! A terminal of our own: what a person at a shell would see.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    process::setsid,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

use crate::eventually::{DEADLINE, eventually};

/// A program that owns a terminal.
pub struct Terminal {
    /// The program.
    pub child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command as the leader of a session whose terminal is a new one.
    ///
    /// # Errors
    /// If there is no terminal to be had, or the command does not start.
    pub fn start(mut command: Command) -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, Vec::new())?;
        let theirs: OwnedFd =
            open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        let take_terminal = || {
            setsid()?;
            // SAFETY: TIOCSCTTY takes an integer; standard input is the terminal by now.
            crate::sys::check(unsafe { libc::ioctl(std::io::stdin().as_raw_fd(), libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: two system calls and no allocation after the fork.
        unsafe { command.pre_exec(take_terminal) };
        let child = command.spawn().context("start on a terminal")?;
        // Our copies of the far end go with the command: the screen ends when the last program closes it.
        drop(command);
        let keyboard = File::from(ours);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut reader, writer) = (keyboard.try_clone()?, Arc::clone(&screen));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                writer.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self { child, keyboard, screen })
    }

    /// Types.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Waits until `text` has been on the screen `times` times.
    ///
    /// # Errors
    /// With the screen, if it does not come.
    pub fn expect(&self, text: &str, times: usize) -> Result<()> {
        eventually(DEADLINE, &format!("{text:?} on the screen"), || {
            let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
            if screen.matches(text).count() >= times { Ok(()) } else { Err(screen.clone()) }
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
