//! What the daemon keeps on disk about an agent, so that one that is started later knows its policy:
//! `agents/NAME.json`, and `agents/NAME.toml` where the text came from a user's file. For root alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    make_directory,
    selection::Origin,
    selectors::Selected,
    state::{Engine, state_file},
};
use crate::{
    agent::{AgentName, registry::EngineKind},
    policy::resolvers::Resolution,
};

/// What is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    /// Where the policy comes from.
    pub(super) origin: Origin,
    /// Whether it was asked only to report.
    pub(super) audit: bool,
    /// How it was selected, unless somebody asked for it.
    #[serde(default)]
    pub(super) selected: Option<Selected>,
    /// Whom it asks for names, where that is not what the host does.
    #[serde(default)]
    pub(super) own: Option<Resolution>,
    /// The id of its cgroup.
    #[serde(default)]
    pub(super) place: Option<u64>,
    /// The text, if it is nowhere else.
    #[serde(skip)]
    pub(super) text: Option<String>,
}

impl Kept {
    /// What is kept about `name` below `state`.
    ///
    /// # Errors
    /// If nothing is, or it cannot be read.
    pub(super) fn read(state: &Path, name: &AgentName) -> io::Result<Self> {
        let text = fs::read(state_file(state, name, "json"))?;
        let mut kept: Self = serde_json::from_slice(&text)?;
        if matches!(kept.origin, Origin::Text(_)) {
            kept.text = Some(fs::read_to_string(state_file(state, name, "toml"))?);
        }
        Ok(kept)
    }

    fn write(&self, state: &Path, name: &AgentName) -> io::Result<()> {
        make_directory(&state.join("agents"), 0o700)?;
        if let Some(text) = &self.text {
            replace(&state_file(state, name, "toml"), text.as_bytes())?;
        }
        replace(&state_file(state, name, "json"), &serde_json::to_vec(self)?)
    }
}

/// Removes what was kept about agents that are not among the `known`.
pub(super) fn prune(state: &Path, known: &[AgentName]) {
    for entry in fs::read_dir(state.join("agents")).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
        if name.is_none_or(|name: AgentName| !known.contains(&name)) {
            // It is in nobody's way.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file of root's; whoever reads it sees all of it or what was there before.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}

impl Engine {
    /// Keeps what a daemon that is started later needs to know about the agent.
    pub(super) fn keep(&mut self, id: u32) {
        if self.kind != EngineKind::Daemon {
            return;
        }
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let text = matches!(agent.origin, Origin::Text(_)).then(|| agent.policy.text().to_owned());
        let kept = Kept {
            origin: agent.origin.clone(),
            audit: agent.only_audit,
            selected: agent.selected.clone(),
            own: agent.own.clone(),
            place: agent.place,
            text,
        };
        if let Err(error) = kept.write(&self.settings.state, &agent.name) {
            // The policy holds; what is lost is that a daemon that is started later can explain it.
            let problem = format!("its policy cannot be kept for a restart of the daemon: {error}");
            tracing::warn!(agent = %agent.name, problem);
            agent.notes.push(problem);
        }
    }

    /// Forgets what was kept about an agent that has ended.
    pub(super) fn forget(&self, name: &AgentName) {
        if self.kind == EngineKind::Daemon {
            for extension in ["json", "toml", super::detection::LEDGER] {
                // It may be that nothing was kept.
                let _ = fs::remove_file(self.state_file(name, extension));
            }
        }
    }
}
