//! Processes: whether one lives, and which executable it runs.

use std::{
    collections::BTreeMap,
    os::{fd::AsFd, unix::ffi::OsStrExt as _},
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    time::{ClockId, Timespec, clock_gettime},
};

use crate::alert::{
    model::Ancestor,
    text::{MAX_COMM, MAX_PATH, clean},
};

/// Processes that are remembered.
const CAPACITY: usize = 1024;
/// How long after its last sign of life a process that is gone may still be named, in nanoseconds. Process
/// ids come round again, faster the smaller `kernel.pid_max` is.
const MEMORY: u64 = 10_000_000_000;
/// How long what was read of a process is good enough where [`Freshness::Recent`] is, in nanoseconds.
const RECENT: u64 = SECOND;
/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Whether the process behind `pidfd` has not ended: it can be read as soon as it has.
pub fn lives(pidfd: &impl AsFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)) == Ok(0)
}

/// How fresh an answer has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Read for this very event: a process may have executed something else since the last one.
    Now,
    /// Read within the last second: for events of which there may be tens of thousands a second.
    Recent,
}

/// Finds the executable of a process.
pub trait Executables: Send {
    /// Path of the executable of process `pid` (in the initial namespace) as it was at `at`, nanoseconds of
    /// `CLOCK_MONOTONIC`, ` (deleted)` behind it if the file is gone. `None` if the process is gone and was
    /// never seen before; `comm` is its command name.
    fn executable(&mut self, pid: u32, comm: &str, at: u64, freshness: Freshness) -> Option<Arc<str>>;

    /// Who is above process `pid` as it was at `at`, its parent first, as far as they are still there.
    fn ancestors(&mut self, _pid: u32, _at: u64) -> Vec<Ancestor> {
        Vec::new()
    }
}

/// Ancestors of a process that are told.
const ANCESTORS: usize = 8;

/// Reads `/proc` and remembers a bounded number of processes, because the shortest-lived ones are gone
/// before their second record is read.
#[derive(Debug, Default)]
pub struct ProcessTable {
    /// By process id and start, nanoseconds since boot.
    known: BTreeMap<(u32, u64), Known>,
}

#[derive(Clone, Debug)]
struct Known {
    comm: String,
    executable: Arc<str>,
    /// Time of the last event for which it was read.
    seen: u64,
}

impl Executables for ProcessTable {
    fn executable(&mut self, pid: u32, comm: &str, at: u64, freshness: Freshness) -> Option<Arc<str>> {
        let at = at.saturating_add(suspended());
        let within = match freshness {
            Freshness::Now => None,
            Freshness::Recent => self.recall(pid, comm, at, RECENT),
        };
        within.or_else(|| self.look(pid, comm, at))
    }

    fn ancestors(&mut self, pid: u32, at: u64) -> Vec<Ancestor> {
        above(pid, at.saturating_add(suspended()))
    }
}

/// The chain above a process that had begun `at` nanoseconds after boot. A process whose parent has ended has the
/// one that took it over above it; what began after its child is another one with the same number, and ends the chain.
fn above(pid: u32, at: u64) -> Vec<Ancestor> {
    let (mut ancestors, mut below, mut pid) = (Vec::new(), at, pid);
    while let Some((started, parent)) = parent(pid).filter(|(started, _)| *started <= below) {
        // Process 1 is above everything and says nothing.
        if parent <= 1 || ancestors.len() >= ANCESTORS {
            break;
        }
        let Some(process) = open(parent) else { break };
        let Ok(stat) = process.stat() else { break };
        let began = since_boot(stat.starttime);
        if began > started {
            break;
        }
        let exe = process
            .exe()
            .ok()
            .map(|path| clean(&String::from_utf8_lossy(path.as_os_str().as_bytes()), MAX_PATH));
        ancestors.push(Ancestor { pid: parent, comm: clean(&stat.comm, MAX_COMM), exe });
        (below, pid) = (began, parent);
    }
    ancestors
}

/// When a process began, and its parent.
fn parent(pid: u32) -> Option<(u64, u32)> {
    let stat = open(pid)?.stat().ok()?;
    Some((since_boot(stat.starttime), u32::try_from(stat.ppid).ok()?))
}

fn open(pid: u32) -> Option<procfs::process::Process> {
    procfs::process::Process::new(i32::try_from(pid).ok().filter(|pid| *pid > 0)?).ok()
}

/// Ticks since boot as nanoseconds, rounded down to the kernel's tick.
fn since_boot(ticks: u64) -> u64 {
    let started = u128::from(ticks) * u128::from(SECOND) / u128::from(procfs::ticks_per_second().max(1));
    u64::try_from(started).unwrap_or(u64::MAX)
}

impl ProcessTable {
    /// As [`Executables::executable`], with `at` in nanoseconds since boot, suspension included: the clock
    /// on which the kernel counts starts.
    fn look(&mut self, pid: u32, comm: &str, at: u64) -> Option<Arc<str>> {
        // A process that began after the event is another one with the same number.
        match read(pid).filter(|(started, _)| *started <= at) {
            Some((started, executable)) => {
                let executable = Arc::from(executable);
                self.remember((pid, started), comm, &executable, at);
                Some(executable)
            }
            None => self.recall(pid, comm, at, MEMORY),
        }
    }

