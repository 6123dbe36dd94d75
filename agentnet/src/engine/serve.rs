//! The loop: waits for whatever happens next and hands it to the [`Engine`].

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream as StdStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UnixListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    EngineError, STATE_DIRECTORY,
    agent::{Phase, Session},
    host,
    notify::Heart,
    policies::PolicyWatch,
    selection::Selection,
    selectors::Sources,
    slots::Slots,
    sources::{Item, Records},
    start::{self, Child, Claim, StartError},
    state::{Engine, FIRST_ID, Settings},
};
use crate::{
    agent::{AgentName, cgroup::Hierarchy, registry::EngineKind, resolv},
    config::DaemonConfig,
    control::{
        caller::Groups,
        frame,
        peer::{self, Peer},
        protocol::{Failure, Reply, Request, Run},
        server::{self, Call, Server},
    },
    detect::secrets::source::Source,
    exit,
    kernel::{
        First, Kernel, KernelError,
        interfaces::{Event, Follow, InterfaceError},
        mounts,
    },
    store,
};

/// How often flows are read, which wake nobody, and folded repeats and losses looked at.
pub const TICK: Duration = Duration::from_millis(100);

/// How long the client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is wrong when nobody says that an interface has come.
pub(super) const UNFOLLOWED: &str = "the host's interfaces are not followed any more: one that an agent's container gets is \
     guarded seconds later; restart the daemon";

/// Requests that may wait for the engine. More wait where they are.
const CALLS: usize = 16;

/// The readers of both rings.
pub(super) struct Rings {
    alerts: Records,
    samples: Records,
}

impl Rings {
    /// Those of `kernel`.
    ///
    /// # Errors
    /// If they cannot be polled, or were taken already.
    pub(super) fn of(kernel: &mut Kernel) -> Result<Self, EngineError> {
        let (alerts, samples) = kernel.rings()?;
        Ok(Self {
            alerts: Records::new(alerts).map_err(events("alert ring"))?,
            samples: Records::new(samples).map_err(events("sample ring"))?,
        })
    }

    /// Takes what is there now.
    pub(super) fn rest(&mut self) -> Vec<Item> {
        let mut items = self.alerts.rest();
        items.extend(self.samples.rest());
        items
    }
}

/// Everything the loop waits for.
pub(super) struct Inputs {
    pub(super) rings: Rings,
    pub(super) calls: mpsc::Receiver<Call>,
    pub(super) watched: mpsc::Receiver<u32>,
    pub(super) server: JoinHandle<()>,
    pub(super) policies: Option<PolicyWatch>,
    /// What a service manager is told, if one may listen.
    pub(super) heart: Option<Heart>,
    /// The interfaces of the host; `None` where no agent is guarded there.
    pub(super) interfaces: Option<Follow>,
    selected: Sources,
    terminate: Signal,
    hangup: Signal,
    interrupt: Signal,
}

