//! `agentnet doctor`: what this host can do, what is missing, how to get it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use owo_colors::OwoColorize as _;

use crate::kernel::features::{self, Check, Purpose, State};

/// Arguments of `agentnet doctor`.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Print one JSON object per check
    #[arg(long)]
    pub json: bool,
}

/// Looks at this host and says what it found. The exit code is 0 if nothing that agentnet needs is missing
/// or unknown, else 1.
///
/// # Errors
///
/// If the result cannot be written.
pub fn run(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let checks = features::probe();
    let text = if args.json { lines(&checks)? } else { table(&checks, rustix::process::geteuid().is_root()) };
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result.context("cannot write the result")?,
    }
    Ok(if checks.iter().any(Check::blocks) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn lines(checks: &[Check]) -> anyhow::Result<String> {
    let mut text = String::new();
    for check in checks {
        text.push_str(&serde_json::to_string(check).context("cannot write a check as JSON")?);
        text.push('\n');
    }
    Ok(text)
}

fn table(checks: &[Check], root: bool) -> String {
    let groups = [
        (Purpose::Enforcement, "Enforcement"),
        (Purpose::Run, "agentnet run"),
        (Purpose::Containers, "Containers, by the daemon"),
    ];
    let width = checks.iter().map(|check| check.title.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (purpose, heading) in groups {
        section(&mut text, heading, width, checks.iter().filter(|check| check.needed_for == purpose));
    }
    text.push_str(&conclusion(checks, root));
    text.push('\n');
    text
}

fn section<'a>(text: &mut String, heading: &str, width: usize, checks: impl Iterator<Item = &'a Check>) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", heading.bold());
    let mut said = None;
    for check in checks {
        let mark = mark(check);
        let optional = if check.required || check.state == State::Ok { "" } else { "optional: " };
        let _ = writeln!(text, "  {mark} {:width$}  {}{}", check.title, optional.dimmed(), check.detail);
        // One kernel option often mends a whole row of checks.
        if let Some(fix) = &check.fix
            && said.replace(fix) != Some(fix)
        {
            let _ = writeln!(text, "    {:width$}  → {fix}", "");
        }
    }
    text.push('\n');
}

fn mark(check: &Check) -> String {
    match check.state {
        State::Ok => "✓".green().to_string(),
        State::Missing if check.required => "✗".red().to_string(),
        State::Missing | State::Degraded => "!".yellow().to_string(),
        State::Unknown => "?".yellow().to_string(),
    }
}

/// One line: whether it works, or what to do first.
fn conclusion(checks: &[Check], root: bool) -> String {
    let mut blocking = checks.iter().filter(|check| check.blocks());
    let Some(first) =
        blocking.clone().find(|check| check.state != State::Unknown).or_else(|| blocking.next())
    else {
        return "agentnet can enforce on this host.".to_owned();
    };
    match &first.fix {
        Some(fix) => format!("agentnet cannot enforce on this host yet. First, for {}: {fix}.", first.title),
        None if root => {
            format!("It is not known whether agentnet can enforce here: {}: {}.", first.title, first.detail)
        }
        None => "Nothing is missing so far; the rest needs root: run `sudo agentnet doctor`.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        id: &'static str,
        needed_for: Purpose,
        state: State,
        required: bool,
        fix: Option<&str>,
    ) -> Check {
        Check { id, title: id, state, required, needed_for, detail: "seen".into(), fix: fix.map(Into::into) }
    }

    fn mixed() -> Vec<Check> {
        vec![
            check("cgroup2", Purpose::Enforcement, State::Ok, true, None),
            check("hook", Purpose::Enforcement, State::Unknown, true, None),
            check("sysctl", Purpose::Run, State::Degraded, false, Some("set it")),
            check("seccomp", Purpose::Run, State::Missing, true, Some("build it in")),
            check("landlock", Purpose::Run, State::Missing, false, Some("build it in")),
            check("tcx", Purpose::Containers, State::Missing, false, Some("wait")),
        ]
    }

    #[test]
    fn the_table_is_grouped_and_says_what_to_do() {
        let plain = anstream::adapter::strip_str(&table(&mixed(), true)).to_string();
        insta::assert_snapshot!(plain, @r"
        Enforcement
          ✓ cgroup2   seen
          ? hook      seen

        agentnet run
          ! sysctl    optional: seen
                      → set it
          ✗ seccomp   seen
                      → build it in
          ! landlock  optional: seen

        Containers, by the daemon
          ! tcx       optional: seen
                      → wait

        agentnet cannot enforce on this host yet. First, for seccomp: build it in.
        ");
    }

    #[test]
    fn the_conclusion_names_what_comes_first() {
        let mut checks = mixed();
        assert_eq!(
            conclusion(&checks, true),
            "agentnet cannot enforce on this host yet. First, for seccomp: build it in."
        );
        checks.retain(|check| check.id != "seccomp");
        assert!(conclusion(&checks, false).contains("sudo agentnet doctor"));
        assert!(conclusion(&checks, true).contains("hook: seen"));
        checks.retain(|check| check.id != "hook");
        assert_eq!(conclusion(&checks, true), "agentnet can enforce on this host.");
    }

    #[test]
    fn each_line_of_json_is_one_check() {
        let text = lines(&mixed()).expect("strings and codes only");
        let parsed: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        assert_eq!(parsed.len(), mixed().len());
        let expected = serde_json::json!({
            "id": "seccomp", "title": "seccomp", "state": "missing", "required": true, "needed_for": "run",
            "detail": "seen", "fix": "build it in"
        });
        assert_eq!(parsed[3], expected);
        assert!(parsed[0].get("fix").is_none(), "nothing to fix, nothing said");
    }
}