    fn remember(&mut self, key: (u32, u64), comm: &str, executable: &Arc<str>, at: u64) {
        if self.known.len() >= CAPACITY && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.seen).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        let known = Known { comm: comm.to_owned(), executable: Arc::clone(executable), seen: at };
        self.known.insert(key, known);
    }

    /// The youngest process with this number that had begun by then, if it was read at most `age` before
    /// and still has the same name: else it may be another one that was never seen.
    fn recall(&self, pid: u32, comm: &str, at: u64, age: u64) -> Option<Arc<str>> {
        let (_, known) = self.known.range((pid, 0)..=(pid, at)).next_back()?;
        let recent = at.saturating_sub(known.seen) <= age;
        (recent && known.comm == comm).then(|| Arc::clone(&known.executable))
    }
}

/// Start (nanoseconds since boot, rounded down to the kernel's tick) and executable of a process that is
/// there now. Both are read through one handle on its directory, so they are of one process.
fn read(pid: u32) -> Option<(u64, String)> {
    let process = open(pid)?;
    let ticks = process.stat().ok()?.starttime;
    let path = process.exe().ok()?;
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    Some((since_boot(ticks), clean(&path, MAX_PATH)))
}

/// How long the machine was suspended since boot: `CLOCK_MONOTONIC` stood still.
fn suspended() -> u64 {
    nanoseconds(clock_gettime(ClockId::Boottime)).saturating_sub(monotonic())
}

/// The time as the kernel's records have it, nanoseconds of `CLOCK_MONOTONIC`.
pub fn monotonic() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(SECOND).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Child, Command, Stdio},
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{
        CAPACITY, Executables as _,
        Freshness::{Now, Recent},
        MEMORY, ProcessTable, above, monotonic as now, read,
    };

    /// A process that waits for its input to end, after its exec.
    fn start(program: &std::path::Path) -> Child {
        let child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !read(child.id()).is_some_and(|(_, path)| path.ends_with("cat")) {
            assert!(Instant::now() < deadline, "the process did not start");
            std::thread::yield_now();
        }
        child
    }

    fn stop(mut child: Child) {
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    fn cat() -> std::path::PathBuf {
        std::fs::canonicalize("/bin/cat").unwrap()
    }

    #[test]
    fn a_living_process_has_its_executable() {
        let mut table = ProcessTable::default();
        let expected = std::env::current_exe().unwrap();
        let found = table.executable(std::process::id(), "test", now(), Now);
        assert_eq!(found.as_deref(), expected.to_str());
    }

    #[test]
    fn a_process_that_is_gone_is_remembered_for_a_while_and_by_its_name() {
        let mut table = ProcessTable::default();
        let child = start(&cat());
        let (pid, seen) = (child.id(), now());
        let path = table.executable(pid, "cat", seen, Now);
        assert_eq!(path.as_deref(), cat().to_str());
        stop(child);
        assert_eq!(table.executable(pid, "cat", seen + 1, Now), path);
        assert_eq!(table.executable(pid, "other", seen + 1, Now), None);
        assert_eq!(table.executable(pid, "cat", seen + MEMORY + 1, Now), None);
        assert_eq!(ProcessTable::default().executable(pid, "cat", seen + 1, Now), None);
    }

    #[test]
    fn what_was_read_a_moment_ago_is_read_again_only_where_it_has_to_be() {
        let mut table = ProcessTable::default();
        let stale: Arc<str> = Arc::from("/read/before");
        let (pid, at) = (std::process::id(), now() + super::suspended());
        let (started, path) = read(pid).unwrap();
        table.remember((pid, started), "test", &stale, at);
        let mut ask = |later: u64, freshness| {
            table.executable(pid, "test", at - super::suspended() + later, freshness).unwrap().to_string()
        };
        assert_eq!(ask(super::RECENT / 2, Recent), "/read/before");
        assert_eq!(ask(super::RECENT * 2, Recent), path);
        assert_eq!(ask(super::RECENT * 2, Now), path);
    }

    #[test]
    fn a_process_that_began_after_the_event_is_not_its_author() {
        let mut table = ProcessTable::default();
        let before = now() - 60_000_000_000;
        let child = start(&cat());
        assert_eq!(table.executable(child.id(), "cat", before, Now), None);
        assert!(table.executable(child.id(), "cat", now(), Now).is_some());
        stop(child);
    }

    #[test]
    fn a_deleted_executable_is_shown_as_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("my-cat");
        std::fs::copy(cat(), &copy).unwrap();
        let child = start(&copy);
        std::fs::remove_file(&copy).unwrap();
        let found = ProcessTable::default().executable(child.id(), "my-cat", now(), Now);
        assert_eq!(found.as_deref(), Some(format!("{} (deleted)", copy.display()).as_str()));
        stop(child);
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_longest_unseen() {
        let mut table = ProcessTable::default();
        let path: Arc<str> = Arc::from("/bin/x");
        for pid in 0..=u32::try_from(CAPACITY).unwrap() {
            table.remember((pid, 5), "x", &path, u64::from(pid) + 10);
        }
        assert_eq!(table.known.len(), CAPACITY);
        assert_eq!(table.recall(0, "x", 100, MEMORY), None);
        assert!(table.recall(1, "x", 100, MEMORY).is_some());
    }

    #[test]
    fn who_is_above_a_process_is_told_while_it_is_there() {
        let own = std::process::id();
        let mut child =
            Command::new("/bin/sh").args(["-c", "read _; :"]).stdin(Stdio::piped()).spawn().unwrap();
        let ancestors = above(child.id(), u64::MAX);
        assert_eq!(ancestors[0].pid, own);
        assert_eq!(ancestors[0].exe.as_deref(), std::env::current_exe().unwrap().to_str());
        // As of a time before it began it is another process.
        assert_eq!(above(child.id(), 0), []);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(above(child.id(), u64::MAX), [], "it is gone");
        assert_eq!(above(0, u64::MAX), []);
    }
}
