//! What engines tell live: a connection to each, made anew when an engine comes back.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::UnixStream, sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    agent::AgentName,
    alert::model::Output,
    control::{
        frame::{self, FrameError},
        protocol::{Follow, Reply, Request},
    },
};

/// Where engines answer.
pub const RUN_DIRECTORY: &str = "/run/agentnet";

/// How often new engines are looked for. By looking and not by inotify(7): directories that do not exist
/// yet and a registry that is made anew need no cases of their own, and what happens between two looks is
/// read from the segments.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Events that may wait for a slow terminal; the engine counts what it then cannot send.
const CAPACITY: usize = 256;

/// How long an engine may take to say that it will tell. An engine that says nothing is listened to all
/// the same.
const PATIENCE: Duration = Duration::from_secs(2);

/// An engine that tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Engine {
    /// The daemon.
    Daemon,
    /// That of `agentnet run` for this agent.
    Run(AgentName),
}

impl Engine {
    /// The agent it is there for alone.
    const fn agent(&self) -> Option<&AgentName> {
        match self {
            Self::Daemon => None,
            Self::Run(agent) => Some(agent),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon => f.write_str("the daemon"),
            Self::Run(agent) => write!(f, "the engine of agent {agent}"),
        }
    }
}

/// What an engine does.
#[derive(Debug)]
pub enum Event {
    /// It tells from now on, and has something to say about that.
    Begun(Engine, Option<String>),
    /// It tells something.
    Output(Engine, Box<Output>),
    /// It could not tell so many lines, because they were not taken in time.
    Missed(Engine, u64),
    /// It does not tell the caller, and why.
    Refused(Engine, String),
    /// It tells no more.
    Gone(Engine),
}

/// Connections to all engines.
#[derive(Debug)]
pub struct Followers {
    root: PathBuf,
    request: Follow,
    events: mpsc::Sender<Event>,
    tasks: JoinSet<(Engine, Ended)>,
    engines: BTreeMap<Engine, State>,
    /// Sockets that dead engines have left, and that were told of.
    unreached: BTreeMap<Engine, Identity>,
}

/// Device and inode number of a socket: another engine's is another.
type Identity = (u64, u64);

#[derive(Debug)]
enum State {
    Connected,
    /// This socket does not let the caller in.
    Refused(Identity),
}

#[derive(Debug)]
enum Ended {
    Refused,
    /// It was there, and is no more.
    Gone,
    /// It was gone before it told anything.
    Unreached,
}

/// What [`Followers::look`] has found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Nobody is followed, and who could be does not want to be.
    pub refused: bool,
    /// Agents whose engines were gone before they could be followed: all of them is in the segments.
    pub unreached: Vec<AgentName>,
}

impl Followers {
    /// Nobody yet, of those below [`RUN_DIRECTORY`] or another `root`; and where events come out.
    pub fn new(root: PathBuf, request: Follow) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(CAPACITY);
        let followers = Self {
            root,
            request,
            events,
            tasks: JoinSet::new(),
            engines: BTreeMap::new(),
            unreached: BTreeMap::new(),
        };
        (followers, receiver)
    }

    /// Looks for engines that are not followed, and follows them. To be called every [`LOOK_INTERVAL`],
    /// from within a runtime.
    pub fn look(&mut self) -> Look {
        let mut look = Look::default();
        while let Some(ended) = self.tasks.try_join_next() {
            // A task that panicked leaves its engine marked as followed, which only ends what it tells.
            let Ok((engine, ended)) = ended else { continue };
            self.engines.remove(&engine);
            let identity = identity(&socket(&self.root, &engine));
            match (ended, identity) {
                (Ended::Gone, _) => {}
                (Ended::Refused, Some(identity)) => {
                    self.engines.insert(engine, State::Refused(identity));
                }
                (Ended::Unreached, Some(identity))
                    if self.unreached.insert(engine.clone(), identity) == Some(identity) => {}
                (Ended::Refused | Ended::Unreached, _) => look.unreached.extend(engine.agent().cloned()),
            }
        }
        let present = self.present();
        self.unreached.retain(|engine, _| present.contains_key(engine));
        let is_refused = |state: &State, identity: &Identity| matches!(state, State::Refused(refused) if refused == identity);
        self.engines.retain(|engine, state| {
            matches!(state, State::Connected)
                || present.get(engine).is_some_and(|identity| is_refused(state, identity))
        });
        for engine in present.into_keys() {
            if self.engines.contains_key(&engine) {
                continue;
            }
            self.engines.insert(engine.clone(), State::Connected);
            let path = socket(&self.root, &engine);
            let (request, events) = (self.request.clone(), self.events.clone());
            self.tasks.spawn(async move {
                let ended = follow(&engine, &path, request, &events).await;
                (engine, ended)
            });
        }
        // One's own agents may still come, unless it is another that is asked for.
        let only = |engine: &Engine| *engine == Engine::Daemon || self.request.agent.is_some();
        let followed = self.engines.values().any(|state| matches!(state, State::Connected));
        look.refused = !followed && self.engines.keys().any(only);
        look
    }

    /// The engines that have a socket.
    fn present(&self) -> BTreeMap<Engine, Identity> {
        let entries = fs::read_dir(self.root.join("agents")).into_iter().flatten().flatten();
        let agents = entries.filter_map(|entry| entry.file_name().into_string().ok()?.parse().ok());
        // The daemon tells of its agents itself, which have no socket of their own.
        let wanted = agents.filter(|agent| self.request.agent.as_ref().is_none_or(|only| only == agent));
        let engines = wanted.map(Engine::Run).chain([Engine::Daemon]);
        let with_identity = |engine: Engine| {
            let identity = identity(&socket(&self.root, &engine))?;
            Some((engine, identity))
        };
        engines.filter_map(with_identity).collect()
    }
}

