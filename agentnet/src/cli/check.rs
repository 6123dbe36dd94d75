//! `agentnet daemon --check`: what the daemon would find, without a daemon.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use agentnet_common::abi::MODE_AUDIT;
use anyhow::Context as _;

use crate::{
    agent::resolv,
    alert::text::{MAX_SENTENCE, clean, plural},
    config::check::{Check, Selected},
    exit::WRONG_USAGE,
    policy::{Policy, diagnostic::Diagnostics},
};

/// Checks the configuration at `config`, or at the usual place, and every policy in the directory it names.
/// The exit code is 2 if something is wrong with one of them.
///
/// # Errors
/// If the addresses of this host cannot be listed or the result not be written.
pub fn run(config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (host, _) = resolv::this_host().context("cannot list the addresses of this host")?;
    let check = Check::new(config, &host);
    let told = tell(&check, &mut anstream::stdout().lock(), &mut anstream::stderr().lock());
    match told {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        told => told.context("cannot write the result")?,
    }
    Ok(if check.is_valid() { ExitCode::SUCCESS } else { ExitCode::from(WRONG_USAGE) })
}

fn tell(check: &Check, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
    let config = match &check.config {
        Ok(config) => config,
        Err(problems) => return show(problems, err),
    };
    writeln!(out, "configuration: valid")?;
    for group in &check.missing_groups {
        writeln!(
            err,
            "agentnet: there is no group {group} on this host, so only root has its rights; make it with \
             `groupadd --system {group}`"
        )?;
    }
    for problem in check.secrets.wrong.iter().chain(&check.secrets.notes) {
        writeln!(err, "agentnet: secrets of this host: {problem}")?;
    }
    if let Some(secrets) = &check.secrets.secrets {
        let number = u64::try_from(secrets.len()).unwrap_or(u64::MAX);
        writeln!(out, "secrets of this host: {} that no agent may send", plural(number, "value"))?;
    }
    if let Some((directory, error)) = &check.unreadable {
        return writeln!(err, "agentnet: cannot read the policies in {}: {error}", directory.display());
    }
    if check.policies.is_empty() {
        writeln!(out, "policies: none in {}, only those built in", config.policies.display())?;
    }
    for (index, (file, policy)) in check.policies.iter().enumerate() {
        match policy {
            Ok(policy) => {
                show(&policy.warnings, err)?;
                writeln!(out, "{}: {}", file.display(), summary(policy))?;
                selects(policy, &check.selected.iter().filter(|found| found.policy == index), out)?;
            }
            Err(problems) => show(problems, err)?,
        }
    }
    Ok(())
}

fn summary(policy: &Policy) -> String {
    let rules = plural(u64::try_from(policy.compiled.rules.len()).unwrap_or(u64::MAX), "rule");
    let mode = if policy.compiled.mode == MODE_AUDIT { "audits only" } else { "enforces" };
    format!("valid, {rules}, {mode}")
}

/// What a policy would take of what is there now.
fn selects<'a>(
    policy: &Policy,
    found: &(impl Iterator<Item = &'a Selected> + Clone),
    out: &mut impl Write,
) -> io::Result<()> {
    for agents in &policy.compiled.agents {
        let selector = agents.selector.to_string();
        if agents.selector.is_of_containers() {
            writeln!(out, "  selects {selector}: containers, which the daemon asks their runtimes for")?;
            continue;
        }
        let mut meant = found.clone().filter(|found| found.selector == selector).peekable();
        if meant.peek().is_none() {
            writeln!(out, "  selects {selector}: nothing that is there now")?;
        }
        for Selected { cgroup, late, .. } in meant {
            let late = if *late { ", where something ran before" } else { "" };
            writeln!(
                out,
                "  selects {selector}: {}{late}",
                clean(&cgroup.display().to_string(), MAX_SENTENCE)
            )?;
        }
    }
    Ok(())
}

fn show(problems: &Diagnostics, err: &mut impl Write) -> io::Result<()> {
    if problems.is_empty() { Ok(()) } else { writeln!(err, "{}\n", problems.render(true)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::policy::host::Host;

    fn told(files: &[(&str, &str)], config: &str) -> (bool, String, String) {
        let home = tempfile::tempdir().unwrap();
        let policies = home.path().join("policies");
        fs::create_dir(&policies).unwrap();
        for (name, text) in files {
            fs::write(policies.join(name), text).unwrap();
        }
        let file = home.path().join("config.toml");
        let place = home.path().to_str().unwrap();
        fs::write(&file, config.replace("HOME", place)).unwrap();
        let check = Check::new(Some(&file), &Host::default());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        tell(&check, &mut out, &mut err).unwrap();
        let plain = |bytes: &[u8]| {
            let text = String::from_utf8(anstream::adapter::strip_bytes(bytes).into_vec()).unwrap();
            text.replace(place, "HOME")
        };
        (check.is_valid(), plain(&out), plain(&err))
    }

    const CONFIG: &str = "[control]\nread_group = \"root\"\nrun_group = \"no-such-group\"\n[policies]\ndirectory = \"HOME/policies\"\n";
    const GOOD: &str =
        "version = 1\nname = \"good\"\n[[egress.allow]]\ncidr = \"10.0.0.0/8\"\nports = [443]\n";

    #[test]
    fn every_policy_is_told() {
        let files =
            [("good.toml", GOOD), ("bad.toml", "version = 2\n"), (".#good.toml", "?"), ("note.txt", "?")];
        let (valid, out, err) = told(&files, CONFIG);
        assert!(!valid);
        insta::assert_snapshot!("check_out", out);
        insta::assert_snapshot!("check_err", err);
        assert!(told(&files[..1], CONFIG).0, "a good policy alone");
        let (valid, out, _) = told(&[], CONFIG);
        assert!(valid && out.contains("policies: none in HOME/policies"), "{out}");
    }

    #[test]
    fn a_wrong_configuration_is_the_end_of_it() {
        let (valid, out, err) = told(&[("good.toml", GOOD)], "[policies]\ndirectory = \"policies\"\n");
        assert!(!valid && out.is_empty() && err.contains("no absolute path"), "{out}{err}");
        let (valid, _, err) = told(&[], "[policies]\ndirectory = \"HOME/config.toml\"\n");
        assert!(!valid && err.contains("cannot read the policies"), "{err}");
    }

    #[test]
    fn what_is_selected_is_told() {
        let text = "version = 1\nname = \"a\"\n[[agents]]\nunit = \"agent-*.service\"\n[[agents]]\ncgroup = \"/none/*\"\n\
                    [[agents]]\ncontainer = \"bot-*\"\n";
        let policy = Policy::from_text("a.toml", text, &[]).unwrap();
        let found = |cgroup: &str, late| Selected {
            policy: 0,
            selector: policy.compiled.agents[0].selector.to_string(),
            cgroup: cgroup.into(),
            late,
        };
        let found = [
            found("/sys/fs/cgroup/a.slice/agent-1.service", true),
            found("/sys/fs/cgroup/agent-2.service", false),
        ];
        let mut out = Vec::new();
        selects(&policy, &found.iter(), &mut out).unwrap();
        insta::assert_snapshot!("selects", String::from_utf8(out).unwrap());
    }
}