impl Inputs {
    /// Begins to serve at `listener`, with what `server` has already.
    ///
    /// # Errors
    /// If something cannot be waited for.
    pub(super) fn new(
        rings: Rings,
        watched: mpsc::Receiver<u32>,
        server: Server,
        calls: mpsc::Receiver<Call>,
        listener: std::os::unix::net::UnixListener,
    ) -> Result<Self, EngineError> {
        let signal = |kind| signal(kind).map_err(events("signals"));
        let listener = UnixListener::from_std(listener).map_err(events("control socket"))?;
        Ok(Self {
            rings,
            calls,
            watched,
            server: tokio::spawn(server.serve(listener)),
            policies: None,
            heart: None,
            interfaces: None,
            selected: Sources::new(),
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

/// A server, and where what is asked of it arrives.
pub(super) fn server() -> (Server, mpsc::Receiver<Call>) {
    let (call, calls) = mpsc::channel(CALLS);
    (Server::new(call), calls)
}

/// Serves the client at the other end of `client` until its agent, `agent`, is taken down.
///
/// # Errors
/// If the agent was not put under its policy, which the client was told; or if it was not taken down, and
/// stays under it.
pub fn serve(agent: &AgentName, client: &StdStream) -> Result<(), EngineError> {
    let failed = |error| EngineError::Events { what: "the client", error };
    peer::set_timeout(client, Some(PATIENCE)).map_err(failed)?;
    let credentials = Peer::of(client).map_err(failed)?;
    let (run, pidfd) = match frame::read_with_fd(client)? {
        Some((Request::Run(run), Some(pidfd))) if run.agent == *agent => (run, pidfd),
        Some(_) => return Err(EngineError::NotARun),
        // The client gave up, because its command was not found for example.
        None => return Ok(()),
    };
    let runtime = super::runtime()?;
    let _entered = runtime.enter();
    let child = Child::of(credentials, pidfd.as_fd());
    let (mut engine, watched, id) = child
        .and_then(|child| start_alone(&run, child))
        .inspect_err(|error| refuse(client, error.failure()))?;
    drop(pidfd);

    drive(&runtime, async {
        let refused =
            |error: &EngineError| refuse(client, Failure::new(error.to_string()).exit(exit::OWN_FAILURE));
        let begun = begin_alone(&mut engine, watched, id, client).inspect_err(refused);
        let inputs = begun.inspect_err(|_| engine.abandon(id))?;
        run_loop(engine, inputs).await
    })
}

/// Puts a child under a policy with an engine that is there for it alone.
fn start_alone(run: &Run, child: Child<'_>) -> Result<(Engine, mpsc::Receiver<u32>, u32), StartError> {
    let (host, unknown) = resolv::this_host().map_err(StartError::Addresses)?;
    let (policy, none) = (run.policy.as_ref(), Slots::default());
    let selection = Selection::of(policy, run.audit, None, &host, &none, Some(child.pid));
    let selection = selection.map_err(StartError::Policy)?;
    let hierarchy = Hierarchy::find()?;
    let pins = host::run_pins(&mounts::ensure_bpffs()?, &run.agent);
    let claim = Claim::of(&run.agent)?;
    let meta = match start::meta(run, child, &hierarchy, &claim, (EngineKind::Run, &pins), &selection) {
        Ok(meta) => meta,
        Err(error) => {
            claim.give_back();
            return Err(error);
        }
    };
    let footprint = claim.footprint(&run.agent, &meta)?;
    let first = First { slot: Slots::FIRST, policy: &selection.policy.compiled, agent: FIRST_ID };
    let kernel = Kernel::load_for(&pins, &first)?;
    let (store, secrets) = options();
    let settings =
        Settings { state: STATE_DIRECTORY.into(), policies: None, groups: Groups::default(), store, secrets };
    let (mut engine, watched) = Engine::new(EngineKind::Run, kernel, settings, host)?;
    engine.unknown_resolvers = unknown;
    engine.slots = Slots::holding(Arc::clone(&selection.policy));
    engine.read_secrets();
    let id = engine.place(&run.agent, footprint, selection, child)?;
    Ok((engine, watched, id))
}

/// Where this host keeps alerts and flows, and has secrets. An agent is not left ungoverned for a wrong file.
fn options() -> (store::Options, Vec<Source>) {
    match DaemonConfig::load(None) {
        Ok(config) => (config.store, config.host_secrets),
        Err(problems) => {
            tracing::error!(
                %problems,
                "alerts are kept where they are without a configuration, and no secrets of this host are looked for"
            );
            (store::Options::default(), Vec::new())
        }
    }
}

fn begin_alone(
    engine: &mut Engine,
    watched: mpsc::Receiver<u32>,
    id: u32,
    client: &StdStream,
) -> Result<Inputs, EngineError> {
    let rings = Rings::of(&mut engine.kernel)?;
    let listener = engine.listen_for(id).map_err(events("control socket"))?;
    peer::set_timeout(client, None).map_err(events("client"))?;
    let (mut server, calls) = server();
    let (connection, outbox) =
        client.try_clone().and_then(|client| server.adopt(client)).map_err(events("client"))?;
    let inputs = Inputs::new(rings, watched, server, calls, listener)?;
    engine.begin(id, Some(Session { connection, outbox }));
    Ok(inputs)
}

fn refuse(client: &StdStream, failure: Failure) {
    // A client that is gone needs no telling.
    if let Err(error) = frame::write(client, &Reply::Error(failure)) {
        tracing::debug!(%error, "the client was not told");
    }
}

/// Listens for root and user `owner`.
pub(super) fn listen(path: &Path, owner: u32, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    server::listen(path, owner, mode)
}

/// Has `runtime` serve until there is nothing left to do. A panic is an error like others, with a name and an exit code.
///
/// # Errors
/// If a part of the engine has ended that should not; every agent stays under its policy.
pub(super) fn drive(
    runtime: &Runtime,
    serving: impl Future<Output = Result<(), EngineError>>,
) -> Result<(), EngineError> {
    // Nothing of what it has touched is used afterwards: the agents are the kernel's.
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(serving)));
    ended.unwrap_or(Err(EngineError::Task("engine")))
}

/// Serves until there is nothing left to do.
pub(super) async fn run_loop(mut engine: Engine, mut inputs: Inputs) -> Result<(), EngineError> {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let alone = engine.kind == EngineKind::Run;
    let mut result = Ok(());
    // The policy holds until the last process is gone, whatever the client says or does.
    while !(alone && engine.is_empty()) && engine.failed.is_none() {
        inputs.selected.follow(&mut engine);
        let rings = &mut inputs.rings;
        tokio::select! {
            items = rings.alerts.next() => match items {
                Ok(items) => engine.records(items),
                Err(error) => { result = Err(events("alert ring")(error)); break }
            },
            items = rings.samples.next() => match items {
                Ok(items) => engine.records(items),
                Err(error) => { result = Err(events("sample ring")(error)); break }
            },
            Some(id) = inputs.watched.recv() => engine.end_if_over(id, rings),
            change = inputs.selected.next() => engine.selected(change, rings),
            Some(call) = inputs.calls.recv() => reading(&mut engine, &mut inputs.policies, |engine| {
                engine.handle(call, rings);
            }),
            _ = tick.tick() => {
                engine.records(rings.rest());
                engine.end_acts();
                for id in engine.tick() {
                    engine.end_if_over(id, rings);
                }
                if let Some(heart) = &mut inputs.heart {
                    heart.beat(engine.agents.len());
                }
            }
            ended = &mut inputs.server => {
                tracing::error!(?ended, "the control socket is not served any more");
                result = Err(EngineError::Task("control socket"));
                break;
            }
            // One whose cgroup is gone ends, and one whose agent ends is ended.
            Some(ended) = engine.watchers.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    result = Err(EngineError::Task("watch of an agent's processes"));
                    break;
                }
            }
            Some(()) = inputs.terminate.recv() => if engine.terminate(rings) { break },
            // A run engine's terminal is its client's, and so is what is typed there.
            Some(()) = inputs.interrupt.recv() => if !alone && engine.terminate(rings) { break },
            Some(()) = inputs.hangup.recv() => {
                reading(&mut engine, &mut inputs.policies, |engine| match &inputs.heart {
                    Some(heart) => heart.reload(|| engine.reload_and_log(rings)),
                    None => engine.reload_and_log(rings),
                });
            }
            event = interface_changed(&mut inputs.interfaces) => match event {
                Ok(event) => engine.on_interface(&event),
                Err(error) => {
                    inputs.interfaces = None;
                    engine.problem(format!("{UNFOLLOWED} ({error})"));
                }
            },
            changed = policies_changed(&mut inputs.policies) => match changed {
                Ok(()) => engine.reload_and_log(rings),
                Err(error) => engine.problem(format!(
                    "the directory of policies is not watched any more ({error}); after a change run `agentnet reload`"
                )),
            },
        }
    }
    let failed = engine.failed.take();
    engine.records(inputs.rings.rest());
    engine.leave();
    // Nothing asks any more; the server ends when the last replies are written.
    drop(inputs.calls);
    if result.is_ok() && inputs.server.await.is_err() {
        tracing::warn!("the last replies may not have been written");
    }
    failed.map_or(result, |error| Err(error.into()))
}

