//! Clearing what has no owner and no process left.

use std::io;

use super::{Exclusive, LOCK, META, Meta, Registry, Result, entry::remove_entry, lock_file};
use crate::agent::AgentName;

/// What [`Registry::collect`] needs to know of and do to the host.
pub trait Host {
    /// Whether a process lives in the agent's cgroup or below.
    ///
    /// # Errors
    /// If it cannot be known; the agent is then left alone.
    fn is_populated(&self, meta: &Meta) -> io::Result<bool>;

    /// Takes down the agent's pins and cgroup.
    ///
    /// # Errors
    /// If something stays; the entry is then kept.
    fn clear(&self, name: &AgentName, meta: &Meta) -> io::Result<()>;
}

impl Registry {
    /// Clears every entry that has no owner and no process left, and returns the names of those that were
    /// cleared. What cannot be cleared stays under its policy and is reported with the reason.
    ///
    /// # Errors
    /// If the registry cannot be read.
    pub fn collect(
        &self,
        exclusive: &Exclusive,
        host: &dyn Host,
    ) -> Result<Vec<(AgentName, io::Result<()>)>> {
        let mut collected = Vec::new();
        for listed in self.list()? {
            let directory = self.agents().join(&listed.name);
            let path = directory.join(LOCK);
            // Locked for as long as it is being taken down, against an engine that claims without asking.
            let lock = match lock_file(false, &path) {
                Ok(lock) => lock,
                Err(_) if !path.exists() => {
                    // An engine died between making the directory and the lock: nothing else exists.
                    collected.push((listed.name, remove_entry(exclusive, &directory)));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if lock.try_lock().is_err() {
                continue;
            }
            let cleared = match &listed.meta {
                Some(meta) => match host.is_populated(meta) {
                    Ok(true) => continue,
                    Ok(false) => host.clear(&listed.name, meta),
                    Err(error) => Err(error),
                },
                // Written before the cgroup and the pins are made: none of it, nothing to take down.
                None if !directory.join(META).exists() => Ok(()),
                None => Err(io::Error::new(io::ErrorKind::InvalidData, "its entry cannot be read")),
            };
            let cleared = cleared.and_then(|()| remove_entry(exclusive, &directory));
            collected.push((listed.name, cleared));
        }
        Ok(collected)
    }
}
