//! `agentnet scan`: a verdict for each line of a list.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::complain;
use crate::{
    detect::{
        action::Actions,
        bank::Config,
        secrets::{HostSecrets, host::SHORTEST, source},
    },
    policy::{Policy, host::Host},
    replay::{
        lines::{self, LineError},
        scan::{List, Scanner},
    },
};

/// Arguments of `agentnet scan`.
#[derive(Args, Debug)]
pub struct ScanArgs {
    /// What the list is of
    list: ListName,
    /// The list, one item a line; standard input by default
    file: Option<PathBuf>,
    /// A policy, whose `[detect]` says what is told and what blocked
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// A file with secrets to look for exactly, in every encoding: a line of NAME=VALUE each, as in `.env`
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,
}

/// What a list is of.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ListName {
    /// Names that were looked up, or columns: time client type name ...
    Names,
    /// Addresses of requests, `https://...`, a method before them or not
    Urls,
    /// Bytes that were sent, with escapes such as \\n and \\x00
    Payloads,
}

/// Runs `agentnet scan`.
///
/// # Errors
/// What cannot be read or written.
pub fn run(args: &ScanArgs) -> anyhow::Result<ExitCode> {
    unless_closed(judge(args))
}

/// Success where whoever reads standard output has enough.
pub(super) fn unless_closed(done: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let is_closed = |error: &anyhow::Error| {
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    match done {
        Err(error) if is_closed(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

fn judge(args: &ScanArgs) -> anyhow::Result<ExitCode> {
    let list = match args.list {
        ListName::Names => List::Names,
        ListName::Urls => List::Urls,
        ListName::Payloads => List::Payloads,
    };
    let mut scanner = Scanner::new(list, policy(args.policy.as_deref())?.1, config(args.secrets.as_deref())?);
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let bad = match &args.file {
        Some(path) => {
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            scan(&mut scanner, BufReader::with_capacity(1 << 16, file), out, false)
        }
        None => {
            if io::stdin().is_terminal() {
                complain("reading from the terminal, one item a line; Ctrl-D ends it");
            }
            scan(&mut scanner, io::stdin().lock(), out, true)
        }
    }?;
    if bad == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let lines = if bad == 1 { "1 line".to_owned() } else { format!("{bad} lines") };
    complain(&format!("{lines} could not be read and had no verdict"));
    Ok(ExitCode::FAILURE)
}

/// Judges every line; how many could not be read.
fn scan(
    scanner: &mut Scanner,
    mut reader: impl BufRead,
    mut out: impl Write,
    interactive: bool,
) -> anyhow::Result<u64> {
    let mut buffer = Vec::new();
    let (mut number, mut bad) = (0_u64, 0_u64);
    while let Some(line) = lines::next(&mut reader, &mut buffer).context("cannot read the list")? {
        number += 1;
        let judged: Result<_, LineError> = line.and_then(|line| scanner.line(line));
        match judged {
            Ok(Some(verdict)) => {
                serde_json::to_writer(&mut out, &verdict).map_err(io::Error::from).context("cannot write")?;
                out.write_all(b"\n").context("cannot write")?;
                if interactive {
                    out.flush().context("cannot write")?;
                }
            }
            Ok(None) => {}
            Err(error) => {
                bad += 1;
                complain(&format!("line {number} has no verdict: {error}"));
            }
        }
    }
    out.flush().context("cannot write")?;
    Ok(bad)
}

/// The name of a policy and what it says of findings.
///
/// # Errors
/// If it is not valid; what is wrong with it has been said.
pub(super) fn policy(name: Option<&str>) -> anyhow::Result<(String, Actions)> {
    let Some(name) = name else { return Ok(("none".to_owned(), Actions::default())) };
    // Addresses of this host have nothing to do with what is recorded.
    match Policy::load(name, &Host::default()) {
        Ok(policy) => Ok((policy.compiled.name, policy.compiled.detect)),
        Err(problems) => {
            writeln!(anstream::stderr(), "{}\n", problems.render(true)).context("cannot write")?;
            anyhow::bail!("{}: the policy is not valid", problems.file())
        }
    }
}

/// The secrets of a file.
///
/// # Errors
/// If it cannot be read, or has none that is long enough to be told from chance.
pub(super) fn config(secrets: Option<&Path>) -> anyhow::Result<Config> {
    let Some(path) = secrets else { return Ok(Config::default()) };
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let named = source::of_text(&text, &path.file_name().unwrap_or_default().to_string_lossy());
    let Some(secrets) = HostSecrets::new(named.iter().map(|(name, value)| (name.as_str(), value.as_slice())))
    else {
        anyhow::bail!(
            "{} has no secret that can be looked for: a value needs {} characters of two kinds",
            path.display(),
            SHORTEST
        );
    };
    Ok(Config { secrets: Some(Arc::new(secrets)), ..Config::default() })
}
