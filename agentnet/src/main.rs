//! The agentnet binary.
fn main() -> std::process::ExitCode {
    agentnet::cli::main()
}
