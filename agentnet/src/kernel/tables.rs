//! Arrays of maps: what a policy slot holds, and the room that an agent has.
//!
//! Each time an element of such an array changes the kernel waits until no program can use the map that was there
//! before (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c): a grace period of RCU, 4 to 20 ms where it was measured.
//! So elements are set side by side, and the first ones while the kernel verifies the programs.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    panic::resume_unwind,
    thread,
};

use agentnet_common::abi::{
    Door, NAMED_ENTRIES, NameNode, Named, PIN_ENTRIES, Pins, Ruleset, SUN_PATH, maps,
};
use agentnet_common::{addr::Addr, name::KEY_BYTES};
use aya::{
    Ebpf, Pod,
    maps::{LpmTrie, Map, MapData, MapError, lpm_trie::Key},
};
use aya_obj::generated::bpf_map_type;

use super::{
    KernelError,
    object::{BPF_F_NO_PREALLOC, Kernel, map_data, missing},
    sys,
};
use crate::policy::compile::Compiled;

/// The arrays by policy slot and those by agent.
const ARRAYS: [&str; 5] = [maps::DOORS, maps::NAMES, maps::NETS, maps::PINS, maps::NAMED];

/// The arrays of maps of a loaded object.
#[derive(Debug)]
pub(super) struct Tables([OwnedFd; ARRAYS.len()]);

/// What an array is to hold at an index: a map, or nothing.
struct Change {
    array: &'static str,
    index: u32,
    inner: Option<OwnedFd>,
}

/// What is known when an object is loaded for one agent.
#[derive(Clone, Copy, Debug)]
pub struct First<'a> {
    /// The policy slot.
    pub slot: u32,
    /// What it is to hold.
    pub policy: &'a Compiled,
    /// The agent's number.
    pub agent: u32,
}

impl Tables {
    /// Those of `object`.
    ///
    /// # Errors
    /// When it lacks one.
    pub(super) fn of(object: &Ebpf) -> Result<Self, KernelError> {
        let descriptor = |name: &'static str| -> Result<OwnedFd, KernelError> {
            let data = object.map(name).and_then(map_data).ok_or_else(|| missing(name))?;
            data.fd().as_fd().try_clone_to_owned().map_err(failed(name))
        };
        let [doors, names, nets, pins, named] = ARRAYS;
        Ok(Self([
            descriptor(doors)?,
            descriptor(names)?,
            descriptor(nets)?,
            descriptor(pins)?,
            descriptor(named)?,
        ]))
    }

    /// Fills the slot of a policy, and makes room for an agent.
    ///
    /// # Errors
    /// When a map cannot be made or filled.
    pub(super) fn prepare(&self, first: &First<'_>) -> Result<(), KernelError> {
        let mut changes = slot(first.slot, first.policy)?;
        changes.extend(room(first.agent)?);
        self.set(changes)
    }

    /// Makes all changes and returns when the kernel has made the last one.
    fn set(&self, changes: Vec<Change>) -> Result<(), KernelError> {
        thread::scope(|scope| {
            let set = |change| scope.spawn(move || self.set_one(&change));
            let all: Vec<_> = changes.into_iter().map(set).collect();
            all.into_iter()
                .map(|one| one.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .fold(Ok(()), Result::and)
        })
    }

    fn set_one(&self, change: &Change) -> Result<(), KernelError> {
        let array = self.array(change.array)?;
        let result = match &change.inner {
            Some(inner) => sys::map_update(array, &change.index, &inner.as_raw_fd()),
            None => match sys::map_delete(array, &change.index) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                result => result,
            },
        };
        result.map_err(failed(change.array))
    }

    fn array(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        let index = ARRAYS.iter().position(|array| *array == name);
        let found = index.and_then(|index| self.0.get(index)).ok_or_else(|| missing(name))?;
        Ok(found.as_fd())
    }
}

fn failed(map: &'static str) -> impl Fn(io::Error) -> KernelError {
    move |error| KernelError::Map { map, source: MapError::IoError(error) }
}

