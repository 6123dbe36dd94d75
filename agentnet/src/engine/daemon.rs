//! The daemon: one engine for this host that stays.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::Mode,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    EngineError, STATE_DIRECTORY, builds, host,
    line::SecondLine,
    make_directory,
    notify::{Heart, Notify},
    policies::PolicyWatch,
    serve::{self, Inputs, Rings, UNFOLLOWED, listen, run_loop, server},
    start::StartError,
    state::{Engine, Settings},
};
use crate::{
    agent::{
        registry::{EngineKind, Registry, RegistryError},
        resolv,
    },
    config::DaemonConfig,
    control::caller::Groups,
    kernel::{KernelError, interfaces::Follow, mounts},
};

/// Why the daemon did not start. What it found governed stays so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// Not root.
    #[error("the daemon needs root; start it with `systemctl start agentnet` or `sudo agentnet daemon`")]
    NotRoot,
    /// There is one, or the registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The state directory cannot be made.
    #[error("cannot make {}: {error}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The control socket cannot be made.
    #[error("cannot listen at {}: {error}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It cannot govern.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<StartError> for DaemonError {
    fn from(error: StartError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<KernelError> for DaemonError {
    fn from(error: KernelError) -> Self {
        Self::Engine(error.into())
    }
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(config: &DaemonConfig) -> Result<(), DaemonError> {
    if !rustix::process::geteuid().is_root() {
        return Err(DaemonError::NotRoot);
    }
    // Directories are made with a mode that is meant, whatever the mask of whoever starts it.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    raise_descriptors();
    std::panic::set_hook(Box::new(
        |info| tracing::error!(%info, "panicked; every agent stays under its policy"),
    ));
    let place = Registry::system().daemon()?;
    let state = Path::new(STATE_DIRECTORY);
    make_directory(state, 0o755).map_err(|error| DaemonError::State { path: state.to_owned(), error })?;
    let (host, unknown) = resolv::this_host().map_err(StartError::Addresses)?;
    let pins = host::daemon_pins(&mounts::ensure_bpffs().map_err(StartError::from)?);
    let mut kernel = builds::open_kernel(&pins)?;
    kernel.sample_at_most(config.http_bytes_per_second);
    let settings = Settings {
        state: state.to_owned(),
        policies: Some(config.policies.clone()),
        groups: Groups { read: group(config.read_group.as_deref()), run: group(config.run_group.as_deref()) },
        store: config.store.clone(),
        secrets: config.host_secrets.clone(),
    };
    let runtime = super::runtime()?;
    let _entered = runtime.enter();
    let (mut engine, watched) =
        Engine::new(EngineKind::Daemon, kernel, settings, host).map_err(StartError::from)?;
    engine.unknown_resolvers = unknown;
    engine.read_secrets();
    let mut rings = Rings::of(&mut engine.kernel)?;
    engine.line = SecondLine::load(&mut engine.kernel);
    // Before they are listed: what comes in between is seen twice, and not never.
    let interfaces = follow(&mut engine);
    engine.adopt(&mut rings)?;
    // Told by `status`, and by the log.
    let selected = engine.reselect(&mut rings);
    if !selected.wrong.is_empty() {
        tracing::error!(wrong = ?selected.wrong, "not everything that policies select is governed");
    }
    let path = place.socket();
    // Everybody may connect, and is told what is not for them: who it is, the kernel says.
    let unheard = |error| DaemonError::Listen { path: path.clone(), error };
    let listener = listen(&path, 0, 0o666).map_err(unheard)?;
    let (server, calls) = server();
    let server = server.found_at(&path).map_err(unheard)?;
    let mut inputs = Inputs::new(rings, watched, server, calls, listener)?;
    inputs.policies = watch(&config.policies, &mut engine);
    inputs.interfaces = interfaces;
    tracing::info!(agents = engine.agents.len(), socket = %path.display(), "serving");
    let notify = Notify::from_env();
    inputs.heart = Some(Heart::new(notify, engine.agents.len()));
    let ended = serve::drive(&runtime, run_loop(engine, inputs));
    notify.stopping();
    ended?;
    // Nobody connects to a daemon that is gone; a killed one leaves its socket to the next.
    let _ = std::fs::remove_file(&path);
    drop(place);
    Ok(())
}

/// Watches the directory of policies, which is made if it is not there.
fn watch(directory: &Path, engine: &mut Engine) -> Option<PolicyWatch> {
    let watch = make_directory(directory, 0o755).and_then(|()| PolicyWatch::new(directory));
    watch
        .map_err(|error| {
            engine.problem(format!(
                "{} cannot be watched ({error}); after a change run `agentnet reload`",
                directory.display()
            ));
        })
        .ok()
}

/// Follows the interfaces of the host.
fn follow(engine: &mut Engine) -> Option<Follow> {
    Follow::open(None).map_err(|error| engine.problem(format!("{UNFOLLOWED} ({error})"))).ok()
}

/// The number of a group; `None` if there is none of that name.
fn group(name: Option<&str>) -> Option<u32> {
    let name = name?;
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Some(group.gid.as_raw()),
        Ok(None) => {
            tracing::info!(group = name, "there is no such group; nobody but root has its rights");
            None
        }
        Err(error) => {
            tracing::warn!(group = name, %error, "the group cannot be looked up");
            None
        }
    }
}

/// Every agent takes three descriptors, and every client one.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
