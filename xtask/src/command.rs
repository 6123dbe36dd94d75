//! Running other programs: shown live, or quietly with the tail of their output where they fail.

use std::{
    collections::VecDeque,
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::progress::seconds;

/// Lines of a failed program's output that are shown.
const TAIL_LINES: usize = 40;
/// How often a quiet program is reported to be still running where standard error is not a terminal.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The command as one could type it, environment left out.
pub(crate) fn display(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let words: Vec<String> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect();
    words.join(" ")
}

/// Runs the command on our own standard streams.
pub(crate) fn live(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", display(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

/// Runs the command without input and returns its standard output; its standard error is part of the error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", display(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", display(command)))
}

/// Whether the command starts and succeeds; what it prints is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a long and talkative command: its last line and the elapsed time are shown while it runs, the tail
/// of its output where it fails.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let (lines, received) = mpsc::channel();
    let error_lines = lines.clone();
    let readers = [
        child.stdout.take().map(|stream| read_lines(stream, move |line| lines.send(line).is_ok())),
        child.stderr.take().map(|stream| read_lines(stream, move |line| error_lines.send(line).is_ok())),
    ];

    let terminal = std::io::stderr().is_terminal();
    let mut tail = VecDeque::with_capacity(TAIL_LINES);
    let mut last = String::new();
    let mut reported = Instant::now();
    let interval = if terminal { Duration::from_millis(500) } else { HEARTBEAT };
    loop {
        match received.recv_timeout(interval) {
            Ok(line) => {
                if tail.len() == TAIL_LINES {
                    tail.pop_front();
                }
                last.clone_from(&line);
                tail.push_back(line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if reported.elapsed() >= interval {
            reported = Instant::now();
            show_progress(terminal, began.elapsed(), &last);
        }
    }
    for reader in readers.into_iter().flatten() {
        // A reader can only end: it panics nowhere.
        drop(reader.join());
    }
    if terminal {
        eprint!("\r\x1b[K");
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{}`", display(command)))?;
    if !status.success() {
        for line in &tail {
            eprintln!("    | {line}");
        }
        bail!("`{}` failed: {status}", display(command));
    }
    Ok(())
}

fn show_progress(terminal: bool, elapsed: Duration, last: &str) {
    let line: String = last.chars().filter(|c| !c.is_control()).take(60).collect();
    if terminal {
        eprint!("\r\x1b[K    … {} {line}", seconds(elapsed));
        drop(std::io::stderr().flush());
    } else {
        eprintln!("    … {} {line}", seconds(elapsed));
    }
}

/// Hands over the stream's lines, without their ends, until it closes or `take` returns false. Bytes that are no
/// UTF-8 are replaced.
pub(crate) fn read_lines(
    stream: impl Read + Send + 'static,
    mut take: impl FnMut(String) -> bool + Send + 'static,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            if !take(text.trim_end_matches(['\n', '\r']).to_owned()) {
                return;
            }
            line.clear();
        }
    })
}

/// Kills a child of ours and everything below it, as root where we are not: it may have run sudo.
pub(crate) fn kill_tree(child: u32) -> Result<()> {
    let mut doomed = vec![child];
    let parents = parents()?;
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let pids = doomed.iter().map(u32::to_string);
    // The shell's own `kill`: a small system has no other. A process that ended meanwhile is no failure.
    succeeds(as_root("sh")?.args(["-c", "kill -KILL \"$@\"", "sh"]).args(pids));
    Ok(())
}

/// Every process with its parent.
fn parents() -> Result<Vec<(u32, u32)>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry.context("cannot read /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone since: not ours to kill any more.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (comm) state ppid`, and the comm may hold anything.
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        parents.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(parents)
}

/// The program of that name in `PATH`.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| is_executable(path))
}

/// Whether the file exists and may be executed by somebody.
pub(crate) fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// Whether we have an effective user id of 0.
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the effective user (proc(5)); no system call of its own is needed.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A command that runs `program` as root with our environment: directly, or through sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    let sudo = sudo()?;
    let mut command = Command::new(sudo);
    command.arg("-E").arg("--").arg(program);
    Ok(command)
}

/// The path of sudo, with the password asked for now: a prompt must not hide in captured output.
pub(crate) fn sudo() -> Result<PathBuf> {
    let Some(sudo) = which("sudo") else {
        bail!("this step needs root and there is no sudo: run the same command as root");
    };
    live(Command::new(&sudo).arg("-v")).context("this step needs root")?;
    Ok(sudo)
}

/// Takes out of `command`'s environment what `cargo run` added to ours, so that the program sees the
/// environment of the person who called.
pub(crate) fn without_cargo_run(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if added_by_cargo_run(&name) {
            command.env_remove(name);
        }
    }
    if let Some(path) = env::var_os("LD_LIBRARY_PATH") {
        // cargo puts its own directories first: the target directory's and the compiler's.
        let ours = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf()));
        let kept: Vec<PathBuf> = env::split_paths(&path)
            .filter(|dir| !ours.as_ref().is_some_and(|ours| dir.starts_with(ours)))
            .filter(|dir| !dir.iter().any(|part| part == "rustlib") && !dir.join("rustlib").is_dir())
            .collect();
        match env::join_paths(&kept) {
            Ok(rest) if !kept.is_empty() => command.env("LD_LIBRARY_PATH", rest),
            _ => command.env_remove("LD_LIBRARY_PATH"),
        };
    }
    command
}

