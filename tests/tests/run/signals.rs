//! Signals and job control.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{Lab, agent::Agent, policy::Policy, pty::Terminal, residue::Residue},
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use rustix::process::{Signal, kill_process};

use crate::pid;

#[rstest]
#[case(Signal::TERM, "TERM")]
#[case(Signal::HUP, "HUP")]
#[case(Signal::USR1, "USR1")]
fn signals_reach_the_command(#[case] signal: Signal, #[case] name: &str) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let script = format!("trap 'echo got; exit 3' {name}; echo up; while :; do sleep 0.02; done");
    let mut command = agent.command()?;
    let output = agent.policy_file().with_file_name("output");
    command.args(["sh", "-c", &script]).stdin(Stdio::null()).stdout(fs::File::create(&output)?);
    let mut child = command.spawn()?;
    let read = || fs::read_to_string(&output).unwrap_or_default();
    eventually(DEADLINE, "the command is up", || if read() == "up\n" { Ok(()) } else { Err(read()) })?;
    kill_process(pid(&child)?, signal)?;
    let status =
        eventually(DEADLINE, "the command ends", || child.try_wait().ok().flatten().ok_or_else(read))?;
    ensure!(read() == "up\ngot\n" && status.code() == Some(3), "{status:?} {:?}", read());
    Residue::named(&agent.name).ensure_gone()
}

/// The command is told of keys by its terminal, can be stopped and goes on.
#[test]
fn job_control_works_on_a_terminal() -> Result<()> {
    let bash = Path::new("/bin/bash");
    if !bash.exists() {
        skip!("job_control_works_on_a_terminal", "{} is not installed", bash.display());
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    // In a file, so that the shell's own messages about the job do not hold the words waited for.
    let script = agent.policy_file().with_file_name("script.sh");
    let lines = [
        "trap 'echo caught; exit 3' INT",
        "trap 'echo resumed' CONT",
        "test -t 0 && echo on a terminal",
        // One child for the whole test: a shell that starts one by vfork cannot stop while its child is stopped
        // before exec.
        "sleep 60 & while :; do wait; done",
    ];
    fs::write(&script, lines.join("\n"))?;
    let mut run = agent.command()?;
    run.arg("sh").arg(&script);
    let words = std::iter::once(run.get_program()).chain(run.get_args());
    let line: Vec<_> = words.map(|word| format!("'{}'", word.display())).collect();
    let mut shell = Command::new(bash);
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "ready$ ");
    lab.agent.attach(&mut shell);
    let mut terminal = Terminal::start(shell)?;
    terminal.expect("ready$ ", 1)?;
    terminal.type_keys(&format!("{}\n", line.join(" ")))?;
    terminal.expect("on a terminal", 1)?;
    terminal.type_keys("\x1a")?;
    terminal.expect("Stopped", 1)?;
    terminal.type_keys("fg\n")?;
    terminal.expect("resumed", 1)?;
    terminal.type_keys("\x03")?;
    terminal.expect("caught", 1)?;
    terminal.type_keys("echo ended-$?\n")?;
    terminal.expect("ended-3", 1)?;
    terminal.type_keys("exit\n")?;
    Residue::named(&agent.name).ensure_gone()
}
