//! What a policy has to know of the host it is for.

use std::net::IpAddr;

use super::resolvers::Resolution;

/// What differs between hosts, and between agents on one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The host's addresses.
    pub local: Vec<IpAddr>,
    /// What "system" means in `[dns]`.
    pub resolution: Resolution,
}

impl Host {
    /// A host that has these addresses and asks nobody for names.
    pub fn at(local: &[IpAddr]) -> Self {
        Self { local: local.to_vec(), resolution: Resolution::default() }
    }
}
