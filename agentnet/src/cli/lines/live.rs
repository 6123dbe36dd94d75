//! `--follow`.

use std::{io, os::fd::AsFd, path::Path, process::ExitCode, thread};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{complain, hidden_sentence, print::Printer};
use crate::{
    alert::text::plural,
    control::protocol::Follow,
    store::{
        Stream,
        follow::{Followers, LOOK_INTERVAL, RUN_DIRECTORY},
        history::{Hidden, Query},
        line::Line,
        tail::{Remark, Tail},
    },
};

/// Shows what there is since the time that `query` says, and then what comes, until Ctrl-C.
pub(super) fn run(
    stream: Stream,
    store: &Path,
    query: Query,
    now: Timestamp,
    printer: Printer,
) -> anyhow::Result<ExitCode> {
    let mut interrupted = interrupts().context("cannot wait for Ctrl-C")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let request = Follow { what: stream, agent: query.agent.clone(), min_severity: query.min_severity };
    let from = query.since.unwrap_or(now);
    let tail = Tail::new(store.to_owned(), stream, query, from);
    let screen = Screen { printer, interrupted: interrupted.clone(), hidden: Vec::new() };
    runtime.block_on(async {
        tokio::select! {
            followed = follow(stream, tail, request, screen) => followed,
            _ = interrupted.changed() => Ok(ExitCode::SUCCESS),
        }
    })
}

/// Becomes true with Ctrl-C, also while something else is busy.
fn interrupts() -> io::Result<watch::Receiver<bool>> {
    let (told, interrupted) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ready, is_ready) = std::sync::mpsc::channel();
    let wait = async move {
        let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        let caught = match signal {
            Ok(mut signal) => {
                let _ = ready.send(Ok(()));
                signal.recv().await.is_some()
            }
            Err(error) => ready.send(Err(error)).is_err(),
        };
        let _ = told.send(caught);
        // Nobody is told of the end of this thread as of an interrupt.
        told.closed().await;
    };
    thread::Builder::new().name("interrupts".to_owned()).spawn(move || runtime.block_on(wait))?;
    is_ready.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(interrupted)
}

/// Where lines and remarks go.
struct Screen {
    printer: Printer,
    interrupted: watch::Receiver<bool>,
    /// Whose lines were said not to be shown.
    hidden: Vec<Hidden>,
}

impl Screen {
    fn show(&mut self, line: &Line) -> io::Result<()> {
        if *self.interrupted.borrow() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        self.printer.show(line)
    }

    fn remark(&mut self, stream: Stream, remark: &Remark) {
        let text = match remark {
            Remark::Back(engine, 0) => format!("{engine} is back"),
            Remark::Back(engine, lines) => format!(
                "{engine} is back; {} of before {} read from its log",
                plural(*lines, "line"),
                super::was(*lines)
            ),
            Remark::Note(engine, note) => format!("{engine}: {note}"),
            Remark::Gone(engine) => format!(
                "{engine} is gone: policies stay in force, nothing is told; this goes on when it is back"
            ),
            Remark::Missed(engine, lines) => format!(
                "{} of {engine} came too fast to be shown here; `agentnet {} --since` has them",
                plural(*lines, "line"),
                stream.label()
            ),
            Remark::Refused(engine, why) => format!("{engine} does not tell: {why}"),
        };
        complain(&text);
    }

    /// Says once of each agent that its lines are not shown.
    fn hidden(&mut self, stream: Stream, hidden: Vec<Hidden>) {
        let mut new = hidden;
        new.retain(|hidden| !self.hidden.contains(hidden));
        new.dedup();
        if !new.is_empty() {
            complain(&hidden_sentence(stream.label(), &new));
            self.hidden.extend(new);
        }
    }
}

async fn follow(
    stream: Stream,
    mut tail: Tail,
    request: Follow,
    mut screen: Screen,
) -> anyhow::Result<ExitCode> {
    let (mut followers, mut events) = Followers::new(RUN_DIRECTORY.into(), request);
    let mut look = interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tail.changed();
    let read = tail.read_all(&mut |line| screen.show(line));
    if ended(read)? {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let done = tokio::select! {
            _ = look.tick() => {
                if is_closed(io::stdout()) {
                    return Ok(ExitCode::SUCCESS);
                }
                let mut changed = tail.changed();
                let look = followers.look();
                if look.refused {
                    screen.printer.flush()?;
                    bail!("nobody tells its {} to you: use sudo, or have yourself added to the group that may \
                           read them", stream.label());
                }
                changed.extend(look.unreached);
                tail.read_changed(changed, &mut |line| screen.show(line))
            }
            Some(event) = events.recv() => {
                tail.on(event, &mut |line| screen.show(line)).map(|remark| {
                    if let Some(remark) = remark {
                        screen.remark(stream, &remark);
                    }
                })
            }
        };
        if ended(done)? {
            return Ok(ExitCode::SUCCESS);
        }
        screen.hidden(stream, tail.take_hidden());
        if let Some(error) = tail.take_error() {
            complain(&format!("not all {} could be read: {error}", stream.label()));
        }
        if events.is_empty() {
            screen.printer.flush()?;
        }
    }
}

/// Whether the user has ended it.
fn ended(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether nobody reads at the other end of a pipe, which else would be noticed with the next line only.
fn is_closed(stream: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) && fds[0].revents().contains(PollFlags::ERR)
}
