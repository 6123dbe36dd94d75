//! Who is governed, and the launcher that makes a governed process tree.

pub mod launch;
