//! The command line: arguments and printing, nothing else.

pub mod doctor;
pub mod verify;
pub mod policy;

/// Runs the command line of this process.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
