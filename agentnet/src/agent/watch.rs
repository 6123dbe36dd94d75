//! Cgroups as they come and go: inotify on the directories of the hierarchy.
//!
//! A directory is watched first and listed then, so that nothing made in between is missed; what both tell of is
//! told once. When events were lost everything is listed again, and the difference told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
    io::Errno,
};
use tokio::io::{Interest, unix::AsyncFd};

use super::cgroup::{Cgroup, Hierarchy};

/// Directories that are watched at most: an agent that is root may make cgroups as it likes, and every watch takes
/// kernel memory.
const MOST: usize = 1 << 16;

/// Room for events; one with the longest name takes 272 bytes.
const BUFFER: usize = 1 << 14;

/// A change of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cgroup is there, and was not before, or not known of.
    Appeared {
        /// The cgroup.
        cgroup: Cgroup,
        /// Its id: one made at the same place later has another.
        id: u64,
    },
    /// A cgroup was removed.
    Vanished {
        /// The cgroup.
        cgroup: Cgroup,
        /// The id it had.
        id: u64,
    },
    /// What is made in a cgroup is not seen. To be reported: selectors miss what is made there.
    Blind {
        /// The cgroup.
        cgroup: Cgroup,
        /// Why.
        why: String,
    },
}

/// Which directories are watched, by their paths.
type Interesting = Box<dyn Fn(&Path) -> bool + Send>;

/// Watches the hierarchy.
pub struct Watch {
    inotify: AsyncFd<OwnedFd>,
    hierarchy: Hierarchy,
    interesting: Interesting,
    /// By watch descriptor.
    watched: HashMap<i32, PathBuf>,
    /// Cgroups that were told of, with their ids.
    known: BTreeMap<PathBuf, u64>,
    changes: VecDeque<Change>,
}

/// What the kernel said, without borrowing its buffer.
enum Event {
    Made(i32, Vec<u8>),
    Removed(i32, Vec<u8>),
    Unwatched(i32),
    Lost,
}

impl Watch {
    /// Begins to watch the directories of `hierarchy` that are `interesting`: those in which a cgroup may be made that
    /// matters, see [`super::selector::Selectors::may_be_below`]. What is there already is told first. Takes a tokio
    /// runtime.
    ///
    /// # Errors
    /// If the kernel gives no inotify.
    pub fn start(
        hierarchy: Hierarchy,
        interesting: impl Fn(&Path) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, open and the same for as long as that lives.
        let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?;
        let mut watch = Self {
            inotify,
            hierarchy,
            interesting: Box::new(interesting),
            watched: HashMap::new(),
            known: BTreeMap::new(),
            changes: VecDeque::new(),
        };
        let top = watch.hierarchy.top().path().to_owned();
        watch.open(top);
        Ok(watch)
    }

    /// Watches other directories from now on, after the policies were changed. What is newly seen is told; what was told
    /// before is not told again.
    pub fn refocus(&mut self, interesting: impl Fn(&Path) -> bool + Send + 'static) {
        self.interesting = Box::new(interesting);
        self.rescan();
    }

