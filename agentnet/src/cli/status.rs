//! `agentnet status`: what is governed, and whether it is really enforced.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::Context as _;
use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::{
    act::{self, Act},
    agent::{
        AgentName,
        cgroup::Cgroup,
        registry::{EngineKind, Listed, Meta, Owner, Registry},
    },
    control::{
        client::{self, ClientError},
        frame::FrameError,
        protocol::{Doors, Report, Status},
    },
    engine::{STATE_DIRECTORY, acts, host},
    kernel::{held::Held, links, mounts},
};

/// Arguments of `agentnet status`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct StatusArgs {
    /// Print one JSON object per agent
    #[arg(long)]
    json: bool,
}

const EXIT_CODES: &str = "\
Exit code: 0 if the policy of every agent listed is in force, be it to block or to audit, and also where an engine \
is gone and the kernel goes on by itself; 1 if one is not, or if that cannot be known, as of another user's agent \
without root.";

const NOT_YOURS: &str = "only root, the daemon's read group and the user who started it may ask about it";

/// Whether an agent's policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is.
    Enforced,
    /// It is, and it only audits.
    Audited,
    /// It is, and on top of it nothing may be sent at all.
    Quarantined,
    /// It is, to block or to audit, and its engine is gone: nothing is logged.
    Ownerless,
    /// It is not.
    NotEnforced,
    /// It cannot be known, perhaps only by the caller: that is for root and the user who started the agent.
    Unknown,
}

impl State {
    /// Whether the policy is known to be in force.
    const fn holds(self) -> bool {
        matches!(self, Self::Enforced | Self::Audited | Self::Quarantined | Self::Ownerless)
    }
}

/// An agent as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    agent: AgentName,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    /// What was done by hand, where no engine tells of it any more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acts: Vec<Act>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<Status>,
}

