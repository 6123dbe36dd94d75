//! Who is governed, and the launcher that makes a governed process tree.

pub mod process;
pub mod launch;
