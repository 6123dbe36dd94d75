//! The maps. Their names and layouts are `agentnet_common::abi`.

use agentnet_common::{
    abi::{
        ALERT_RING_BYTES, AgentCfg, AgentCounters, BLOCK_ENTRIES, Blocked, Budget, Dialog, Door,
        GATE_ENTRIES, GRANT_ENTRIES, Grant, Granted, HELLOS_ENTRIES, Hello, IFACE_ENTRIES, MAX_AGENTS,
        NAMED_ENTRIES, NameNode, Named, OWNERS as OWNER_PLACES, Owner, PIN_ENTRIES, Pins, Queries,
        REFUSED_ENTRIES, Ruleset, SAMPLE_RING_BYTES, SCRATCHES, SERIES_PLACES, SLOTS, SUN_PATH, Scratch,
        Series, SockState, TAILS, UdpPeers, Uplink, VISITOR_ENTRIES, Visitor,
    },
    addr::Addr,
    event::VerdictEvent,
    name::KEY_BYTES,
};
use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type},
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SockHash,
    },
    macros::btf_map,
};

/// A map whose definition aya-ebpf does not offer in the variant needed here: laid out as its own
/// definitions are, so that loaders read type, key, value and flags from BTF.
macro_rules! storage_map {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $key:ty, $value:ty, $flags:expr) => {
        $(#[$doc])*
        #[repr(C)]
        pub struct $name {
            r#type: *const [i32; bpf_map_type::$kind as usize],
            key: *const $key,
            value: *const $value,
            max_entries: *const [i32; 0],
            map_flags: *const [i32; $flags as usize],
        }

        // SAFETY: the pointers only carry types for BTF; nothing dereferences them.
        unsafe impl Sync for $name {}

        impl $name {
            const fn new() -> Self {
                use core::ptr::null;
                Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
            }

            /// The map as helpers take it.
            #[inline(always)]
            pub const fn as_ptr(&self) -> *mut core::ffi::c_void {
                core::ptr::from_ref(self).cast_mut().cast()
            }
        }
    };
}

storage_map!(
    /// Cgroup storage with the shared key (the cgroup id alone, since Linux 5.9): one value for every program
    /// attached to a cgroup, so that one write changes all hooks at once.
    CfgMap, BPF_MAP_TYPE_CGROUP_STORAGE, u64, AgentCfg, 0
);
storage_map!(
    /// Socket storage that accepted sockets inherit from their listener.
    SockMap, BPF_MAP_TYPE_SK_STORAGE, i32, SockState, BPF_F_NO_PREALLOC | BPF_F_CLONE
);

storage_map!(
    /// Storage of UDP sockets that somebody talks to.
    PeersMap, BPF_MAP_TYPE_SK_STORAGE, i32, UdpPeers, BPF_F_NO_PREALLOC
);

storage_map!(
    /// Storage of sockets that ask a resolver.
    QueriesMap, BPF_MAP_TYPE_SK_STORAGE, i32, Queries, BPF_F_NO_PREALLOC
);

storage_map!(
    /// Storage of connections to resolvers.
    DialogMap, BPF_MAP_TYPE_SK_STORAGE, i32, Dialog, BPF_F_NO_PREALLOC
);

storage_map!(
    /// Storage of connections that have yet to say a name.
    HelloMap, BPF_MAP_TYPE_SK_STORAGE, i32, Hello, BPF_F_NO_PREALLOC
);

/// The bytes of a key of names.
pub type NameBytes = [u8; KEY_BYTES];

/// Names of one policy, as [`NetTrie`].
pub type NameTrie = LpmTrie<NameBytes, NameNode, 1>;

/// Addresses of one agent that were resolved from names. The loader makes the real maps.
pub type PinMap = LruHashMap<Addr, Pins, { PIN_ENTRIES as usize }>;

/// Names of one agent that were asked for.
pub type NamedMap = LruHashMap<u64, Named, { NAMED_ENTRIES as usize }>;

/// Networks of one policy. The loader makes the real tries; this one only gives their shape.
pub type NetTrie = LpmTrie<Addr, Ruleset, 1>;

/// Unix sockets that one policy names. Made by the loader as well.
pub type DoorTrie = LpmTrie<[u8; SUN_PATH], Door, 1>;

#[btf_map]
pub static CFG: CfgMap = CfgMap::new();
#[btf_map]
pub static SOCK: SockMap = SockMap::new();
#[btf_map]
pub static PEERS: PeersMap = PeersMap::new();
#[btf_map]
pub static NETS: ArrayOfMaps<NetTrie, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static NAMES: ArrayOfMaps<NameTrie, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static PINS: ArrayOfMaps<PinMap, { MAX_AGENTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static NAMED: ArrayOfMaps<NamedMap, { MAX_AGENTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static QUERIES: QueriesMap = QueriesMap::new();
#[btf_map]
pub static DIALOG: DialogMap = DialogMap::new();
#[btf_map]
pub static GATE: SockHash<u64, { GATE_ENTRIES as usize }> = SockHash::new();
#[btf_map]
pub static HELLO: HelloMap = HelloMap::new();
#[btf_map]
pub static HELLOS: SockHash<u64, { HELLOS_ENTRIES as usize }> = SockHash::new();
#[btf_map]
pub static SCRATCH: PerCpuArray<Scratch, { SCRATCHES as usize }> = PerCpuArray::new();
#[btf_map]
pub static OWNERS: Array<Owner, { OWNER_PLACES as usize }> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<AgentCounters, { MAX_AGENTS as usize }> = PerCpuArray::new();
#[btf_map]
pub static SERIES: PerCpuArray<Series, { SERIES_PLACES as usize }> = PerCpuArray::new();
#[btf_map]
pub static TAILS_OUT: ProgramArray<{ TAILS as usize }> = ProgramArray::new();
#[btf_map]
pub static TAILS_IN: ProgramArray<{ TAILS as usize }> = ProgramArray::new();
#[btf_map]
pub static BUDGETS: Array<Budget, { MAX_AGENTS as usize }> = Array::new();
#[btf_map]
pub static REFUSED: HashMap<u64, u32, { REFUSED_ENTRIES as usize }> = HashMap::new();
#[btf_map]
pub static IFACE: HashMap<u32, Uplink, { IFACE_ENTRIES as usize }> = HashMap::new();
#[btf_map]
pub static HOSTCG: HashMap<u64, u32, { MAX_AGENTS as usize }> = HashMap::new();
#[btf_map]
pub static AGENTS: Array<AgentCfg, { MAX_AGENTS as usize }> = Array::new();
#[btf_map]
pub static VISITORS: LruHashMap<Visitor, u64, { VISITOR_ENTRIES as usize }> = LruHashMap::new();
#[btf_map]
pub static DOORS: ArrayOfMaps<DoorTrie, { SLOTS as usize }> = ArrayOfMaps::new();
#[btf_map]
pub static BLOCKS: LpmTrie<Blocked, u64, { BLOCK_ENTRIES as usize }> = LpmTrie::new();
// Few agents have grants: room is made when there are.
#[btf_map]
pub static GRANTS: HashMap<Granted, Grant, { GRANT_ENTRIES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map]
pub static ALERTS: RingBuf<VerdictEvent, { ALERT_RING_BYTES as usize }> = RingBuf::new();
#[btf_map]
pub static SAMPLES: RingBuf<VerdictEvent, { SAMPLE_RING_BYTES as usize }> = RingBuf::new();
