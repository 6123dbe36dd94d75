//! Set-up, build, test, lint, verify, bench and CI of agentnet: `cargo xtask <command>`.
//!
//! One file per command. Versions and package names live in `toolchain`, nowhere else.

mod bench;
mod build;
mod ci;
mod command;
mod lint;
mod progress;
mod run;
mod setup;
mod test;
mod toolchain;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, build, test, lint, verify, bench and CI of agentnet",
    version
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the build needs; says what and why, does nothing where nothing is missing
    Setup(setup::Args),
    /// Compile the kernel programs, then the agentnet binary with them inside
    Build(build::Args),
    /// Set up, build and show the demo; with arguments: `agentnet run` with them
    Run(run::Args),
    /// Run every test: unit, documentation and end-to-end (those need root)
    Test(test::Args),
    /// Formatting, clippy, documentation, dependencies, repository hygiene
    Lint,
    /// Load every kernel program and hold its verifier cost against the budget
    Verify(verify::Args),
    /// Measure the overhead of enforcement
    Bench(bench::Args),
    /// What a change must pass: lint, test, verify
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run(&args),
        Command::Build(args) => build::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Lint => lint::run(),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Ci => ci::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
