//! `agentnet policy`: check a policy file, explain what it decides, show presets.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand};

use crate::policy::{DIRECTORY, Policy, diagnostic::Diagnostics, host::Host, schema};

mod check;
mod diff;
mod explain;
mod presets;
#[cfg(test)]
mod tests;

use check::CheckArgs;
use diff::DiffArgs;
use explain::ExplainArgs;
use presets::PresetsArgs;

/// Arguments of `agentnet policy`.
#[derive(Args, Debug)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

/// What to do with a policy.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Say everything that is wrong with policy files.
    Check(CheckArgs),
    /// Say which rule decides about a destination, or what is missing.
    Explain(ExplainArgs),
    /// Say what one policy allows and another does not.
    Diff(DiffArgs),
    /// List the rules that come with agentnet, or show some of them with their reasons.
    Presets(PresetsArgs),
    /// Print the JSON Schema of policy files.
    Schema,
}

/// Runs `agentnet policy`.
///
/// # Errors
/// What could not be written to standard output or error; that the addresses of this host cannot be listed.
pub fn run(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    // The streams take colour out again where it is not wanted.
    let mut streams = Streams { out: &mut anstream::stdout(), err: &mut anstream::stderr() };
    args.command.run(&mut streams)
}

/// Where policies are.
#[derive(Args, Debug)]
struct Directory {
    /// Look up names of policies here, before those that are built in.
    #[arg(long = "policies", value_name = "DIR", default_value = DIRECTORY)]
    path: PathBuf,
}

impl Directory {
    fn load(&self, policy: &str, host: &Host) -> Result<Policy, Diagnostics> {
        Policy::load_from(&self.path, policy, host)
    }
}

/// Where to write.
struct Streams<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Streams<'_> {
    /// JSON for whoever reads standard output, text for whoever looks at the terminal.
    fn problems(&mut self, problems: &Diagnostics, json: bool) -> io::Result<()> {
        if json {
            self.out.write_all(problems.json_lines().as_bytes())
        } else if problems.is_empty() {
            Ok(())
        } else {
            writeln!(self.err, "{}\n", problems.render(true))
        }
    }
}

impl PolicyCommand {
    fn run(self, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
        match self {
            Self::Check(args) => check::check(&args, streams),
            Self::Explain(args) => explain::explain(&args, streams),
            Self::Diff(args) => diff::run(&args, streams),
            Self::Presets(args) => presets::presets(&args, streams),
            Self::Schema => {
                streams.out.write_all(schema::json_schema().as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
