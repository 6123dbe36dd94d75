//! Users without root: agentnet borrows it by sudo or doas for its engine alone, and gives it back where the
//! user has borrowed it for the whole of agentnet.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use agentnet_tests::{
    lab::{
        Lab,
        account::{self, Account, CALLER, Lender, OTHER_GROUP, UID, installed},
        agent::Agent,
        child::{Finished, agentnet_binary, finish, probe_binary, wait},
        expect::{EPERM, Expected, Said},
        net::Family,
        policy::Policy,
        pty::Terminal,
        residue::Residue,
        server::Transport,
    },
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;

use crate::{AGENTNET_FAILED, ensure_nothing_happened, witness, witness_file};

/// What the command says of itself: built into the shell where it can be, since `PATH` has nothing.
const WHO: &str = "/usr/bin/id -u; /usr/bin/id -g; /usr/bin/id -G; \
                   printf '%s\\n' \"$HOME\" \"$USER\" \"$PWD\" \"$LAB_VARIABLE\" \"${SUDO_UID-}${DOAS_USER-}.\"; exit 5";

/// Where the lender is; without one the test is skipped by name.
fn lender(test: &str, lender: Lender) -> Option<PathBuf> {
    let path = installed(lender);
    if path.is_none() {
        skip!(format_args!("{test} ({lender})"), "{lender} is not installed: `cargo xtask test` installs it");
    }
    path
}

/// Rules of both that let the user start agentnet's engine as root, without a password.
fn account(lender: &Path) -> Result<Account> {
    let agentnet = agentnet_binary()?;
    let (name, agentnet) = (account::NAME, agentnet.display());
    let sudoers = format!("{name} ALL=(root) NOPASSWD: {agentnet}\n");
    Account::new(Some(lender), &sudoers, &format!("permit nopass {name} as root cmd {agentnet}\n"))
}

fn by_user(agent: &Agent<'_>, account: &Account) -> Result<Command> {
    agent.give_to(UID)?;
    let mut command = agent.command()?;
    account.starts(&mut command)?;
    Ok(command)
}

