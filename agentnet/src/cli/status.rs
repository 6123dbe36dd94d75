//! `agentnet status`: what is governed, and whether it is really enforced.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde::Serialize;

use crate::{
    agent::{
        AgentName,
        cgroup::Cgroup,
        registry::{Listed, Owner, Registry},
    },
    control::{
        client::{self, ClientError},
        frame::FrameError,
        protocol::Status,
    },
    engine::host,
    kernel::{links::HOOKS, mounts},
};

/// Arguments of `agentnet status`.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// Print one JSON object per agent
    #[arg(long)]
    json: bool,
}

/// Whether an agent's policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is.
    Enforced,
    /// It is, and it only audits.
    Audited,
    /// It is, and its engine is gone: nothing is logged.
    Ownerless,
    /// It is not.
    NotEnforced,
    /// Only root and the user who started the agent may know.
    Unknown,
}

/// An agent as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    agent: AgentName,
    state: State,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<Timestamp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<Status>,
}

/// Shows every agent of this host. The exit code is 1 if a policy is not in force that should be.
///
/// # Errors
/// If the registry cannot be read or the result not be written.
pub fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let rows = rows()?;
    let mut text = String::new();
    if args.json {
        for row in &rows {
            text.push_str(&serde_json::to_string(row)?);
            text.push('\n');
        }
    } else if rows.is_empty() {
        text.push_str("No agent is governed.\n");
    } else {
        let now = Timestamp::now();
        for row in &rows {
            row.write(&mut text, now)?;
        }
    }
    match anstream::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the result")?,
    }
    let failed = rows.iter().any(|row| row.state == State::NotEnforced);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn rows() -> anyhow::Result<Vec<Row>> {
    let registry = Registry::system();
    if !registry.exists() {
        return Ok(Vec::new());
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
        state: State::Ownerless,
        policy: None,
        cgroup: None,
        started: None,
        problems: vec!["it has pins, and the registry in /run does not know it".to_owned()],
        engine: None,
    });
    // An agent that ended since is gone from the registry or about to be.
    let rows = listed.into_iter().filter_map(Row::of);
    Ok(rows.chain(strays).collect())
}

impl Row {
    fn of(listed: Listed) -> Option<Self> {
        let Listed { name, owner, meta, socket } = listed;
        let mut row = Self {
            agent: name,
            state: State::Unknown,
            policy: meta.as_ref().map(|meta| meta.policy.clone()),
            cgroup: meta.as_ref().map(|meta| meta.cgroup.display().to_string()),
            started: meta.as_ref().map(|meta| meta.started),
            problems: Vec::new(),
            engine: None,
        };
        if owner != Owner::Gone {
            match client::status(&socket) {
                Ok(status) => {
                    row.state = match (status.problems.is_empty(), status.audit) {
                        (false, _) => State::NotEnforced,
                        (true, true) => State::Audited,
                        (true, false) => State::Enforced,
                    };
                    row.problems.clone_from(&status.problems);
                    row.engine = Some(status);
                }
                Err(_) if !socket.exists() && !socket.parent().is_some_and(std::path::Path::exists) => {
                    return None;
                }
                Err(ClientError::Frame(FrameError::Io(error)))
                    if error.kind() == ErrorKind::PermissionDenied =>
                {
                    row.problems.push("only root and the user who started it may ask its engine".to_owned());
                }
                Err(error) => row.problems.push(format!("its engine cannot be asked: {error}")),
            }
            return Some(row);
        }
        let links = meta
            .as_ref()
            .map_or(0, |meta| std::fs::read_dir(meta.pins.join("links")).map_or(0, Iterator::count));
        let populated =
            meta.as_ref().is_none_or(|meta| Cgroup::at(&meta.cgroup).is_populated().unwrap_or(true));
        if links == HOOKS.len() || !populated {
            row.state = State::Ownerless;
            row.problems.push(if populated {
                "its engine is gone: the policy holds, and nothing is logged until its processes end"
                    .to_owned()
            } else {
                "it has ended, and what is left of it cannot be cleared".to_owned()
            });
        } else {
            row.state = State::NotEnforced;
            row.problems.push(format!("its engine is gone, and {links} of {} hooks are pinned", HOOKS.len()));
        }
        Some(row)
    }

    fn write(&self, text: &mut String, now: Timestamp) -> std::fmt::Result {
        let state = match self.state {
            State::Enforced => "enforced".green().to_string(),
            State::Audited => "audit: nothing is blocked".yellow().to_string(),
            State::Ownerless => "enforced, without an engine".yellow().to_string(),
            State::NotEnforced => "NOT ENFORCED".red().bold().to_string(),
            State::Unknown => "unknown".yellow().to_string(),
        };
        let policy = self.policy.as_deref().unwrap_or("?");
        writeln!(text, "{}  policy {policy}  {state}", self.agent.bold())?;
        for problem in &self.problems {
            writeln!(text, "    {problem}")?;
        }
        if let Some(engine) = &self.engine {
            let for_how_long = now.duration_since(engine.started).as_secs().max(0);
            writeln!(
                text,
                "    {} processes for {for_how_long} s; {} packets ({} bytes) allowed, {} refused, {} records lost",
                engine.processes, engine.allowed_packets, engine.allowed_bytes, engine.denied, engine.lost
            )?;
            writeln!(text, "    attached: {}", engine.hooks.join("; "))?;
        }
        if let Some(cgroup) = &self.cgroup {
            writeln!(text, "    {}", cgroup.dimmed())?;
        }
        Ok(())
    }
}
