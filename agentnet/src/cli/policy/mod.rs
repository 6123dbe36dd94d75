//! `agentnet policy`: check a policy file, explain what it decides.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use crate::policy::{diagnostic::Diagnostics, schema};

mod check;
mod explain;
#[cfg(test)]
mod tests;

use check::CheckArgs;
use explain::ExplainArgs;

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
            Self::Schema => {
                streams.out.write_all(schema::json_schema().as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