/// Nothing of the user's is lost on the way through sudo or doas, because only the engine goes through it.
#[rstest]
#[case(Lender::Sudo)]
#[case(Lender::Doas)]
fn a_user_keeps_everything(#[case] by: Lender) -> Result<()> {
    let Some(path) = lender("a_user_keeps_everything", by) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let account = account(&path)?;
    let mut command = by_user(&agent, &account)?;
    command.env("LAB_VARIABLE", "a b\tc").current_dir("/usr/bin").args(["/bin/sh", "-c", WHO]);
    let finished = finish(command, None)?;
    let expected = format!(
        "{UID}\n{UID}\n{UID} {OTHER_GROUP}\n{}\n{}\n/usr/bin\na b\tc\n.\n",
        account.home().display(),
        account::NAME
    );
    ensure!(finished.stdout == expected && finished.status.code() == Some(5), "{expected:?}: {finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
#[case(Lender::Sudo)]
#[case(Lender::Doas)]
fn a_users_agent_is_governed(#[case] by: Lender) -> Result<()> {
    let Some(path) = lender("a_users_agent_is_governed", by) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let account = account(&path)?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], Family::V4.denied_endpoint(), EPERM)
        .cases(&["tcp-connect", "udp-sendto"], Family::V6.denied_endpoint(), EPERM)
        .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    let mut command = by_user(&agent, &account)?;
    command.arg(probe_binary()?).arg("suite").arg(agent.suite(table.requests())?);
    let finished = finish(command, None)?;
    table.check(&finished.reports()?)?;
    for family in Family::ALL {
        lab.ensure_nothing_reached(family.denied())?;
    }
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

/// sudo may give the engine a terminal of its own; the command has the user's.
#[rstest]
#[case(Lender::Sudo)]
#[case(Lender::Doas)]
fn a_users_command_has_the_users_terminal(#[case] by: Lender) -> Result<()> {
    let Some(path) = lender("a_users_command_has_the_users_terminal", by) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let account = account(&path)?;
    let mut command = by_user(&agent, &account)?;
    let script =
        "test -t 0 && test -t 1 && test -t 2 && echo on three; read line </dev/tty; echo read-$line; exit 6";
    command.args(["/bin/sh", "-c", script]);
    let mut terminal = Terminal::start(command)?;
    terminal.expect("on three", 1)?;
    terminal.type_keys("typed\n")?;
    terminal.expect("read-typed", 1)?;
    let status = wait(&mut terminal.child)?;
    ensure!(status.code() == Some(6), "{status:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
#[case(Lender::Sudo)]
#[case(Lender::Doas)]
fn a_user_who_may_not_is_told_and_nothing_is_changed(#[case] by: Lender) -> Result<()> {
    let Some(path) = lender("a_user_who_may_not_is_told_and_nothing_is_changed", by) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let stranger = Account::new(Some(&path), "root ALL=(ALL) ALL\n", "permit nopass root\n")?;
    let attempt = |account: &Account| -> Result<Finished> {
        let mut command = by_user(&agent, account)?;
        command.args(["/usr/bin/touch", &witness(&agent)[1]]);
        finish(command, None)
    };
    let finished = attempt(&stranger)?;
    ensure!(finished.status.code() == Some(AGENTNET_FAILED), "{finished:?}");
    let said = format!(
        "agentnet: {} did not start agentnet's engine (exit status: 1), so nothing was changed and the command was not \
         run; use an account that may become root, or run agentnet as root\n",
        stranger.path_entry().join(by.to_string()).display()
    );
    ensure!(finished.stderr.ends_with(&said), "{finished:?}");
    ensure_nothing_happened(&agent)?;
    let finished = attempt(&account(&path)?)?;
    ensure!(finished.status.success() && witness_file(&agent).exists(), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// `sudo agentnet run` and `doas agentnet run`: the command is the user's, and what of the environment was lost is
/// said.
#[rstest]
#[case(Lender::Sudo)]
#[case(Lender::Doas)]
fn a_run_with_borrowed_root_is_the_users(#[case] by: Lender) -> Result<()> {
    let Some(path) = lender("a_run_with_borrowed_root_is_the_users", by) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let account = account(&path)?;
    let mut command = through(&lab, &path, &agent, &account)?;
    command.env("LAB_VARIABLE", "dropped").current_dir("/usr/bin").args(["/bin/sh", "-c", WHO]);
    let finished = finish(command, None)?;
    let expected = format!(
        "{UID}\n{UID}\n{UID} {OTHER_GROUP}\n{}\n{}\n/usr/bin\n\n.\n",
        account.home().display(),
        account::NAME
    );
    ensure!(finished.stdout == expected && finished.status.code() == Some(5), "{expected:?}: {finished:?}");
    let home = account.home();
    for said in [
        format!("agentnet: HOME is {} again, as without {by}\n", home.display()),
        format!(
            "agentnet: PATH is {by}'s and has nothing below {}, and {by} may have dropped",
            home.display()
        ),
        format!("`agentnet run` without {by} keeps them all\n"),
    ] {
        ensure!(finished.stderr.contains(&said), "{said:?} is not in {finished:?}");
    }
    Residue::named(&agent.name).ensure_gone()
}

/// doas with `keepenv` passes on what its caller calls `SUDO_UID`: it does not make the command root's.
#[test]
fn a_lie_about_who_called_starts_nothing() -> Result<()> {
    let Some(path) = lender("a_lie_about_who_called_starts_nothing", Lender::Doas) else { return Ok(()) };
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let rule = format!("permit nopass keepenv {} as root\n", account::NAME);
    let account = Account::new(Some(&path), "", &rule)?;
    let attempt = |lie: bool| -> Result<Finished> {
        let mut command = through(&lab, &path, &agent, &account)?;
        if lie {
            command.env("SUDO_UID", "0");
        }
        command.args(["/bin/sh", "-c", "/usr/bin/id -u"]);
        finish(command, None)
    };
    let finished = attempt(true)?;
    let said = format!(
        "agentnet: SUDO_UID says that user 0 started agentnet and DOAS_USER says user {UID}; unset the one that is not \
         true\n"
    );
    crate::ensure_refused(&finished, AGENTNET_FAILED, &said)?;
    ensure_nothing_happened(&agent)?;
    let finished = attempt(false)?;
    ensure!(finished.stdout == format!("{UID}\n"), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// The whole of `agentnet run` by sudo or doas.
fn through(lab: &Lab, lender: &Path, agent: &Agent<'_>, account: &Account) -> Result<Command> {
    let run = agent.command()?;
    let mut command = Command::new(lender);
    command.arg("--").arg(run.get_program()).args(run.get_args());
    lab.agent.attach(&mut command);
    for variable in CALLER {
        command.env_remove(variable);
    }
    account.starts(&mut command)?;
    Ok(command)
}
