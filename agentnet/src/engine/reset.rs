//! Giving up what nobody looks after any more: the way out for whoever is locked out by a policy whose engine is dead.
//!
//! It works without any engine, by what is pinned. What is refused is judged as the kernel has judged it, by the policy
//! that is in force, and destroyed first: it would leave as soon as nobody refuses it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    STATE_DIRECTORY, acts,
    existing::{self, ExistingError, Occasion, Question},
    host::{self, SocketsError},
    selectors::id_of,
};
use crate::{
    agent::{
        AgentName,
        cgroup::{Cgroup, CgroupError, Hierarchy},
        registry::{Exclusive, Listed, Meta, Owner, Registry, RegistryError},
    },
    kernel::{
        KernelError,
        held::Held,
        marks::Marks,
        mounts::{self, MountError},
        pins,
    },
};

/// Why nothing was given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// Not root.
    #[error("only root may give up what is enforced; use sudo")]
    NotRoot,
    /// An agent would free itself.
    #[error(
        "this process is under a policy itself, that of agent {0}, and may not take it off; use a shell outside of it, \
         such as that of `systemd-run --pty`"
    )]
    Governed(AgentName),
    /// Nobody can tell whether it is one.
    #[error("cannot tell whether this process is under a policy itself: {0}")]
    Unknown(#[source] CgroupError),
    /// Somebody looks after all of it.
    #[error(
        "the engine of {} lives: let it go with `agentnet detach`, or end its command; with --force it is given up all the same",
        names(.0)
    )]
    Served(Vec<AgentName>),
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no bpffs, and so nothing that is pinned.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Pins cannot be listed.
    #[error("cannot list what is pinned below {}: {error}", path.display())]
    Pins {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

fn names(agents: &[AgentName]) -> String {
    agents.iter().map(|name| format!("agent {name}")).collect::<Vec<_>>().join(", ")
}

/// What became of one agent.
#[derive(Clone, Debug, Serialize)]
pub struct Freed {
    /// Its name.
    pub agent: AgentName,
    /// Whether nothing enforces its policy any more.
    pub free: bool,
    /// How many connections were destroyed first.
    pub closed: usize,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
}

/// What became of everything.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Agents that were to be freed.
    pub freed: Vec<Freed>,
    /// Agents that were left alone, because their engines live.
    pub left: Vec<AgentName>,
    /// What else should be known, a sentence each.
    pub notes: Vec<String>,
}

/// One engine's pins.
#[derive(Debug, Default)]
struct Place {
    agents: BTreeSet<AgentName>,
    is_alive: bool,
}

/// Gives up everything whose engine is dead; with `force` also the rest.
///
/// # Errors
/// See [`ResetError`]; then nothing was changed.
pub fn reset(force: bool) -> Result<Done, ResetError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ResetError::NotRoot);
    }
    let registry = Registry::system();
    let exclusive = registry.exclusive()?;
    let listed = registry.list()?;
    // Held for as long as it takes: no daemon begins to adopt what is being given up.
    let daemon = match registry.daemon() {
        Ok(place) => Some(place),
        Err(RegistryError::DaemonRuns) => None,
        Err(error) => return Err(error.into()),
    };
    let serves = daemon.is_none();
    let places = places(&listed, serves)?;
    may_reset(&listed, &places)?;
    let mut done = Done::default();
    let (alive, dead): (Vec<_>, Vec<_>) = places.into_iter().partition(|(_, place)| place.is_alive && !force);
    done.left = alive.into_iter().flat_map(|(_, place)| place.agents).collect();
    if dead.iter().all(|(_, place)| place.agents.is_empty()) && !done.left.is_empty() {
        return Err(ResetError::Served(done.left));
    }
    for (pins, place) in dead {
        for agent in &place.agents {
            let meta =
                listed.iter().find(|listed| listed.name == *agent).and_then(|found| found.meta.as_ref());
            done.freed.push(free(&registry, &exclusive, &pins, agent, meta, force));
        }
        if let Err(error) = clear(&pins) {
            done.notes.push(format!("something is left below {}: {error}", pins.display()));
        }
    }
    if serves {
        done.notes.push(
            "the daemon still runs, and says that nothing is enforced; stop it, or it may guard interfaces of its agents again"
                .to_owned(),
        );
        return Ok(done);
    }
    match acts::forget_kept(Path::new(STATE_DIRECTORY)) {
        Ok(true) => {
            done.notes
                .push("what was done by hand is forgotten, also for agents that begin later".to_owned());
        }
        Ok(false) => {}
        Err(error) => done.notes.push(format!("what was done by hand cannot be forgotten: {error}")),
    }
    Ok(done)
}

