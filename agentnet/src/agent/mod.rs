//! Who is governed, and the launcher that makes a governed process tree.

pub mod borrowed;
pub mod cgroup;
pub mod container;
pub mod launch;
pub mod name;
pub mod process;
pub mod registry;
pub mod resolv;
pub mod selector;
pub mod target;
pub mod tool;
pub mod watch;

pub use name::AgentName;
