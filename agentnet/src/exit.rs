//! Exit codes, where they mean more than success and failure.

/// A wrong usage, or an invalid policy.
pub const WRONG_USAGE: u8 = 2;

/// A failure of agentnet's own, where the command's own codes are meant to be told apart.
pub const OWN_FAILURE: u8 = 125;

/// The command exists and cannot be executed, as shells say it.
pub const NOT_EXECUTABLE: u8 = 126;

/// There is no such command, as shells say it.
pub const NOT_FOUND: u8 = 127;
