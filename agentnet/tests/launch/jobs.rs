//! Job control as a shell's user sees it.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{Terminal, kill, state, trial, until};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("job::ctrl_c_reaches_the_command_once", ctrl_c),
        trial("job::ctrl_z_and_fg", ctrl_z_and_fg),
        trial("job::bg_and_kill", bg_and_kill),
        trial("job::a_full_screen_command_cleans_up_before_it_stops", stop_after_clean_up),
        trial("job::a_shell_gets_the_terminal_back", nested_shell),
    ]
}

/// The launcher's command line in the shell of [`Terminal::shell`].
const RUN: &str = "$L --helper run --";

fn ctrl_c() -> Result<()> {
    let mut tty = Terminal::shell()?;
    let wait = "until read x && [ \"$x\" = stop ]; do :; done";
    tty.send(&format!(
        "{RUN} sh -c 'trap \"echo caught\" INT; echo sta''rted; {wait}; echo e''nd; exit 4'; echo code=$?\n"
    ))?;
    tty.expect("started\r\n")?;
    tty.send("\x03")?;
    tty.expect("^C")?;
    // A shell that was not reading yet runs its trap when it has read something.
    tty.send("\n")?;
    tty.expect("caught\r\n")?;
    tty.send("stop\n")?;
    let before = tty.expect("end\r\n")?;
    ensure!(!before.contains("caught"), "{before:?}");
    tty.expect("code=4")?;

    // Only the terminal's own signal arrives, not a copy by the launcher. One after the other: each makes the terminal
    // forget what was not shown yet.
    tty.send(&format!("{RUN} $L --helper listen\n"))?;
    tty.expect("ready\r\n")?;
    tty.send("\x03")?;
    tty.expect("2 from the kernel\r\n")?;
    tty.send("\x1c")?;
    tty.expect("3 from the kernel\r\n")?;
    let launcher = tty.launcher()?;
    kill(launcher, libc::SIGTERM)?;
    let before = tty.expect("15 from the launcher\r\n")?;
    ensure!(!before.contains("launcher"), "{before:?}");

    // The default: the command dies of it and so the launcher says.
    tty.send(&format!("{RUN} sh -c 'echo sta''rted; exec sleep 60'; echo code=$?\n"))?;
    tty.expect("started\r\n")?;
    tty.send("\x03")?;
    tty.expect("code=130")?;
    Ok(())
}

fn ctrl_z_and_fg() -> Result<()> {
    let mut tty = Terminal::shell()?;
    tty.send(&format!("{RUN} sh -c 'echo pid=$$; read x; echo got:$x'\n"))?;
    tty.expect("\r\n")?;
    let pid = tty.number_after("pid=")?;
    for _ in 0..3 {
        tty.send("\x1a")?;
        tty.expect("Stopped")?;
        ensure!(state(pid) == Some('T'));
        tty.send("fg\n")?;
        until("the command runs again", || state(pid) == Some('S'))?;
    }
    tty.send("hello\n")?;
    tty.expect("got:hello")?;
    tty.send("echo code=$?\n")?;
    tty.expect("code=0")?;
    Ok(())
}

fn bg_and_kill() -> Result<()> {
    let mut tty = Terminal::shell()?;
    tty.send(&format!("{RUN} sh -c 'echo pid=$$; exec sleep 60'\n"))?;
    tty.expect("\r\n")?;
    let pid = tty.number_after("pid=")?;
    tty.send("\x1a")?;
    tty.expect("Stopped")?;
    tty.send("bg\n")?;
    until("the command runs in the background", || state(pid) == Some('S'))?;
    tty.send("kill %1; wait %1; echo code=$?\n")?;
    tty.expect("code=143")?;
    until("the command is gone", || state(pid).is_none())?;
    Ok(())
}

/// An editor puts the terminal in order on Ctrl-Z and stops itself then; the shell must not come in between.
fn stop_after_clean_up() -> Result<()> {
    let mut tty = Terminal::shell()?;
    tty.send(&format!(
        "{RUN} sh -c 'trap \"sleep 0.3; echo clean; kill -STOP \\$\\$; echo back\" TSTP; echo sta''rted; read x; read x; echo e''nd'\n"
    ))?;
    tty.expect("started\r\n")?;
    tty.send("\x1a")?;
    let before = tty.expect("clean\r\n")?;
    ensure!(!before.contains("Stopped"), "{before:?}");
    tty.expect("Stopped")?;
    tty.send("fg\n")?;
    tty.expect("back\r\n")?;
    tty.send("a\nb\n")?;
    tty.expect("end\r\n")?;
    Ok(())
}

/// A shell as the command makes a process group of its own and owns the terminal.
fn nested_shell() -> Result<()> {
    let mut tty = Terminal::shell()?;
    tty.send(&format!("{RUN} env PS1='inner ' sh -im\n"))?;
    tty.expect("\r\n")?;
    tty.expect("inner ")?;
    tty.send("echo pid=$$\n")?;
    tty.expect("\r\n")?;
    let pid = tty.number_after("pid=")?;
    tty.expect("inner ")?;
    kill(pid, libc::SIGSTOP)?;
    tty.expect("Stopped")?;
    tty.send("fg\n")?;
    until("the inner shell runs again", || state(pid) == Some('S'))?;
    tty.send("echo still=$((6*7))\n")?;
    tty.expect("still=42")?;
    tty.expect("inner ")?;
    tty.send("exit 6\n")?;
    tty.send("echo code=$?\n")?;
    tty.expect("code=6")?;
    Ok(())
}
