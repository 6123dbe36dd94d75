//! Wrong input: one clear sentence, and nothing changed. Each with what runs in the same second.

use std::{
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    child::{Finished, become_user, finish},
    expect::{EPERM, Expected},
    net::Family,
    policy::Policy,
    residue::{Residue, links_above},
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

use crate::{AGENTNET_FAILED, ensure_nothing_happened, ensure_refused, witness, witness_file};

const WRONG_USAGE: i32 = 2;

#[test]
fn a_command_that_is_missing_or_not_executable_is_told_as_shells_do() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let missing = agent.run(&["no-such-command-anywhere"])?;
    ensure_refused(&missing, 127, "agentnet: no-such-command-anywhere: command not found\n")?;
    ensure!(Residue::named(&agent.name).left()?.is_empty());
    let policy = agent.policy_file();
    let text = policy.to_str().context("path")?;
    let unfit = agent.run(&[text])?;
    let said = format!("agentnet: {text}: cannot execute: Permission denied (os error 13)\n");
    ensure!(unfit.status.code() == Some(126) && unfit.stderr.ends_with(&said), "{unfit:?}");
    Residue::named(&agent.name).ensure_gone()?;
    ensure!(agent.run(&["true"])?.status.success(), "the twin does not run");
    Residue::named(&agent.name).ensure_gone()
}

/// Every mistake at once, each where it is.
#[test]
fn a_broken_policy_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let text = "version = 1\nname = \"broken\"\nmoed = \"enforce\"\n\n[[egress.allow]]\ncidr = \"10.0.0.0/99\"\nports = [1]\n";
    let agent = Agent::with_text(&lab, text)?;
    let finished = agent.run(&witness(&agent))?;
    ensure!(finished.status.code() == Some(WRONG_USAGE), "{finished:?}");
    for part in ["policy.toml:3:", "moed", "policy.toml:6:", "10.0.0.0/99"] {
        ensure!(finished.stderr.contains(part), "no {part:?}: {finished:?}");
    }
    ensure_nothing_happened(&agent)?;
    fs::write(agent.policy_file(), text.replace("moed", "mode").replace("/99", "/9"))?;
    ensure!(agent.run(&witness(&agent))?.status.success(), "mended it does not run");
    ensure!(witness_file(&agent).exists());
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn a_policy_that_nobody_has_is_said_to_be_none() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = finish(with_policy(&agent, OsStr::new("no-such-policy"))?, None)?;
    ensure!(finished.status.code() == Some(WRONG_USAGE), "{finished:?}");
    let said = "there is no policy `no-such-policy` in /etc/agentnet/policies or built in";
    ensure!(finished.stderr.contains(said) && finished.stderr.contains("built in are "), "{finished:?}");
    ensure_nothing_happened(&agent)?;
    ensure!(finish(with_policy(&agent, agent.policy_file().as_os_str())?, None)?.status.success());
    Residue::named(&agent.name).ensure_gone()
}

/// A policy is read with the rights of the user who names it.
#[rstest]
#[case("secret.toml", "Permission denied")]
#[case("missing.toml", "No such file or directory")]
#[case("directory.toml", "Is a directory")]
fn a_policy_that_cannot_be_read_is_named(#[case] file: &str, #[case] why: &str) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let secret = agent.policy_file().with_file_name("secret.toml");
    fs::copy(agent.policy_file(), &secret)?;
    fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
    fs::create_dir(agent.policy_file().with_file_name("directory.toml"))?;
    let path = agent.policy_file().with_file_name(file);
    let mut command = with_policy(&agent, path.as_os_str())?;
    become_user(&mut command, Some(NOBODY));
    let finished = finish(command, None)?;
    ensure!(finished.status.code() == Some(WRONG_USAGE), "{finished:?}");
    let path = path.display().to_string();
    ensure!(finished.stderr.contains(&path) && finished.stderr.contains(why), "{finished:?}");
    ensure!(!finished.stderr.contains("panicked"), "{finished:?}");
    ensure_nothing_happened(&agent)?;
    // Root may read it.
    let finished = finish(with_policy(&agent, secret.as_os_str())?, None)?;
    ensure!(finished.status.success(), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
#[case("Upper")]
#[case("../../etc")]
#[case("a b")]
#[case("")]
fn a_name_that_names_no_agent_is_refused(#[case] name: &str) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut command = agent.command_with(agent.policy_file().as_os_str(), name)?;
    command.arg("--").args(witness(&agent));
    let finished = finish(command, None)?;
    ensure!(finished.status.code() == Some(WRONG_USAGE), "{finished:?}");
    let said = "cannot name an agent: use 1 to 63 lower-case letters, digits and dashes";
    ensure!(name.is_empty() || finished.stderr.contains(&format!("`{name}`")), "{finished:?}");
    ensure!(finished.stderr.contains("--agent <NAME>") && squeezed(&finished).contains(said), "{finished:?}");
    ensure_nothing_happened(&agent)
}

#[test]
fn a_name_in_use_is_refused_and_its_owner_undisturbed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let second = agent.run(&witness(&agent))?;
    let name = &agent.name;
    let said =
        format!("agentnet: an agent called `{name}` is running already; choose another name with --agent\n");
    ensure_refused(&second, AGENTNET_FAILED, &said)?;
    ensure!(!witness_file(&agent).exists(), "the command ran");
    running.expect(&Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM))?;
    ensure!(links_above(&running.cgroup)?.len() == residue.links().len(), "the owner lost links");
    running.finish()?;
    residue.ensure_gone()?;
    ensure!(agent.run(&["true"])?.status.success(), "the name is not free again");
    Residue::named(&agent.name).ensure_gone()
}

fn with_policy(agent: &Agent<'_>, policy: &OsStr) -> Result<Command> {
    let mut command = agent.command_with(policy, &agent.name)?;
    command.arg("--").args(witness(agent));
    Ok(command)
}

/// What was said on one line, wherever it was wrapped.
fn squeezed(finished: &Finished) -> String {
    finished.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}