    /// The next change. Nothing is lost if it is dropped while it waits.
    ///
    /// # Errors
    /// If the kernel does not deliver events any more.
    pub async fn next(&mut self) -> io::Result<Change> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                return Ok(change);
            }
            let mut ready = self.inotify.readable().await?;
            match read(ready.get_inner()) {
                Ok(events) if events.is_empty() => ready.clear_ready(),
                Ok(events) => {
                    drop(ready);
                    events.into_iter().for_each(|event| self.take(event));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Lost => self.rescan(),
            Event::Unwatched(wd) => {
                self.watched.remove(&wd);
            }
            Event::Made(wd, name) | Event::Removed(wd, name) => {
                let Some(directory) = self.watched.get(&wd) else { return };
                let path = directory.join(std::ffi::OsStr::from_bytes(&name));
                self.look(path);
            }
        }
    }

    /// Compares what is at `path` with what was told of it.
    fn look(&mut self, path: PathBuf) {
        let now = fs::metadata(&path).ok().filter(fs::Metadata::is_dir).map(|metadata| metadata.ino());
        let before = self.known.get(&path).copied();
        if now == before {
            return;
        }
        if before.is_some() {
            self.forget(&path);
        }
        if let Some(id) = now {
            self.appeared(path.clone(), id);
            self.open(path);
        }
    }

    fn appeared(&mut self, path: PathBuf, id: u64) {
        self.known.insert(path.clone(), id);
        self.changes.push_back(Change::Appeared { cgroup: Cgroup::at(path), id });
    }

    /// Tells that `path` is gone with all below it, the lowest first.
    fn forget(&mut self, path: &Path) {
        let below = self.known.range(path.to_owned()..).take_while(|(known, _)| known.starts_with(path));
        let gone: Vec<_> = below.map(|(path, id)| (path.clone(), *id)).collect();
        for (path, id) in gone.into_iter().rev() {
            self.known.remove(&path);
            self.changes.push_back(Change::Vanished { cgroup: Cgroup::at(path), id });
        }
        self.watched.retain(|_, watched| !watched.starts_with(path));
    }

    /// Watches `path` and all below it that is interesting, and tells of what is there. Without recursion, for a
    /// hierarchy may be as deep as an agent likes.
    fn open(&mut self, path: PathBuf) {
        let mut open = vec![path];
        while let Some(path) = open.pop() {
            if !(self.interesting)(&path) {
                continue;
            }
            match self.watch(&path) {
                Ok(()) => {}
                Err(Errno::NOENT) => continue,
                // What is there is told all the same.
                Err(errno) => self.blind(&path, &errno.to_string()),
            }
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.blind(&path, &error.to_string());
                    continue;
                }
            };
            let mut children: Vec<PathBuf> = entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path())
                .collect();
            children.sort();
            for child in children.into_iter().rev() {
                let Ok(metadata) = fs::metadata(&child) else { continue };
                match self.known.get(&child) {
                    Some(&id) if id == metadata.ino() => {}
                    known => {
                        if known.is_some() {
                            self.forget(&child);
                        }
                        self.appeared(child.clone(), metadata.ino());
                    }
                }
                open.push(child);
            }
        }
    }

    fn watch(&mut self, path: &Path) -> Result<(), Errno> {
        if self.watched.len() >= MOST {
            return Err(Errno::NOSPC);
        }
        let events = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
        let wd = inotify::add_watch(self.inotify.get_ref(), path, events)?;
        self.watched.insert(wd, path.to_owned());
        Ok(())
    }

    fn blind(&mut self, path: &Path, why: &str) {
        self.changes.push_back(Change::Blind { cgroup: Cgroup::at(path), why: why.to_owned() });
    }

    /// Lists everything again and tells the difference.
    fn rescan(&mut self) {
        let gone: Vec<PathBuf> = self
            .known
            .iter()
            .filter(|(path, id)| fs::metadata(path).map_or(true, |metadata| metadata.ino() != **id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if self.known.contains_key(&path) {
                self.forget(&path);
            }
        }
        let top = self.hierarchy.top().path().to_owned();
        self.open(top);
    }
}

