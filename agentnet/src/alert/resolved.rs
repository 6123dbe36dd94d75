//! The names by which an agent has come to addresses.

use agentnet_common::addr::Addr;

/// What an agent has resolved.
pub trait Names: Send {
    /// The name with this hash, if it is still known.
    fn name(&self, hash: u64) -> Option<String>;

    /// The names that have opened this address and have not ended, each once.
    fn names_of(&self, addr: &Addr) -> Vec<String>;
}

/// Nobody knows any.
#[derive(Clone, Copy, Debug)]
pub struct Nameless;

impl Names for Nameless {
    fn name(&self, _: u64) -> Option<String> {
        None
    }

    fn names_of(&self, _: &Addr) -> Vec<String> {
        Vec::new()
    }
}