async fn interface_changed(interfaces: &mut Option<Follow>) -> Result<Event, InterfaceError> {
    match interfaces {
        Some(interfaces) => interfaces.next().await,
        None => std::future::pending().await,
    }
}

/// Does what may read the policies anew. What of them had changed before needs no other reading then.
fn reading(engine: &mut Engine, policies: &mut Option<PolicyWatch>, act: impl FnOnce(&mut Engine)) {
    if let Some(policies) = policies {
        policies.note();
    }
    let before = engine.reloads;
    act(engine);
    if engine.reloads != before
        && let Some(policies) = policies
    {
        policies.forget();
    }
}

async fn policies_changed(policies: &mut Option<PolicyWatch>) -> io::Result<()> {
    match policies {
        Some(policies) => policies.changed().await,
        None => std::future::pending().await,
    }
}

impl Engine {
    /// Begins to listen where clients look for the engine of this agent alone.
    fn listen_for(&self, id: u32) -> io::Result<std::os::unix::net::UnixListener> {
        let agent = self.agents.get(&id).ok_or(io::ErrorKind::NotFound)?;
        listen(&agent.footprint.socket(), agent.meta().uid, 0o600)
    }

    /// Ends the engine, and what it governs alone if that has no process. True if the loop is to end now.
    fn terminate(&mut self, rings: &mut Rings) -> bool {
        if self.kind == EngineKind::Daemon {
            tracing::info!("terminated; every agent stays under its policy");
            return true;
        }
        let ids: Vec<u32> = self.agents.keys().copied().collect();
        for id in ids {
            if let Some(agent) = self.agents.get_mut(&id) {
                if agent.cgroup.is_populated().unwrap_or(true) {
                    tracing::warn!("terminated; the agent stays under its policy without an engine");
                    return true;
                }
                agent.phase = Phase::Ending;
            }
            self.end_if_over(id, rings);
        }
        false
    }