/// The events that are there now.
fn read(inotify: &OwnedFd) -> io::Result<Vec<Event>> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(inotify.as_fd(), &mut buffer);
    let mut events = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::AGAIN) => return Ok(events),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let flags = event.events();
        let name = || event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            events.push(Event::Lost);
        } else if flags.contains(ReadFlags::IGNORED) {
            events.push(Event::Unwatched(event.wd()));
        } else if !flags.contains(ReadFlags::ISDIR) {
            // The kernel's own files.
        } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            events.push(Event::Made(event.wd(), name()));
        } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            events.push(Event::Removed(event.wd(), name()));
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("known", &self.known).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A hierarchy of plain directories, which come and go like cgroups.
    struct Lab {
        root: tempfile::TempDir,
        watch: Watch,
    }

    impl Lab {
        fn new(interesting: impl Fn(&Path) -> bool + Send + 'static) -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir_all(root.path().join("there/below")).unwrap();
            fs::write(root.path().join("file"), "").unwrap();
            let watch = Watch::start(Hierarchy::at(root.path()), interesting).unwrap();
            Self { root, watch }
        }

        fn make(&self, path: &str) {
            fs::create_dir_all(self.root.path().join(path)).unwrap();
        }

        fn remove(&self, path: &str) {
            fs::remove_dir(self.root.path().join(path)).unwrap();
        }

        /// The changes up to the first that is `last`.
        async fn until(&mut self, last: &str) -> Vec<String> {
            let mut seen = Vec::new();
            while seen.last().is_none_or(|seen| seen != last) {
                let next = tokio::time::timeout(Duration::from_secs(10), self.watch.next()).await;
                let next = next.unwrap_or_else(|_| panic!("no {last}, but {seen:?}")).unwrap();
                let (sign, cgroup) = match &next {
                    Change::Appeared { cgroup, .. } => ('+', cgroup),
                    Change::Vanished { cgroup, .. } => ('-', cgroup),
                    Change::Blind { cgroup, .. } => ('!', cgroup),
                };
                let path = cgroup.path().strip_prefix(self.root.path()).unwrap();
                seen.push(format!("{sign}{}", path.display()));
            }
            seen
        }
    }

    #[tokio::test]
    async fn what_is_there_comes_first_then_what_is_made() {
        let mut lab = Lab::new(|_| true);
        assert_eq!(lab.until("+there/below").await, ["+there", "+there/below"]);
        lab.make("new/a/b");
        assert_eq!(lab.until("+new/a/b").await, ["+new", "+new/a", "+new/a/b"]);
        lab.make("new/a/c");
        lab.remove("there/below");
        assert_eq!(lab.until("-there/below").await, ["+new/a/c", "-there/below"]);
    }

    #[tokio::test]
    async fn one_made_anew_at_the_same_place_is_another() {
        let mut lab = Lab::new(|_| true);
        lab.until("+there/below").await;
        // The first is kept under another name, so that the second cannot get its inode.
        fs::rename(lab.root.path().join("there"), lab.root.path().join("moved")).unwrap();
        lab.make("there/next");
        let seen = lab.until("+there/next").await;
        let at = |wanted: &str| seen.iter().position(|seen| seen == wanted);
        assert!(at("-there") < at("+there") && at("-there").is_some(), "{seen:?}");
        assert!(at("-there/below") < at("-there"), "{seen:?}");
    }

    #[tokio::test]
    async fn what_cannot_matter_is_not_looked_into() {
        let mut lab = Lab::new(|path| !path.ends_with("there"));
        lab.make("other/x");
        assert_eq!(lab.until("+other/x").await, ["+there", "+other", "+other/x"]);
        lab.watch.refocus(|_| true);
        assert_eq!(lab.until("+there/below").await, ["+there/below"]);
    }

    #[tokio::test]
    async fn lost_events_are_made_up_for() {
        let mut lab = Lab::new(|_| true);
        lab.until("+there/below").await;
        lab.remove("there/below");
        lab.make("fresh");
        // The queue is emptied without being looked at, as if it had run over.
        while read(lab.watch.inotify.get_ref()).unwrap().is_empty() {}
        lab.watch.take(Event::Lost);
        assert_eq!(lab.until("+fresh").await, ["-there/below", "+fresh"]);
        lab.make("fresh/more");
        assert_eq!(lab.until("+fresh/more").await, ["+fresh/more"], "and is watched since");
    }

    #[tokio::test]
    async fn many_at_once_are_all_told() {
        let mut lab = Lab::new(|_| true);
        lab.until("+there/below").await;
        for index in 0..2000 {
            lab.make(&format!("many{index:04}/in"));
        }
        let seen = lab.until("+many1999/in").await;
        let mut told: Vec<_> = seen.iter().filter(|seen| seen.ends_with("/in")).collect();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), 2000);
        assert_eq!(seen.len(), 4000, "and each once");
    }
}