/// All pins of agentnet, whatever version has made them, with the agents that have any or are registered.
fn places(listed: &[Listed], serves: bool) -> Result<BTreeMap<PathBuf, Place>, ResetError> {
    let mut places: BTreeMap<PathBuf, Place> = BTreeMap::new();
    for Listed { name, owner, meta, .. } in listed {
        let Some(meta) = meta else { continue };
        let place = places.entry(meta.pins.clone()).or_default();
        place.agents.insert(name.clone());
        place.is_alive |= *owner != Owner::Gone;
    }
    let root = mounts::bpffs_mount()?.join("agentnet");
    for version in directories(&root)? {
        let place = places.entry(version.clone()).or_default();
        place.is_alive |= serves;
        for run in directories(&version.join("run"))? {
            places.entry(run).or_default();
        }
    }
    for (pins, place) in &mut places {
        let pinned = pins::agents(pins).map_err(|error| ResetError::Pins { path: pins.clone(), error })?;
        place.agents.extend(pinned);
    }
    Ok(places)
}

fn directories(path: &Path) -> Result<Vec<PathBuf>, ResetError> {
    let failed = |error| ResetError::Pins { path: path.to_owned(), error };
    match fs::read_dir(path) {
        Ok(entries) => {
            let all: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
            Ok(all.map_err(failed)?.into_iter().filter(|path| path.is_dir()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

/// Refuses whoever is under a policy.
fn may_reset(listed: &[Listed], places: &BTreeMap<PathBuf, Place>) -> Result<(), ResetError> {
    let hierarchy = Hierarchy::find().map_err(ResetError::Unknown)?;
    let own = hierarchy.of(rustix::process::getpid().as_raw_nonzero().get()).map_err(ResetError::Unknown)?;
    let above: HashSet<u64> = own.path().ancestors().filter_map(id_of).collect();
    for Listed { name, meta, .. } in listed {
        if meta.as_ref().is_some_and(|meta| own.path().starts_with(&meta.cgroup)) {
            return Err(ResetError::Governed(name.clone()));
        }
    }
    for (pins, place) in places {
        let held = Held::at(pins);
        for agent in &place.agents {
            if held.cgroup(agent).is_some_and(|id| above.contains(&id)) {
                return Err(ResetError::Governed(agent.clone()));
            }
        }
    }
    Ok(())
}

/// Why connections of an agent may still be there.
#[derive(Debug, thiserror::Error)]
enum HeldBack {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error(transparent)]
    Existing(#[from] ExistingError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

fn free(
    registry: &Registry,
    exclusive: &Exclusive,
    pins: &Path,
    agent: &AgentName,
    meta: Option<&Meta>,
    force: bool,
) -> Freed {
    let mut freed = Freed { agent: agent.clone(), free: false, closed: 0, notes: Vec::new() };
    let held = Held::at(pins);
    let id = held.cgroup(agent).filter(|id| *id != 0);
    let cgroup = meta.map(|meta| meta.cgroup.clone()).filter(|path| id.is_none() || id_of(path) == id);
    let cgroup = cgroup.or_else(|| id.and_then(find)).filter(|path| path.exists()).map(Cgroup::at);
    match destroy(&held, pins, id, meta, cgroup.as_ref(), &mut freed.notes) {
        Ok(closed) => freed.closed = closed,
        Err(error) if force => {
            freed
                .notes
                .push(format!("what was held back may leave now, because it cannot be destroyed: {error}"));
        }
        Err(error) => {
            freed.notes.push(format!(
                "it stays under its policy, because what was held back cannot be destroyed: {error}; with --force it is given \
                 up all the same"
            ));
            return freed;
        }
    }
    if let Err(error) = pins::clear_agent(pins, agent) {
        freed.notes.push(format!("its links cannot be removed, and enforce its policy still: {error}"));
        return freed;
    }
    freed.free = true;
    if let Some(meta) = meta.filter(|meta| meta.made) {
        let cgroup = Cgroup::at(&meta.cgroup);
        match cgroup.is_populated() {
            Ok(true) => freed
                .notes
                .push(format!("its processes go on, without a policy, in {}", meta.cgroup.display())),
            _ if meta.cgroup.exists() => {
                if let Err(error) = host::remove_cgroup(&cgroup) {
                    freed.notes.push(error.to_string());
                }
            }
            _ => {}
        }
    }
    if meta.is_some() {
        match registry.adopt(exclusive, agent).and_then(|entry| entry.remove(exclusive)) {
            Ok(()) => {}
            // Its engine tells what has become of it.
            Err(RegistryError::InUse(_)) => {
                freed.notes.push("its engine lives, and says that nothing is enforced; end it".to_owned());
            }
            Err(error) => freed.notes.push(error.to_string()),
        }
    }
    freed
}

/// Destroys what the agent's policy refuses, and says how many connections that were.
fn destroy(
    held: &Held,
    pins: &Path,
    id: Option<u64>,
    meta: Option<&Meta>,
    cgroup: Option<&Cgroup>,
    notes: &mut Vec<String>,
) -> Result<usize, HeldBack> {
    let cfg = id.map(|id| held.configuration(id));
    let number = match (&cfg, meta) {
        (Some(Ok(cfg)), _) => cfg.agent,
        (_, Some(meta)) => meta.id,
        _ => 0,
    };
    let refused = pins::refused_sockets(pins).map(|refused| {
        let own = refused.into_iter().filter(|(_, agent)| *agent == number);
        own.map(|(cookie, _)| cookie).collect::<HashSet<u64>>()
    });
    let mut closed = match &refused {
        Ok(refused) => host::destroy_sockets(refused, None)?,
        Err(_) => 0,
    };
    let Some(cgroup) = cgroup else { return Ok(closed) };
    let policy = match (&cfg, &refused, held.has_overflown(number)) {
        (Some(Ok(cfg)), Ok(_), Ok(false)) => held.policy(cfg.slot).map(|tables| (*cfg, tables)).ok(),
        _ => None,
    };
    let Some((cfg, tables)) = policy else {
        notes.push("what its policy refuses cannot be read, so all its connections were closed".to_owned());
        return Ok(closed + host::destroy_sockets(&HashSet::new(), Some(cgroup))?);
    };
    let marks = Marks::open(pins).ok();
    let question =
        Question { tables: &tables, is_known: true, acts: held, cfg, cgroup, marks: marks.as_ref() };
    closed += existing::settle(&question, Occasion::Reload)?.destroyed.len();
    Ok(closed)
}

/// The path of the cgroup with this id.
fn find(id: u64) -> Option<PathBuf> {
    let mut left = vec![Hierarchy::find().ok()?.top().path().to_owned()];
    while let Some(path) = left.pop() {
        if id_of(&path) == Some(id) {
            return Some(path);
        }
        left.extend(
            fs::read_dir(&path).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()),
        );
    }
    None
}

/// Removes the maps of an engine that has no agents any more, and what its agents shared.
fn clear(pins: &Path) -> io::Result<()> {
    if !pins::agents(pins)?.is_empty() {
        return Ok(());
    }
    pins::clear_engine(pins)?;
    for directory in pins.ancestors().take(4) {
        // Refused while something is in it, which is why it can be tried.
        if fs::remove_dir(directory).is_err() {
            break;
        }
    }
    Ok(())
}
