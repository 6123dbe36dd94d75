//! What `agentnet alerts` and `agentnet flows` have in common: lines of the log, and those to come.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use jiff::{Timestamp, tz::TimeZone};

use super::complain;
use crate::{
    agent::AgentName,
    alert::{model::Severity, text::plural},
    config::DaemonConfig,
    exit::WRONG_USAGE,
    store::{
        Stream,
        history::{Hidden, History, Query},
    },
};

mod live;
mod print;
mod since;

use print::Printer;

/// What is to be shown.
pub(super) struct Wanted {
    pub(super) stream: Stream,
    pub(super) follow: bool,
    pub(super) since: Option<String>,
    pub(super) agent: Option<AgentName>,
    pub(super) min_severity: Option<Severity>,
    pub(super) json: bool,
}

/// Shows it.
///
/// # Errors
/// If it cannot be read or shown.
pub(super) fn run(wanted: &Wanted) -> anyhow::Result<ExitCode> {
    let now = Timestamp::now();
    let zone = TimeZone::system();
    let since = match wanted.since.as_deref().map(|text| since::parse(text, now, &zone)).transpose() {
        Ok(since) => since,
        Err(error) => {
            complain(&error.to_string());
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    let store = store_directory();
    let query =
        Query { agent: wanted.agent.clone(), since, written_since: None, min_severity: wanted.min_severity };
    let printer = Printer::new(wanted.json, wanted.agent.is_none(), zone, now);
    let shown = if wanted.follow {
        live::run(wanted.stream, &store, query, now, printer)
    } else {
        history(wanted.stream, &store, query, printer)
    };
    match shown {
        // Whoever reads has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        shown => shown,
    }
}

/// Where the configuration of this host has it.
fn store_directory() -> PathBuf {
    let config = DaemonConfig::load(None).unwrap_or_else(|problems| {
        // What is to be read is likelier in the usual place than nowhere.
        complain(&format!("{} is not valid, see `agentnet daemon --check`", problems.file()));
        DaemonConfig::default()
    });
    config.store.directory
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn history(stream: Stream, store: &Path, query: Query, mut printer: Printer) -> anyhow::Result<ExitCode> {
    let what = stream.label();
    let directory = stream.directory(store);
    let narrowed = query.agent.is_some() || query.since.is_some() || query.min_severity.is_some();
    let mut history = History::open(store, stream, query)
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let mut lines = 0_u64;
    for line in history.by_ref() {
        printer.show(&line)?;
        lines += 1;
    }
    printer.flush()?;
    if history.torn() > 0 {
        let torn = plural(history.torn(), "line");
        complain(&format!("{torn} cut short by a full disk or a crash {} left out", was(history.torn())));
    }
    if let Some(error) = history.error() {
        bail!("not all {what} in {} could be read: {error}", directory.display());
    }
    match (lines, history.hidden()) {
        (0, hidden @ [_, ..]) => bail!("{}", hidden_sentence(what, hidden)),
        (_, hidden @ [_, ..]) => complain(&hidden_sentence(what, hidden)),
        (0, []) if narrowed => complain(&format!("no {what} of that kind are in {}", directory.display())),
        (0, []) => complain(&format!(
            "no {what} are recorded in {}; they are as soon as an agent runs: agentnet run -- CMD",
            directory.display()
        )),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

const fn was(count: u64) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

/// Whose lines are not shown, and who may see them.
fn hidden_sentence(what: &str, hidden: &[Hidden]) -> String {
    let whose = match hidden {
        [Hidden { agent, .. }] => format!("agent {agent}"),
        several => format!("{} agents", several.len()),
    };
    let mut groups: Vec<u32> =
        hidden.iter().filter_map(|hidden| hidden.group).filter(|gid| *gid != 0).collect();
    groups.sort_unstable();
    groups.dedup();
    let names = groups.into_iter().map(|gid| {
        let group = nix::unistd::Group::from_gid(gid.into()).ok().flatten();
        group.map_or_else(|| gid.to_string(), |group| group.name)
    });
    let names: Vec<String> = names.collect();
    let who = match names.as_slice() {
        [] => "only root and the user who started it may read them: use sudo".to_owned(),
        names => format!(
            "only root, the user who started it and members of group {} may read them: use sudo, or have \
             yourself added to the group",
            names.join(" or ")
        ),
    };
    format!("the {what} of {whose} are not shown; {who}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_who_may_read() {
        let hidden = |agent: &str, group| Hidden { agent: agent.parse().unwrap(), group };
        assert_eq!(
            hidden_sentence("alerts", &[hidden("a", Some(0))]),
            "the alerts of agent a are not shown; only root and the user who started it may read them: use sudo"
        );
        let sentence =
            hidden_sentence("flows", &[hidden("a", Some(4_000_000)), hidden("b", Some(4_000_000))]);
        assert!(sentence.starts_with("the flows of 2 agents are not shown"), "{sentence}");
        assert!(sentence.contains("members of group 4000000 may"), "{sentence}");
    }
}
