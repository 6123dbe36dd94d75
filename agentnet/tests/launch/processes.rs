//! An invisible parent: exit codes, streams, signals, descriptors.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    NOBODY, code, finish, for_both_users, helper, inherit, kill, launch, needs_root, output, state, stdout,
    trial, until,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = [
        for_both_users("exit_codes", exit_codes),
        for_both_users("streams_and_environment_pass", streams_and_environment_pass),
        for_both_users("signals_of_processes_are_passed_on", signals_are_passed_on),
        for_both_users("sockets_stay_behind_and_pipes_do_not", sockets_stay_behind),
        for_both_users("a_network_socket_as_standard_input_is_refused", socket_as_stdin),
        for_both_users("an_abandoned_child_runs_nothing", abandoned),
    ]
    .into_iter()
    .flatten()
    .collect();
    trials.push(trial("dispositions_and_mask_are_the_callers", dispositions));
    trials.push(trial("async_supervision", async_supervision));
    trials.push(trial("sudo_gives_way_to_its_caller", sudo_identity));
    trials
}

fn sh(uid: u32, script: &str) -> Command {
    launch(uid, &["/bin/sh", "-c", script])
}

fn exit_codes(uid: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let file = |name: &str, text: &str, mode: u32| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(path.to_str().unwrap().to_owned())
    };
    let data = file("data", "x", 0o644)?;
    let script = file("script", "exit 9", 0o755)?;
    let broken = file("broken", "#!/nonexistent\n", 0o755)?;

    for (expected, args) in [
        (0, vec!["true"]),
        (3, vec!["/bin/sh", "-c", "exit 3"]),
        (9, vec![&*script]),
        (127, vec!["no-such-command-anywhere"]),
        (127, vec!["/no/such/file"]),
        (127, vec![""]),
        (127, vec![&*broken]),
        (126, vec![&*data]),
        (126, vec!["/etc"]),
        (128 + 9, vec!["/bin/sh", "-c", "kill -KILL $$"]),
        (128 + 15, vec!["/bin/sh", "-c", "kill -TERM $$"]),
    ] {
        let got = code(launch(uid, &args))?;
        ensure!(got == expected, "{args:?}: {got}, not {expected}");
    }
    let said = String::from_utf8(output(launch(uid, &["no-such-command-anywhere"]))?.stderr)?;
    ensure!(said == "agentnet: no-such-command-anywhere: command not found\n", "{said:?}");
    Ok(())
}

fn streams_and_environment_pass(uid: u32) -> Result<()> {
    let mut command = sh(uid, "cat; echo err >&2; echo $MARK; umask; ulimit -n; pwd");
    command.env("MARK", "kept").current_dir("/usr").stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().unwrap().write_all(b"through\n")?;
    let got = finish(child)?;

    let mut plain = Command::new("/bin/sh");
    plain.args(["-c", "umask; ulimit -n; pwd"]).current_dir("/usr");
    let expected = format!("through\nkept\n{}", stdout(plain)?);
    ensure!(String::from_utf8(got.stdout)? == expected);
    ensure!(got.stderr == b"err\n");
    Ok(())
}