    /// Guards interfaces that have come, and lets go of those that went.
    fn on_interface(&mut self, event: &Event) {
        self.line.on_interface(&self.kernel, event);
        for id in self.agents.keys().copied().collect::<Vec<_>>() {
            self.tell_open(id);
        }
    }

    /// Notes something that is not as it should be with the engine itself.
    pub(super) fn problem(&mut self, problem: String) {
        tracing::error!(problem);
        self.problems.push(problem);
    }

    fn reload_and_log(&mut self, rings: &mut Rings) {
        if self.kind == EngineKind::Daemon {
            match self.reload(rings) {
                Ok(what) => tracing::info!(what, "reloaded"),
                Err(failure) => tracing::error!(%failure, "reloaded, and not everything"),
            }
        }
    }

    /// Writes what is left to be written; agents stay under their policies.
    fn leave(&mut self) {
        self.keep_ledgers();
        let now = jiff::Timestamp::now();
        for (_, agent) in std::mem::take(&mut self.agents) {
            drop(agent.close(now, &mut self.followers));
        }
    }
}

fn events(what: &'static str) -> impl Fn(io::Error) -> EngineError {
    move |error| EngineError::Events { what, error }
}

impl From<KernelError> for EngineError {
    fn from(error: KernelError) -> Self {
        Self::Start(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_engine_is_an_error_with_its_name() {
        let runtime = super::super::runtime().unwrap();
        let ended = drive(&runtime, async { panic!("a fault") });
        assert!(matches!(ended, Err(EngineError::Task("engine"))), "{ended:?}");
        assert!(drive(&runtime, async { Ok(()) }).is_ok());
    }
}
