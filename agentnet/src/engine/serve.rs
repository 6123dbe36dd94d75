//! The loop: waits for whatever happens next and hands it to the [`State`].

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixStream as StdStream},
    time::Duration,
};

use tokio::{
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{
    EngineError,
    outbox::Outbox,
    sources::{Population, Records},
    start::{Governed, start},
    state::State,
};
use crate::{
    agent::AgentName,
    control::{
        frame::{self, FrameError},
        peer::{self, Peer},
        protocol::{Failure, Reply, Request},
        server::{self, Call},
    },
    exit,
    kernel::Kernel,
};

/// How often flows are read, which wake nobody, and folded repeats and losses looked at.
pub const TICK: Duration = Duration::from_millis(100);

/// How long the client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(30);

/// After so many ticks the client is told that processes of the agent do not die.
const TICKS_TO_DIE: u32 = 100;

/// What the client of a command with leftovers is told if it waits for them.
const WAITING: &str =
    "the command has ended and left processes running; agentnet waits for them, and Ctrl-C ends them";

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
        Some((Request::Run(run), Some(pidfd))) => (run, pidfd),
        Some(_) => return Err(EngineError::NotARun),
        // The client gave up, because its command was not found for example.
        None => return Ok(()),
    };
    let mut governed = start(agent, &run, credentials, pidfd.as_fd())
        .inspect_err(|error| refuse(client, error.failure()))?;
    drop(pidfd);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| EngineError::Events { what: "the runtime", error })?;
    runtime.block_on(async {
        let refused = |error: &EngineError| {
            refuse(client, Failure { message: error.to_string(), exit: exit::OWN_FAILURE });
        };
        let (inputs, writer) = Inputs::new(&mut governed, client).inspect_err(refused)?;
        governed.footprint.keep();
        let mut state = State::new(agent.clone(), governed, Outbox::new(writer));
        state.begin();
        run_loop(state, inputs).await
    })
}

fn refuse(client: &StdStream, failure: Failure) {
    // A client that is gone needs no telling.
    if let Err(error) = frame::write(client, &Reply::Error(failure)) {
        tracing::debug!(%error, "the client was not told");
    }
}

/// What the client does.
#[derive(Debug)]
enum Event {
    Request(Request),
    Gone,
}

/// Everything the loop waits for.
struct Inputs {
    alerts: Records,
    samples: Records,
    population: Population,
    calls: mpsc::Receiver<Call>,
    client: mpsc::Receiver<Event>,
    terminate: Signal,
    /// Taken and passed over; their default is to end the process.
    hangup: Signal,
    interrupt: Signal,
}

impl Inputs {
    fn new(governed: &mut Governed, client: &StdStream) -> Result<(Self, OwnedWriteHalf), EngineError> {
        let rings = Kernel::rings(&mut governed.kernel).map_err(super::start::StartError::from)?;
        let listen = || {
            let listener = server::listen(&governed.footprint.socket(), governed.meta.uid)?;
            UnixListener::from_std(listener)
        };
        let open = || -> io::Result<_> {
            peer::set_timeout(client, None)?;
            let client = client.try_clone()?;
            client.set_nonblocking(true)?;
            Ok(UnixStream::from_std(client)?.into_split())
        };
        let events = |what| move |error| EngineError::Events { what, error };
        let listener = listen().map_err(events("control socket"))?;
        let (reader, writer) = open().map_err(events("client"))?;
        let signal = |kind| signal(kind).map_err(events("signals"));
        let (call, calls) = mpsc::channel(1);
        let (event, events_of_client) = mpsc::channel(1);
        let inputs = Self {
            alerts: Records::new(rings.0).map_err(events("alert ring"))?,
            samples: Records::new(rings.1).map_err(events("sample ring"))?,
            population: Population::new(governed.cgroup.clone()).map_err(events("cgroup"))?,
            calls,
            client: events_of_client,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        tokio::spawn(server::serve(listener, call));
        tokio::spawn(listen_to(reader, event));
        Ok((inputs, writer))
    }
}

/// Reads what the client says until it is gone.
async fn listen_to(mut client: OwnedReadHalf, events: mpsc::Sender<Event>) {
    loop {
        let event = match frame::read_async(&mut client).await {
            Ok(Some(request)) => Event::Request(request),
            Ok(None) => Event::Gone,
            Err(error) => {
                if !matches!(&error, FrameError::Io(_)) {
                    tracing::warn!(%error, "the client is not understood");
                }
                Event::Gone
            }
        };
        let last = matches!(event, Event::Gone);
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

/// How far the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The client's command runs.
    Running,
    /// The client is gone without having said that its command has ended.
    Orphaned,
    /// The command has ended, and what it has left running is waited for.
    Waiting,
    /// The command has ended, and what it has left running was killed.
    Ending,
}

async fn run_loop(mut state: State, mut inputs: Inputs) -> Result<(), EngineError> {
    let mut phase = Phase::Running;
    let mut ticks_to_die = 0_u32;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut populated = true;
    // The policy holds until the last process is gone, whatever the client says or does.
    while phase == Phase::Running || populated {
        tokio::select! {
            items = inputs.alerts.next() => state.records(items.map_err(ring)?),
            items = inputs.samples.next() => state.records(items.map_err(ring)?),
            changed = inputs.population.changed() => {
                populated = changed.map_err(|error| EngineError::Events { what: "cgroup", error })?;
            }
            Some(call) = inputs.calls.recv() => {
                // Who asked and did not wait for the answer does not need it.
                let _ = call.answer.send(state.answer(&call.request));
            }
            Some(event) = inputs.client.recv() => {
                phase = on_client(&mut state, event, phase);
                populated = inputs.population.now();
                if phase == Phase::Waiting && populated {
                    state.notice(WAITING);
                }
            }
            _ = tick.tick() => {
                state.records(inputs.alerts.rest());
                state.records(inputs.samples.rest());
                state.tick();
                ticks_to_die += u32::from(phase == Phase::Ending);
                if ticks_to_die == TICKS_TO_DIE {
                    state.notice("the agent still has processes; agentnet waits until they are gone");
                }
            }
            Some(()) = inputs.terminate.recv() => {
                if inputs.population.now() {
                    tracing::warn!("terminated; the agent stays under its policy without an engine");
                    return Ok(());
                }
                phase = Phase::Ending;
                populated = false;
            }
            Some(()) = inputs.hangup.recv() => {}
            Some(()) = inputs.interrupt.recv() => {}
        }
    }
    state.records(inputs.alerts.rest());
    state.records(inputs.samples.rest());
    Ok(super::end::end(state, &mut inputs.alerts, &mut inputs.samples).await?)
}

fn on_client(state: &mut State, event: Event, phase: Phase) -> Phase {
    match event {
        Event::Request(Request::Finish { wait: true }) if phase == Phase::Running => Phase::Waiting,
        Event::Request(Request::Finish { wait: false }) => {
            if let Err(error) = state.governed.cgroup.kill() {
                tracing::error!(%error, "cannot kill what is left of the agent");
                state.notice(format!("{error}; agentnet waits until it is gone"));
            }
            Phase::Ending
        }
        Event::Request(request) => {
            tracing::warn!(?request, "the client asked for something that is not its turn");
            phase
        }
        Event::Gone => {
            tracing::warn!("the client is gone; the policy holds until the agent has no process");
            if phase == Phase::Running { Phase::Orphaned } else { phase }
        }
    }
}

const fn ring(error: io::Error) -> EngineError {
    EngineError::Events { what: "kernel records", error }
}