/// Shows every agent of this host. The exit code is 0 if every policy is known to be in force, else 1.
///
/// # Errors
/// If the registry cannot be read or the result not be written.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let Overview { rows, problems, acts } = overview()?;
    let mut text = String::new();
    if args.json {
        if !problems.is_empty() || !acts.is_empty() {
            text.push_str(&serde_json::to_string(
                &serde_json::json!({ "daemon": { "problems": problems, "acts": acts } }),
            )?);
            text.push('\n');
        }
        for row in &rows {
            text.push_str(&serde_json::to_string(row)?);
            text.push('\n');
        }
    } else if rows.is_empty() && problems.is_empty() && acts.is_empty() {
        text.push_str("No agent is governed.\n");
    } else {
        let now = Timestamp::now();
        for problem in problems.iter().flat_map(|problem| problem.lines()) {
            writeln!(text, "daemon: {problem}")?;
        }
        for act in &acts {
            let later = act.agent.as_ref().map_or_else(String::new, |agent| format!(" for agent {agent}"));
            writeln!(text, "for agents that begin later{later}: {act}")?;
        }
        for row in &rows {
            row.write(&mut text, now)?;
        }
    }
    match anstream::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the result")?,
    }
    Ok(if rows.iter().all(|row| row.state.holds()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that is shown.
#[derive(Default)]
struct Overview {
    rows: Vec<Row>,
    /// The daemon's own.
    problems: Vec<String>,
    /// What was done by hand for agents that are not there now.
    acts: Vec<Act>,
}

fn overview() -> anyhow::Result<Overview> {
    let registry = Registry::system();
    if !registry.exists() {
        return Ok(Overview::default());
    }
    // Root holds the registry still, so that its look at the locks is in nobody's way.
    let exclusive = if rustix::process::geteuid().is_root() { Some(registry.exclusive()?) } else { None };
    let listed = registry.list()?;
    let known: Vec<AgentName> = listed.iter().map(|listed| listed.name.clone()).collect();
    let unregistered = match (&exclusive, mounts::bpffs_mount()) {
        (Some(exclusive), Ok(bpffs)) => {
            host::unregistered(exclusive, &bpffs, &known).context("cannot list the pins")?
        }
        _ => Vec::new(),
    };
    drop(exclusive);
    let strays = unregistered.into_iter().map(|agent| Row {
        agent,
        state: State::Unknown,
        policy: None,
        audit: None,
        cgroup: None,
        started: None,
        problems: vec!["it has pins, and the registry in /run does not know it".to_owned()],
        acts: Vec::new(),
        engine: None,
    });
    // Everything that the daemon governs comes in one answer.
    let daemons =
        |listed: &Listed| listed.meta.as_ref().is_some_and(|meta| meta.engine == EngineKind::Daemon);
    let socket = Path::new(client::DAEMON_SOCKET);
    let daemon = socket.exists().then(|| client::status(socket));
    let problems = daemon.iter().flatten().flat_map(|report| report.problems.clone()).collect();
    let acts = daemon.iter().flatten().flat_map(|report| report.acts.clone()).collect();
    // An agent that ended since is gone from the registry or about to be.
    let rows = listed.into_iter().filter_map(|listed| {
        let own;
        let told = match &daemon {
            _ if listed.owner == Owner::Gone => None,
            Some(told) if daemons(&listed) => Some(told),
            _ => {
                own = client::status(&listed.socket);
                Some(&own)
            }
        };
        Row::of(listed, told)
    });
    Ok(Overview { rows: rows.chain(strays).collect(), problems, acts })
}

impl Row {
    /// `told`: what the engine says; `None` if it is gone.
    fn of(listed: Listed, told: Option<&Result<Report, ClientError>>) -> Option<Self> {
        let Listed { name, meta, socket, .. } = listed;
        let mut row = Self {
            agent: name,
            state: State::Unknown,
            policy: meta.as_ref().map(|meta| meta.policy.clone()),
            audit: meta.as_ref().map(|meta| meta.audit),
            cgroup: meta.as_ref().map(|meta| meta.cgroup.display().to_string()),
            started: meta.as_ref().map(|meta| meta.started),
            problems: Vec::new(),
            acts: Vec::new(),
            engine: None,
        };
        let Some(told) = told else {
            row.without_engine(meta.as_ref());
            return Some(row);
        };
        let entry_is_gone = || !socket.parent().is_some_and(Path::exists);
        match told {
            Ok(report) => match report.agents.iter().find(|status| status.agent == row.agent) {
                Some(status) => {
                    row.state = match status {
                        Status { problems, .. } if !problems.is_empty() => State::NotEnforced,
                        Status { quarantined: true, .. } => State::Quarantined,
                        Status { audit: true, .. } => State::Audited,
                        Status { .. } => State::Enforced,
                    };
                    row.problems.clone_from(&status.problems);
                    row.engine = Some(status.clone());
                }
                None if entry_is_gone() => return None,
                None => row.problems.push(NOT_YOURS.to_owned()),
            },
            Err(_) if entry_is_gone() => return None,
            Err(ClientError::Frame(FrameError::Io(error))) if error.kind() == ErrorKind::PermissionDenied => {
                row.problems.push(NOT_YOURS.to_owned());
            }
            Err(error) => row.problems.push(format!("its engine cannot be asked: {error}")),
        }
        Some(row)
    }

    /// Judges an agent whose engine is gone, by what the kernel says.
    fn without_engine(&mut self, meta: Option<&Meta>) {
        let Some(meta) = meta else {
            self.problems.push("its engine is gone, and its entry in the registry cannot be read".to_owned());
            return;
        };
        let populated = Cgroup::at(&meta.cgroup).is_populated().unwrap_or(true);
        let unguarded = links::unguarded(&meta.pins, &self.agent, &meta.cgroup);
        self.state = match (unguarded.is_empty(), populated) {
            (true, _) => State::Ownerless,
            (false, true) => State::NotEnforced,
            // Nobody is left who could send, but what is queued may leave still.
            (false, false) => State::Unknown,
        };
        let what = match (unguarded.is_empty(), populated) {
            (true, true) => {
                "its engine is gone: the policy holds, and nothing is logged until its processes end"
            }
            (false, true) => "its engine is gone, and not every hook guards it",
            (_, false) => "it has ended, and what is left of it cannot be cleared",
        };
        self.problems.push(what.to_owned());
        self.problems.extend(unguarded);
        self.acts_without_engine(meta);
    }

    /// Finds out what was done by hand, by what the kernel says and was written down.
    fn acts_without_engine(&mut self, meta: &Meta) {
        let held = Held::at(&meta.pins);
        let cfg = held.cgroup(&self.agent).and_then(|id| held.configuration(id).ok());
        if self.state == State::Ownerless && cfg.is_some_and(|cfg| cfg.is_quarantined()) {
            self.state = State::Quarantined;
        }
        if meta.engine != EngineKind::Daemon {
            return;
        }
        let now = act::now();
        match acts::read_kept(Path::new(STATE_DIRECTORY)) {
            Ok(kept) => {
                let own = kept.into_iter().filter(|act| {
                    act.concerns(&self.agent) && (!act.is_over(now) || act.is_ended_by_engine())
                });
                self.acts.extend(own);
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
            Err(error) => self.problems.push(format!("what was done by hand cannot be read: {error}")),
        }
    }

    fn write(&self, text: &mut String, now: Timestamp) -> std::fmt::Result {
        let state = match self.state {
            State::Enforced => "enforced".green().to_string(),
            State::Quarantined => "quarantined: nothing may be sent".red().to_string(),
            State::Audited => "audit: nothing is blocked".yellow().to_string(),
            State::Ownerless if self.audit == Some(true) => {
                "audit, without an engine: nothing is blocked".yellow().to_string()
            }
            State::Ownerless => "enforced, without an engine".yellow().to_string(),
            State::NotEnforced => "NOT ENFORCED".red().bold().to_string(),
            State::Unknown => "unknown".yellow().to_string(),
        };
        let policy = self.policy.as_deref().unwrap_or("?");
        writeln!(text, "{}  policy {policy}  {state}", self.agent.bold())?;
        let notes = self.engine.iter().flat_map(|engine| &engine.notes);
        for line in self.problems.iter().chain(notes).flat_map(|told| told.lines()) {
            writeln!(text, "    {line}")?;
        }
        let acts = self.engine.iter().flat_map(|engine| &engine.acts).chain(&self.acts);
        for act in acts {
            let how = if act.detection.is_some() { "detection:" } else { "by hand:" };
            writeln!(text, "    {} {act}", how.bold())?;
        }
        if let Some(engine) = &self.engine {
            let for_how_long = now.duration_since(engine.started).as_secs().max(0);
            writeln!(
                text,
                "    {} processes for {for_how_long} s; {} packets ({} bytes) allowed, {} refused, {} records lost",
                engine.processes, engine.allowed_packets, engine.allowed_bytes, engine.denied, engine.lost
            )?;
            writeln!(text, "    attached: {}", engine.hooks.join("; "))?;
            if let Some(doors) = &engine.interfaces {
                write_doors(text, doors)?;
            }
        }
        if let Some(cgroup) = &self.cgroup {
            writeln!(text, "    {}", cgroup.dimmed())?;
        }
        Ok(())
    }
}

fn write_doors(text: &mut String, doors: &Doors) -> std::fmt::Result {
    let guarded = [("containers", &doors.containers), ("packet sockets", &doors.host)];
    for (what, names) in guarded.into_iter().filter(|(_, names)| !names.is_empty()) {
        writeln!(text, "    guarded interfaces, {what}: {}", names.join(", "))?;
    }
    for door in &doors.open {
        writeln!(text, "    {} {door}", "not guarded:".yellow())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_engine(meta: Option<Meta>) -> Row {
        let listed =
            Listed { name: "a".parse().unwrap(), owner: Owner::Gone, meta, socket: "/nowhere".into() };
        Row::of(listed, None).unwrap()
    }

    #[test]
    fn what_is_not_known_to_hold_is_not_said_to_hold() {
        let cgroup = tempfile::tempdir().unwrap();
        let meta = Meta {
            cgroup: cgroup.path().to_owned(),
            pins: cgroup.path().join("pins"),
            started: Timestamp::UNIX_EPOCH,
            policy: "coding".to_owned(),
            audit: false,
            client: 1,
            uid: 0,
            id: 1,
            engine: EngineKind::Run,
            made: true,
        };
        let populated = |value: u8| {
            std::fs::write(cgroup.path().join("cgroup.events"), format!("populated {value}\n")).unwrap();
        };
        populated(1);
        let unguarded = without_engine(Some(meta.clone()));
        assert_eq!(unguarded.state, State::NotEnforced);
        let unix =
            if crate::kernel::unix::has_hooks().is_ok() { crate::kernel::unix::HOOKS.len() } else { 0 };
        assert_eq!(unguarded.problems.len(), 1 + links::HOOKS.len() + unix, "{:?}", unguarded.problems);
        populated(0);
        assert_eq!(without_engine(Some(meta)).state, State::Unknown);
        assert_eq!(without_engine(None).state, State::Unknown);
        let holds = [State::Enforced, State::Audited, State::Ownerless].map(State::holds);
        assert_eq!(holds, [true; 3]);
        assert_eq!([State::NotEnforced, State::Unknown].map(State::holds), [false; 2]);
    }

    #[test]
    fn an_audited_agent_without_an_engine_is_not_called_enforced() {
        let mut row = without_engine(None);
        (row.state, row.audit) = (State::Ownerless, Some(true));
        let mut text = String::new();
        row.write(&mut text, Timestamp::UNIX_EPOCH).unwrap();
        assert!(text.contains("nothing is blocked") && !text.contains("enforced"), "{text}");
    }
}