fn socket(root: &Path, engine: &Engine) -> PathBuf {
    let directory = match engine {
        Engine::Daemon => root.join("daemon"),
        Engine::Run(agent) => root.join("agents").join(agent),
    };
    directory.join("control.sock")
}

fn identity(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Follows one engine until it is gone.
async fn follow(engine: &Engine, path: &Path, request: Follow, events: &mpsc::Sender<Event>) -> Ended {
    let mut begun = false;
    let why = match converse(engine, path, request, events, &mut begun).await {
        Ok(()) if begun => return Ended::Gone,
        Err(Failed::Denied(why)) => why,
        Err(Failed::Frame(FrameError::Io(error))) if error.kind() == io::ErrorKind::PermissionDenied => {
            "only root and those who may read its log may follow it".to_owned()
        }
        // It has ended, or is about to begin.
        Ok(()) | Err(Failed::Frame(FrameError::Io(_))) => return Ended::Unreached,
        // Of another version: to ask again changes nothing.
        Err(Failed::Frame(error)) => error.to_string(),
    };
    // Who does not take it any more is about to end.
    let _ = events.send(Event::Refused(engine.clone(), why)).await;
    Ended::Refused
}

enum Failed {
    Denied(String),
    Frame(FrameError),
}

impl<T: Into<FrameError>> From<T> for Failed {
    fn from(error: T) -> Self {
        Self::Frame(error.into())
    }
}

async fn converse(
    engine: &Engine,
    path: &Path,
    request: Follow,
    events: &mpsc::Sender<Event>,
    begun: &mut bool,
) -> Result<(), Failed> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(&frame::encode(&Request::Follow(request))?).await?;
    // Readable before the first frame is read, which must not be given up halfway.
    let answered = timeout(PATIENCE, stream.readable()).await;
    if answered.is_err() {
        *begun = true;
        if events.send(Event::Begun(engine.clone(), None)).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let reply = frame::read_async::<Reply>(&mut stream).await;
        let event = match reply {
            Ok(Some(Reply::Output(output))) => Event::Output(engine.clone(), Box::new(output)),
            Ok(Some(Reply::Missed(count))) => Event::Missed(engine.clone(), count),
            Ok(Some(Reply::Error(failure))) => return Err(Failed::Denied(failure.message)),
            Ok(Some(Reply::Done(text))) if !*begun => {
                Event::Begun(engine.clone(), (!text.is_empty()).then_some(text))
            }
            Ok(Some(_)) => continue,
            Ok(None) | Err(FrameError::Io(_)) if *begun => Event::Gone(engine.clone()),
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let last = matches!(event, Event::Gone(_));
        if !*begun
            && !matches!(event, Event::Begun(..))
            && events.send(Event::Begun(engine.clone(), None)).await.is_err()
        {
            return Ok(());
        }
        *begun = true;
        if events.send(event).await.is_err() || last {
            return Ok(());
        }
    }
}
