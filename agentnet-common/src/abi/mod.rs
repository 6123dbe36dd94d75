//! Layouts of map keys and values, and the names of maps, programs and pins.

pub mod maps;

mod act;
mod hello;
mod interface;
mod name;
mod policy;
mod report;
mod socket;

use crate::verdict::REASON_SLOTS;

pub use self::{act::*, hello::*, interface::*, name::*, policy::*, report::*, socket::*};

/// Version of everything in this crate that crosses the kernel boundary. Part of the pin directory, so
/// that two versions never share a map.
pub const ABI_VERSION: u16 = 1;

const _: () = {
    assert!(size_of::<AgentCfg>() == 16);
    assert!(size_of::<PortRule>() == 8);
    assert!(size_of::<Ruleset>() == 132);
    assert!(size_of::<NameNode>() == 268);
    assert!(size_of::<SockState>() == 136);
    assert!(size_of::<UdpPeers>() == 128);
    assert!(size_of::<Owner>() == 32);
    assert!(OWNERS.is_power_of_two());
    assert!(size_of::<Series>() == 136);
    assert!(SERIES_PLACES.is_power_of_two());
    assert!(QUERIES_OPEN.is_power_of_two());
    assert!(HELLO_BYTES.is_power_of_two() && HELLO_STEP.is_power_of_two());
    assert!(REASON_SLOTS.is_power_of_two());
    assert!(size_of::<Named>() == 260);
    assert!(size_of::<Uplink>() == 8);
    assert!(size_of::<Visitor>() == 28);
    assert!(size_of::<Blocked>() == 24);
    assert!(size_of::<Granted>() == 24);
    assert!(size_of::<Grant>() == 16);
    assert!(size_of::<AgentCounters>() == 8 * (13 + REASON_SLOTS));
};