/// The maps of a policy, for its slot.
fn slot(index: u32, policy: &Compiled) -> Result<Vec<Change>, KernelError> {
    let nets = policy.nets.iter().map(|net| (Key::new(u32::from(net.prefix), net.addr), net.rules));
    let bits = |len: usize| u32::try_from(len * 8).unwrap_or(u32::MAX);
    let names = policy.names.iter().map(|(key, node)| (Key::new(bits(key.len), key.bytes), *node));
    let doors = policy.doors.iter().map(|door| (door.key(), door.value()));
    let doors =
        if policy.doors.is_empty() { None } else { Some(trie::<[u8; SUN_PATH], Door>(maps::DOORS, doors)?) };
    let nets = trie::<Addr, Ruleset>(maps::NETS, nets)?;
    let names = trie::<[u8; KEY_BYTES], NameNode>(maps::NAMES, names)?;
    Ok(vec![
        Change { array: maps::DOORS, index, inner: doors },
        Change { array: maps::NAMES, index, inner: Some(names) },
        Change { array: maps::NETS, index, inner: Some(nets) },
    ])
}

/// A trie of these entries, for an element of `array`.
fn trie<K: Pod, V: Pod>(
    array: &'static str,
    entries: impl ExactSizeIterator<Item = (Key<K>, V)>,
) -> Result<OwnedFd, KernelError> {
    let failed_map = |source| KernelError::Map { map: array, source };
    let (sizes, capacity) = ((size_of::<Key<K>>(), size_of::<V>()), u32::try_from(entries.len()));
    let kind = bpf_map_type::BPF_MAP_TYPE_LPM_TRIE;
    let made = sys::map_create(kind, sizes, capacity.unwrap_or(u32::MAX).max(1), BPF_F_NO_PREALLOC);
    let made = made.map_err(failed(array))?;
    let data = MapData::from_fd(made.try_clone().map_err(failed(array))?).map_err(failed_map)?;
    let mut trie = LpmTrie::<_, K, V>::try_from(Map::LpmTrie(data)).map_err(failed_map)?;
    for (key, value) in entries {
        trie.insert(&key, value, 0).map_err(failed_map)?;
    }
    Ok(made)
}

/// Room for the names that an agent asks for and the addresses that these open, with nothing in it.
fn room(agent: u32) -> Result<Vec<Change>, KernelError> {
    let make = |array, key, value, entries| {
        sys::map_create(bpf_map_type::BPF_MAP_TYPE_LRU_HASH, (key, value), entries, 0)
            .map(|inner| Change { array, index: agent, inner: Some(inner) })
            .map_err(failed(array))
    };
    Ok(vec![
        make(maps::PINS, size_of::<Addr>(), size_of::<Pins>(), PIN_ENTRIES)?,
        make(maps::NAMED, size_of::<u64>(), size_of::<Named>(), NAMED_ENTRIES)?,
    ])
}

/// The same with nothing left.
fn nothing<const N: usize>(arrays: [&'static str; N], index: u32) -> Vec<Change> {
    arrays.into_iter().map(|array| Change { array, index, inner: None }).collect()
}

impl Kernel {
    /// Fills policy slot `slot`. Verdicts of agents in this slot change with the next packet whose verdict
    /// is not remembered: give them a new generation by [`Kernel::configure`].
    ///
    /// # Errors
    /// When a map cannot be made or filled; the slot is not to be used then.
    pub fn install(&mut self, slot: u32, policy: &Compiled) -> Result<(), KernelError> {
        self.tables().set(self::slot(slot, policy)?)
    }

    /// Frees policy slot `slot`. An agent that is still in it may send nothing.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn uninstall(&mut self, slot: u32) -> Result<(), KernelError> {
        self.tables().set(nothing([maps::NETS, maps::NAMES, maps::DOORS], slot))
    }

    /// Gives the agent room of its own. It begins with none.
    pub(super) fn make_room(&self, agent: u32) -> Result<(), KernelError> {
        self.tables().set(room(agent)?)
    }

    /// Frees the room that an agent had, see [`Kernel::attach`]; what it has resolved is closed.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn close_room(&self, agent: u32) -> Result<(), KernelError> {
        self.tables().set(nothing([maps::PINS, maps::NAMED], agent))
    }
}
