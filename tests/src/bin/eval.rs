//! `cargo xtask eval`: what the detectors reach on labelled data, see docs/detection.md.

fn main() -> anyhow::Result<std::process::ExitCode> {
    agentnet_tests::eval::main()
}
