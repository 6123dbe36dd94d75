//! Set-up, build, test, lint, verify, bench and CI of agentnet: `cargo xtask <command>`.
//!
//! One file per command. Versions and package names live in `toolchain`, nowhere else.

mod bench;
mod build;
mod cargo_install;
mod ci;
mod command;
mod eval;
mod fuzz;
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
    /// Measure what enforcement costs, or detection
    Bench(bench::Args),
    /// Show what the detectors reach on labelled data
    Eval(eval::Args),
    /// Feed every parser of hostile bytes what a coverage-guided fuzzer thinks of
    Fuzz(fuzz::Args),
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
        Command::Eval(args) => eval::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Command {
        Cli::try_parse_from(["xtask"].into_iter().chain(line.split(' '))).unwrap().command
    }

    #[test]
    fn the_agents_command_line_goes_through() {
        for line in ["run -- --policy p.toml -- ls -l", "run --policy p.toml -- ls -l"] {
            let Command::Run(args) = parse(line) else { panic!("{line}") };
            assert_eq!(args.args, ["--policy", "p.toml", "--", "ls", "-l"], "{line}");
        }
        let Command::Run(args) = parse("run") else { panic!("no demo") };
        assert!(args.args.is_empty());
    }

    #[test]
    fn arguments_of_cargo_and_of_the_runner_are_told_apart() {
        let Command::Test(args) = parse("test connect -- --nocapture") else { panic!("no test") };
        assert_eq!((args.filter, args.runner), (Some("connect".into()), vec!["--nocapture".into()]));
        let Command::Test(args) = parse("test -- --nocapture") else { panic!("no test") };
        assert_eq!((args.filter, args.runner), (None, vec!["--nocapture".into()]));
    }
}
