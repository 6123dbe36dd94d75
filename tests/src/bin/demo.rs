//! What `cargo xtask run` shows: an agent that does its work and tries several forbidden things, first with
//! nothing to stop it and then under agentnet. All traffic is real, between two throw-away namespaces.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use agentnet_tests::{
    demo::{self, screen, story},
    probe,
};
use anyhow::{Result, ensure};
use clap::Parser;

/// The policy, in the source tree so that it can be read and changed.
const POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/demo/policy.toml");

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(clap::Subcommand)]
enum Role {
    /// The agent: does what a file says.
    #[command(hide = true)]
    Agent {
        /// The file.
        file: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    match Cli::parse().role {
        Some(Role::Agent { file }) => {
            probe::run::suite(&serde_json::from_slice::<Vec<_>>(&fs::read(file)?)?, &mut io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        None => show(),
    }
}

fn show() -> Result<ExitCode> {
    let dir = tempfile::Builder::new().prefix("agentnet-demo-").tempdir()?.keep();
    // The agent may be an ordinary user, who has to read what it is to do.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let policy = Path::new(POLICY);
    let steps = story::steps();

    screen::heading("1. The agent on its own");
    let before = demo::play(None, &dir, |_, _| {})?;
    let got_through =
        steps.iter().zip(&before.outcomes).filter(|(step, outcome)| !step.allowed && outcome.arrived > 0);
    let forbidden = steps.iter().filter(|step| !step.allowed).count();
    println!(
        "  {} of {forbidden} forbidden things got through, as did all of its work.",
        got_through.count()
    );

    screen::heading("2. The same agent under agentnet, live");
    let after = demo::play(Some(policy), &dir, screen::live)?;
    ensure!(after.status.success(), "agentnet ended with {}", after.status);

    screen::heading("3. What arrived at the far end");
    screen::table(&steps, &before.outcomes, &after.outcomes);
    screen::footer(&after.alerts, policy);
    let expected =
        steps.iter().zip(&after.outcomes).all(|(step, outcome)| screen::is_as_expected(step, outcome));
    Ok(if expected { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
