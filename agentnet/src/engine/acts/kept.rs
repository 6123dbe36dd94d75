//! What was done by hand, over the death of the daemon: `acts.json` in its directory, and the kernel's maps.
//!
//! The file says who, why and until when. What closes something and is in the kernel alone stays closed, done by
//! nobody who is known; what opens something and is not in the file is taken back.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use agentnet_common::abi::{AgentCfg, OPEN};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Ledger, Written};
use crate::{
    act::{self, Act, What},
    agent::{AgentName, registry::EngineKind},
    engine::{kept, make_directory, state::Engine},
    policy::net::Net,
};

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// Which run of the kernel its clock is of.
    boot: String,
    /// What was done.
    acts: Vec<Act>,
    /// See [`Ledger::waiting`].
    waiting: BTreeSet<AgentName>,
}

/// The file below `state`.
fn path(state: &Path) -> PathBuf {
    state.join("acts.json")
}

/// Which run of the kernel this is.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// What was kept below `state`; nothing if nothing was.
///
/// # Errors
/// If it cannot be read.
pub fn read(state: &Path) -> io::Result<Vec<Act>> {
    load(state).map(|ledger| ledger.all().to_vec())
}

/// Forgets what was kept below `state`. Whether there was anything.
///
/// # Errors
/// If it cannot be removed.
pub fn forget(state: &Path) -> io::Result<bool> {
    match fs::remove_file(path(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true),
    }
}

fn load(state: &Path) -> io::Result<Ledger> {
    let text = match fs::read(path(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        text => text?,
    };
    let Kept { boot: of, mut acts, waiting } = serde_json::from_slice(&text)?;
    if of != boot()? {
        // Its clock has begun anew; what is left of the time is known from the other one.
        for act in &mut acts {
            act.expiry = act.until.map_or(0, remaining);
        }
    }
    Ok(Ledger::new(acts, waiting))
}

/// The end `until` on the kernel's clock.
fn remaining(until: Timestamp) -> u64 {
    let left = u64::try_from(until.duration_since(Timestamp::now()).as_nanos()).unwrap_or(0);
    act::now().saturating_add(left).max(1)
}

fn write(state: &Path, ledger: &Ledger) -> io::Result<()> {
    make_directory(state, 0o755)?;
    let kept = Kept { boot: boot()?, acts: ledger.all().to_vec(), waiting: ledger.waiting().clone() };
    kept::replace(&path(state), &serde_json::to_vec(&kept)?)
}

impl Engine {
    /// Keeps what was done by hand for a daemon that is started later.
    ///
    /// # Errors
    /// If it cannot be written, in a sentence; it holds all the same.
    pub(super) fn keep_acts(&self) -> Result<(), String> {
        if self.kind != EngineKind::Daemon {
            return Ok(());
        }
        write(&self.settings.state, &self.acts.ledger).map_err(|error| {
            format!("what was done by hand cannot be kept for a restart of the daemon: {error}")
        })
    }

    /// Reads what a daemon before this one has kept, and what the kernel holds.
    pub(in crate::engine) fn load_acts(&mut self) {
        match load(&self.settings.state) {
            Ok(ledger) => self.acts.ledger = ledger,
            Err(error) => self.problem(format!(
                "what was done by hand cannot be read, so that only what it closes still holds: {error}"
            )),
        }
        match self.kernel.written_acts() {
            Ok(written) => self.acts.written = written,
            Err(error) => {
                self.problem(format!("what was done by hand cannot be looked up in the kernel: {error}"));
            }
        }
    }

    /// Takes over what the kernel holds against the agent `id`, whose configuration is `cfg`, and nobody has written
    /// down.
    pub(in crate::engine) fn recall_acts(&mut self, id: u32, name: &AgentName, cfg: &AgentCfg) {
        let known: BTreeSet<Net> = self.acts.ledger.of(name).filter_map(Act::blocks).collect();
        let held = self.acts.written.get(&id).into_iter().flat_map(|Written { blocks, .. }| blocks);
        let now = act::now();
        let strays = held.filter(|(net, value)| {
            **value != OPEN && agentnet_common::abi::is_block(**value, now) && !known.contains(net)
        });
        let mut found: Vec<(What, u64)> =
            strays.map(|(net, expiry)| (What::Block { net: *net }, *expiry)).collect();
        if cfg.is_quarantined() && self.acts.ledger.quarantine(name).is_none() {
            found.push((What::Quarantine, 0));
        }
        for (what, expiry) in found {
            let act = Act {
                id: self.acts.ledger.next_id(),
                what,
                agent: Some(name.clone()),
                by: None,
                detection: None,
                reason: None,
                since: Timestamp::now(),
                until: (expiry != 0).then(|| wall(expiry, now)),
                expiry,
            };
            tracing::warn!(%act, "in the kernel, and not written down");
            if let Err(why) = self.acts.ledger.add(act) {
                tracing::error!(why, agent = %name, "something is blocked that is not written down");
            }
        }
    }

    /// Forgets what was done to agents that are gone, here and in the kernel; `known` are those that are there.
    pub(in crate::engine) fn prune_acts(&mut self, known: &[AgentName]) {
        self.acts.ledger.prune(|name| known.contains(name));
        let is_gone = |id: &u32| !self.agents.contains_key(id) && !self.reserved.contains(id);
        let gone: Vec<u32> = self.acts.written.keys().copied().filter(is_gone).collect();
        gone.into_iter().for_each(|id| self.unwrite_acts(id));
        if let Err(why) = self.keep_acts() {
            self.problem(why);
        }
    }
}

/// The time `expiry` of the kernel's clock, which shows `now`.
fn wall(expiry: u64, now: u64) -> Timestamp {
    let left = i64::try_from(expiry.saturating_sub(now)).unwrap_or(i64::MAX);
    Timestamp::now().checked_add(jiff::SignedDuration::from_nanos(left)).unwrap_or(Timestamp::MAX)
}
