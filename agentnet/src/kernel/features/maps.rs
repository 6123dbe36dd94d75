//! The maps that agentnet's programs use, made as agentnet makes them.

use std::os::fd::{AsFd as _, OwnedFd};

use super::{
    Check, Purpose, Subject,
    bpf::{KERNEL, Map, Refusal, judge},
    program::{Maps, TRIE_KEY_BYTES},
};

// enum bpf_map_type, include/uapi/linux/bpf.h
const LPM_TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
const CGROUP_STORAGE: u32 = 19;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_CLONE: u32 = 1 << 9;

const MAP_IDENTITY: Subject = map("map_cgroup_storage", "cgroup storage");
const MAP_SOCKETS: Subject = map("map_sk_storage", "socket storage");
const MAP_TRIE: Subject = map("map_lpm_trie", "LPM trie, 256-byte keys");
const MAP_NESTED: Subject = map("map_array_of_maps", "array of maps");
const MAP_RING: Subject = map("map_ringbuf", "ring buffer");

/// All of them.
pub(super) const MAPS: [Subject; 5] = [MAP_IDENTITY, MAP_SOCKETS, MAP_TRIE, MAP_NESTED, MAP_RING];

const fn map(id: &'static str, title: &'static str) -> Subject {
    Subject::required(id, title, Purpose::Enforcement)
}

/// Makes the maps that the probing programs use.
pub(super) fn create() -> (Maps, Vec<Check>) {
    let mut maps = Maps::default();
    let mut checks = Vec::new();
    let mut record = |subject: Subject, made: Result<OwnedFd, Refusal>, fix: &str| {
        let (map, result) = match made {
            Ok(map) => (Some(map), Ok(())),
            Err(refusal) => (None, Err(refusal)),
        };
        checks.push(judge(subject, result, "can be made", fix));
        map
    };
    let identity = Map { kind: CGROUP_STORAGE, key_bytes: 8, value_bytes: 16, ..Map::default() };
    maps.cgroup_storage = record(MAP_IDENTITY, identity.create(), KERNEL);

    let sockets = Map {
        kind: SK_STORAGE,
        key_bytes: 4,
        value_bytes: 4,
        flags: BPF_F_NO_PREALLOC | BPF_F_CLONE,
        btf: true,
        ..Map::default()
    };
    maps.socket_storage = record(MAP_SOCKETS, sockets.create(), KERNEL);

    let trie = Map {
        kind: LPM_TRIE,
        key_bytes: TRIE_KEY_BYTES,
        value_bytes: 8,
        entries: 1,
        flags: BPF_F_NO_PREALLOC,
        ..Map::default()
    };
    let trie = record(MAP_TRIE, trie.create(), KERNEL);

    maps.tries = match &trie {
        Some(trie) => {
            let inner = Some(trie.as_fd());
            let nested = Map {
                kind: ARRAY_OF_MAPS,
                key_bytes: 4,
                value_bytes: 4,
                entries: 1,
                inner,
                ..Map::default()
            };
            record(MAP_NESTED, nested.create(), KERNEL)
        }
        None => None,
    };
    // A ring is a power of two of pages.
    let entries = u32::try_from(rustix::param::page_size()).unwrap_or(1 << 12);
    maps.ring = record(MAP_RING, Map { kind: RINGBUF, entries, ..Map::default() }.create(), KERNEL);
    if trie.is_none() {
        checks.push(MAP_NESTED.unknown("cannot be tried without the trie"));
    }
    (maps, checks)
}