fn added_by_cargo_run(name: &OsStr) -> bool {
    const EXACT: &[&str] = &[
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        // Set by rustup's proxies; kept, it would override the toolchain file of another project.
        "RUSTUP_TOOLCHAIN",
        "RUSTUP_TOOLCHAIN_SOURCE",
        "RUST_RECURSION_COUNT",
    ];
    name.to_str().is_some_and(|name| EXACT.contains(&name) || name.starts_with("CARGO_PKG_"))
}

/// Takes everything out of `command`'s environment that would change what a compiler does, apart from where
/// cargo finds its registry.
pub(crate) fn without_rust_settings(command: &mut Command) -> &mut Command {
    const KEPT: &[&str] =
        &["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_", "CARGO_TERM_"];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let setting = text.starts_with("CARGO") || text.starts_with("RUSTC") || text.starts_with("RUSTDOC");
        let named =
            matches!(text, "RUSTFLAGS" | "RUSTUP_TOOLCHAIN" | "RUST_RECURSION_COUNT" | "LD_LIBRARY_PATH");
        if named || (setting && !KEPT.iter().any(|kept| text.starts_with(kept))) {
            command.env_remove(&name);
        }
    }
    command
}

/// `PATH` with a directory before all others.
pub(crate) fn path_with(first: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(first.to_path_buf()).chain(env::split_paths(&rest)))
        .with_context(|| format!("{} cannot be part of PATH", first.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo it's", ""]);
        assert_eq!(display(&command), r"sh -c 'echo it'\''s' ''");
    }

    #[test]
    fn a_quiet_failure_names_the_command() {
        let error = quiet(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = live(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(error.to_string().contains("cannot start `/nonexistent/program`"), "{error}");
    }

    #[test]
    fn lines_are_read_to_the_last_one_without_an_end() {
        let (sender, received) = mpsc::channel();
        read_lines(&b"one\r\ntwo\n\nlast"[..], move |line| sender.send(line).is_ok()).join().unwrap();
        assert_eq!(received.iter().collect::<Vec<_>>(), ["one", "two", "", "last"]);
    }

    #[test]
    fn a_tree_is_killed_to_its_leaves() {
        if !is_root() {
            eprintln!("SKIP a_tree_is_killed_to_its_leaves: needs root, or would ask for sudo's password");
            return;
        }
        let mut child = Command::new("sh")
            .args(["-c", "sh -c 'sleep 1000 & echo started; wait'; :"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, received) = mpsc::channel();
        let reader = read_lines(child.stdout.take().unwrap(), move |line| sender.send(line).is_ok());
        assert_eq!(received.recv_timeout(Duration::from_secs(30)).unwrap(), "started");
        kill_tree(child.id()).unwrap();
        assert!(!child.wait().unwrap().success());
        // The leaf holds the pipe as well: it closes when the last of them is gone.
        reader.join().unwrap();
    }

    #[test]
    fn only_what_cargo_adds_is_taken_away() {
        for name in ["CARGO", "CARGO_PKG_NAME", "RUSTUP_TOOLCHAIN"] {
            assert!(added_by_cargo_run(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "PATH", "RUSTFLAGS"] {
            assert!(!added_by_cargo_run(OsStr::new(name)), "{name}");
        }
    }
}
