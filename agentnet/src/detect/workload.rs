//! The state of one workload. Its size has a limit, whatever the workload sends.

use super::{
    dga,
    finding::Told,
    fusion::Fusion,
    icmp,
    ledger::{Keys, Ledger},
};

/// The state of one workload.
#[derive(Debug)]
pub struct Workload {
    /// What it told whom; survives a restart.
    pub ledger: Ledger,
    pub(super) told: Told,
    pub(super) fusion: Fusion,
    pub(super) dga: dga::State,
    pub(super) icmp: icmp::State,
}

/// What the state of a workload may take, in bytes.
pub const MAX_BYTES: usize = 64 << 10;

impl Workload {
    /// Nothing known yet.
    pub fn new(keys: Keys) -> Self {
        Self::with_ledger(Ledger::new(keys))
    }

    /// With a ledger of before.
    pub fn with_ledger(ledger: Ledger) -> Self {
        Self {
            ledger,
            told: Told::default(),
            fusion: Fusion::default(),
            dga: dga::State::default(),
            icmp: icmp::State::default(),
        }
    }

    /// Bytes it takes at most.
    pub const fn max_bytes() -> usize {
        size_of::<Self>()
            + Ledger::max_bytes()
            + Told::BYTES
            + Fusion::BYTES
            + dga::State::BYTES
            + icmp::State::BYTES
    }
}

const _: () = assert!(Workload::max_bytes() <= MAX_BYTES);
