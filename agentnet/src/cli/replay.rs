//! `agentnet replay`: what the detectors say of a capture.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter, IsTerminal as _, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::complain;
use crate::{
    alert::model::Alert,
    replay::{
        Replay,
        pcap::{Capture, CaptureError},
    },
};

mod table;

/// Arguments of `agentnet replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// A capture: pcap or pcapng, packed with gzip or not; `-` is standard input
    file: PathBuf,
    /// A policy, whose `[detect]` says what is told and what would be blocked
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// A file with secrets to look for exactly, in every encoding: a line of NAME=VALUE each, as in `.env`
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
    /// Show a table of what is in the capture instead of its alerts
    #[arg(long)]
    summary: bool,
}

/// What ends a replay.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Runs `agentnet replay`.
///
/// # Errors
/// What cannot be read or written.
pub fn run(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    super::scan::unless_closed(replay(args))
}

fn replay(args: &ReplayArgs) -> anyhow::Result<ExitCode> {
    let (policy, actions) = super::scan::policy(args.policy.as_deref())?;
    let standard_input = args.file == Path::new("-");
    let name = if standard_input { "-".into() } else { args.file.to_string_lossy() };
    let name = crate::alert::text::clean(&name, 256);
    let mut replay =
        Replay::new(name.clone(), policy, actions, super::scan::config(args.secrets.as_deref())?);
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let done = if standard_input {
        read(&mut replay, io::stdin(), &ProgressBar::hidden(), &mut out, args.summary)
    } else {
        let file = File::open(&args.file).with_context(|| format!("cannot open {name}"))?;
        let progress = progress(file.metadata().map_or(0, |metadata| metadata.len()));
        let reader = BufReader::with_capacity(1 << 18, progress.wrap_read(file));
        read(&mut replay, reader, &progress, &mut out, args.summary)
    };
    if args.summary {
        table::write(&mut out, &name, replay.summary())?;
    }
    out.flush().context("cannot write")?;
    match done {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Stop::Write(error)) => Err(anyhow::Error::new(error).context("cannot write")),
        Err(error) => {
            complain(&format!("{name}: {error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Judges the whole capture, or as much as can be read.
fn read(
    replay: &mut Replay,
    reader: impl Read + Send,
    progress: &ProgressBar,
    out: &mut impl Write,
    summary: bool,
) -> Result<(), Stop> {
    let hidden = progress.is_hidden();
    let mut tell = |alerts: &mut dyn Iterator<Item = Alert>| -> Result<(), Stop> {
        for alert in alerts.filter(|_| !summary) {
            // On a terminal, lines and the bar must not be mixed.
            progress.suspend(|| -> io::Result<()> {
                serde_json::to_writer(&mut *out, &alert)?;
                out.write_all(b"\n")?;
                if hidden { Ok(()) } else { out.flush() }
            })?;
        }
        Ok(())
    };
    let judged = Capture::new(reader)
        .map_err(Stop::from)
        .and_then(|mut capture| capture.each(|frame| tell(&mut replay.frame(&frame))));
    let ended = tell(&mut replay.end());
    progress.finish_and_clear();
    judged.and(ended)
}

/// A bar on standard error, if that is a terminal, and the alerts do not go to the same one.
fn progress(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() || bytes == 0 {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(
        "{bar:32} {percent:>3} %  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
    );
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