fn signals_are_passed_on(uid: u32) -> Result<()> {
    for asynchronous in [false, true] {
        let flags: &[&str] = if asynchronous { &["run", "--async", "--"] } else { &["run", "--"] };
        let mut command = helper(uid, &[flags, &["/proc/self/exe", "--helper", "listen"]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        ensure!(lines.next().unwrap()? == "ready");
        for signal in [
            libc::SIGHUP,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGALRM,
            libc::SIGWINCH,
            libc::SIGTERM,
        ] {
            kill(child.id(), signal)?;
            let line = lines.next().unwrap()?;
            ensure!(line == format!("{signal} from the launcher"), "{line}, not {signal}");
        }
        ensure!(finish(child)?.status.code() == Some(5));
    }
    Ok(())
}

fn sockets_stay_behind(uid: u32) -> Result<()> {
    let script = "for f in 6 7 8 9; do [ -e /proc/self/fd/$f ] && echo $f; done; echo through >&7";
    let run = |mut command: Command| -> Result<(String, String)> {
        let (mut read, write) = std::io::pipe()?;
        let udp: OwnedFd = std::net::UdpSocket::bind("127.0.0.1:0")?.into();
        let (unix, _peer) = std::os::unix::net::UnixStream::pair()?;
        let directory: OwnedFd = std::fs::File::open("/")?.into();
        let write: OwnedFd = write.into();
        let unix: OwnedFd = unix.into();
        for (fd, number) in [(&udp, 6), (&write, 7), (&unix, 8), (&directory, 9)] {
            inherit(&mut command, fd, number);
        }
        let listed = stdout(command)?;
        drop(write);
        let mut piped = String::new();
        read.read_to_string(&mut piped)?;
        Ok((listed, piped))
    };
    let mut plain = Command::new("/bin/sh");
    plain.args(["-c", script]);
    ensure!(run(plain)? == ("6\n7\n8\n9\n".into(), "through\n".into()), "without the launcher all arrive");
    let got = run(sh(uid, script))?;
    ensure!(got == ("7\n".into(), "through\n".into()), "{got:?}");
    Ok(())
}

fn socket_as_stdin(uid: u32) -> Result<()> {
    let tcp: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0")?.into();
    let mut command = launch(uid, &["true"]);
    command.stdin(tcp);
    let refused = output(command)?;
    ensure!(refused.status.code() == Some(125));
    let said = String::from_utf8(refused.stderr)?;
    ensure!(said.starts_with("agentnet: standard input is a socket"), "{said}");

    let (unix, _peer) = std::os::unix::net::UnixStream::pair()?;
    let mut command = launch(uid, &["true"]);
    command.stdin(OwnedFd::from(unix));
    ensure!(code(command)? == 0, "a Unix socket is what ssh gives its children");
    Ok(())
}

fn abandoned(uid: u32) -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let mark = dir.path().join("ran");
    let args = ["/bin/touch", mark.to_str().unwrap()];

    let got = output(helper(uid, &[&["abandon"], &args[..]].concat()))?;
    let pid: u32 = String::from_utf8(got.stdout)?.trim().parse()?;
    until("the child ends after its parent", || matches!(state(pid), None | Some('Z')))?;
    ensure!(code(helper(uid, &[&["drop"], &args[..]].concat()))? == 0, "a dropped child is reaped");
    ensure!(!mark.exists());
    ensure!(code(launch(uid, &args))? == 0 && mark.exists(), "the same command runs when released");
    Ok(())
}

/// What `execve` passes on of signals, as the kernel shows it of the command itself.
fn dispositions() -> Result<()> {
    let grep = ["/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"];
    for ignored in ["", "trap '' PIPE; ", "trap '' HUP PIPE INT CHLD USR1 TSTP; "] {
        let under = |command: &str| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("{ignored}exec {command}")]);
            stdout(shell)
        };
        let plain = under(&grep.join(" ").replace('(', "\\(").replace(')', "\\)").replace('|', "\\|"))?;
        let exe = std::env::current_exe()?;
        let launched = under(&format!(
            "{} --helper run -- {}",
            exe.display(),
            grep.join(" ").replace('(', "\\(").replace(')', "\\)").replace('|', "\\|")
        ))?;
        ensure!(plain == launched, "{ignored}: {plain} became {launched}");
        let mask = plain.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap();
        let sigpipe = u64::from_str_radix(mask, 16)? >> (libc::SIGPIPE - 1) & 1;
        ensure!((sigpipe == 1) == ignored.contains("PIPE"), "{ignored}: {plain}");
    }
    // A blocked signal stays blocked.
    let mut command = launch(0, &grep);
    // SAFETY: async-signal-safe calls on a local set.
    unsafe {
        command.pre_exec(|| {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut set, libc::SIGUSR2);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            Ok(())
        });
    }
    let blocked = stdout(command)?;
    ensure!(blocked.contains("SigBlk:\t0000000000000800"), "{blocked}");
    Ok(())
}

fn async_supervision() -> Result<()> {
    ensure!(code(helper(0, &["run", "--async", "--", "/bin/sh", "-c", "exit 7"]))? == 7);
    ensure!(code(helper(0, &["run", "--async", "--", "/bin/sh", "-c", "sleep 0.2; kill -9 $$"]))? == 137);
    Ok(())
}

fn sudo_identity() -> Result<()> {
    needs_root()?;
    let mut command = launch(0, &["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME $USER $SUDO_UID"]);
    // Groups of the caller's that the user must not get.
    // SAFETY: setgroups is one system call here, with a static list.
    unsafe {
        command.pre_exec(|| match libc::setgroups(2, [0, 1].as_ptr()) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    command.env("SUDO_UID", NOBODY.to_string()).env("SUDO_GID", NOBODY.to_string()).env("HOME", "/root");
    let got = stdout(command)?;
    let mut plain = Command::new("/bin/sh");
    plain.args(["-c", &format!("getent passwd {NOBODY}")]);
    let entry = stdout(plain)?;
    let fields: Vec<&str> = entry.trim().split(':').collect();
    let expected = format!("{NOBODY}\n{NOBODY}\n{NOBODY}\n{} {}\n", fields[5], fields[0]);
    ensure!(got == expected, "{got:?}, not {expected:?}");
    Ok(())
}
