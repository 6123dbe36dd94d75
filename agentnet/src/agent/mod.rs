//! Who is governed, and the launcher that makes a governed process tree.

pub mod borrowed;
pub mod cgroup;
pub mod launch;
pub mod name;
pub mod process;
pub mod registry;

pub use name::AgentName;
