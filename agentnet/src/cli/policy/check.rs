//! `agentnet policy check`.

use std::process::ExitCode;

use clap::Args;

use super::{Directory, Streams};
use crate::{
    exit,
    policy::{Policy, diagnostic::Severity, host::Host},
};

/// Arguments of `agentnet policy check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// Files, or names of policies.
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<String>,
    #[command(flatten)]
    directory: Directory,
    /// Take warnings for errors.
    #[arg(long)]
    deny_warnings: bool,
    /// Print one JSON object a problem and line.
    #[arg(long)]
    json: bool,
}

pub(super) fn check(args: &CheckArgs, streams: &mut Streams<'_>) -> anyhow::Result<ExitCode> {
    let mut invalid = false;
    for policy in &args.policies {
        // What is wrong with a file does not depend on the host that it is looked at on.
        match args.directory.load(policy, &Host::default()) {
            Ok(policy) => {
                invalid |= args.deny_warnings && !policy.warnings.is_empty();
                streams.problems(&policy.warnings, args.json)?;
                if !args.json {
                    writeln!(streams.out, "{}", summary(&policy))?;
                }
            }
            Err(problems) => {
                invalid = true;
                streams.problems(&problems, args.json)?;
                if !args.json {
                    let errors = counted(problems.count(Severity::Error), "error");
                    writeln!(streams.err, "{}: not valid: {errors}", problems.file())?;
                }
            }
        }
    }
    Ok(if invalid { ExitCode::from(exit::WRONG_USAGE) } else { ExitCode::SUCCESS })
}

fn summary(policy: &Policy) -> String {
    let rules = counted(policy.compiled.rules.len(), "rule");
    match policy.warnings.count(Severity::Warning) {
        0 => format!("{}: valid, {rules}", policy.file()),
        warnings => format!("{}: valid, {rules}, {}", policy.file(), counted(warnings, "warning")),
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
