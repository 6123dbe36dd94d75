//! Starting helpers, waiting with a deadline, a terminal.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Failed, Trial};

/// An ordinary user without rights; `nobody` on every distribution.
pub(crate) const NOBODY: u32 = 65534;

/// Longer than anything here takes on a loaded machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, || test().map_err(|e| Failed::from(format!("{e:#}"))))
}

/// The same test as root and as an ordinary user.
pub(crate) fn for_both_users(name: &str, test: fn(u32) -> Result<()>) -> Vec<Trial> {
    [0, NOBODY]
        .into_iter()
        .map(|uid| {
            trial(format!("{name}::uid_{uid}"), move || {
                needs_root()?;
                test(uid)
            })
        })
        .collect()
}

pub(crate) fn needs_root() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root: it starts processes of other users and changes mounts in namespaces of its own"
    );
    Ok(())
}

/// This binary as `--helper <args>`, as the user `uid`. By its magic link, so that the directory it lies in
/// need not be open to that user.
pub(crate) fn helper(uid: u32, args: &[&str]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--helper").args(args).stdin(Stdio::null());
    for variable in agentnet::agent::borrowed::VARIABLES {
        command.env_remove(variable);
    }
    command.current_dir("/");
    if uid != 0 {
        command.uid(uid).gid(uid);
    }
    command
}

/// `--helper run -- args`: the launcher with this command.
pub(crate) fn launch(uid: u32, args: &[&str]) -> Command {
    helper(uid, &[&["run", "--"], args].concat())
}

/// Like [`launch`], the command being `--helper probe` with these probes.
pub(crate) fn launch_probe(uid: u32, probes: &[&str]) -> Command {
    launch(uid, &[&["/proc/self/exe", "--helper", "probe"], probes].concat())
}

/// Runs to the end, within the deadline.
pub(crate) fn output(mut command: Command) -> Result<Output> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    finish(child)
}

/// Waits for the end of `child`, within the deadline, and collects what it has written to pipes.
pub(crate) fn finish(child: Child) -> Result<Output> {
    let pid = child.id();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match receive.recv_timeout(DEADLINE) {
        Ok(output) => Ok(output?),
        Err(_) => {
            kill(pid, libc::SIGKILL)?;
            bail!("did not end within {DEADLINE:?}")
        }
    }
}

/// Exit code of `command`, with what it said if there is none.
pub(crate) fn code(command: Command) -> Result<i32> {
    let output = output(command)?;
    output.status.code().with_context(|| format!("{output:?}"))
}

/// Standard output of `command`, which has to succeed.
pub(crate) fn stdout(command: Command) -> Result<String> {
    let output = output(command)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Asserts that each `name=result` line is what a probe printed.
pub(crate) fn expect_probes(command: Command, expected: &[(&str, &str)]) -> Result<()> {
    let text = stdout(command)?;
    let wanted: Vec<String> = expected.iter().map(|(n, r)| format!("{n}={r}")).collect();
    let got: Vec<&str> = text.lines().collect();
    ensure!(got == wanted, "expected {wanted:?}, got {got:?}");
    Ok(())
}

pub(crate) fn kill(pid: u32, signal: i32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.try_into()?).context("pid 0")?;
    let signal = rustix::process::Signal::from_named_raw(signal).context("signal")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The state letter of a process (R, S, T, Z …); `None` if it is gone.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Gives `command` the descriptor `from` as number `to`.
pub(crate) fn inherit(command: &mut Command, from: &OwnedFd, to: i32) {
    // Out of the way of the numbers asked for.
    let from = rustix::io::fcntl_dupfd_cloexec(from, 100).unwrap();
    // SAFETY: dup2 is async-signal-safe; the closure owns the descriptor.
    unsafe {
        command.pre_exec(move || match libc::dup2(from.as_raw_fd(), to) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
}

/// A process in a session of its own on a pseudo-terminal.
pub(crate) struct Terminal {
    master: OwnedFd,
    pub(crate) child: Child,
    seen: String,
}

impl Terminal {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            std::fs::File::options().read(true).write(true).open(ptsname(&master, Vec::new())?.to_str()?)?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        // SAFETY: both calls are async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        Ok(Self { master, child: command.spawn()?, seen: String::new() })
    }

    /// An interactive POSIX shell with job control, which knows the launcher as `$L`.
    pub(crate) fn shell() -> Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-im").env("PS1", "$ ").env("PS2", "").env("TERM", "dumb").env_remove("ENV");
        shell.env("L", std::env::current_exe()?).current_dir("/").env("HISTFILE", "");
        Self::start(shell)
    }

    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let mut file = std::fs::File::from(self.master.try_clone()?);
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Reads until `text` has appeared since the last match, and returns what came before it.
    pub(crate) fn expect(&mut self, text: &str) -> Result<String> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let start = Instant::now();
        let mut file = std::fs::File::from(self.master.try_clone()?);
        loop {
            if let Some(at) = self.seen.find(text) {
                let before = self.seen[..at].to_owned();
                self.seen.drain(..at + text.len());
                return Ok(before);
            }
            let left = DEADLINE.checked_sub(start.elapsed());
            let left = left.with_context(|| format!("no {text:?} in {:?}", self.seen))?;
            let timeout = Timespec::try_from(left)?;
            if poll(&mut [PollFd::new(&self.master, PollFlags::IN)], Some(&timeout))? == 0 {
                continue;
            }
            let mut buffer = [0; 4096];
            let n = file.read(&mut buffer).with_context(|| format!("no {text:?} in {:?}", self.seen))?;
            self.seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    /// The only child of the shell: the launcher in the foreground.
    pub(crate) fn launcher(&self) -> Result<u32> {
        let shell = self.child.id();
        let list = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"))?;
        Ok(list.trim().parse()?)
    }

    /// The decimal number that follows `label`.
    pub(crate) fn number_after(&mut self, label: &str) -> Result<u32> {
        self.expect(label)?;
        let text = self.expect("\r\n")?;
        text.trim().parse().with_context(|| format!("{text:?}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The session ends with its leader and the terminal's other side.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
