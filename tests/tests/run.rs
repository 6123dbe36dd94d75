//! `agentnet run` as a command: whose everything stays the command's own.

use std::{
    fs,
    net::{TcpStream, UdpSocket},
    os::{
        fd::AsRawFd as _,
        unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    },
    path::Path,
    process::{Command, Stdio},
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        cgroup,
        child::{Finished, agentnet_binary, finish},
        expect::{EPERM, Expected, Said},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        pty::Terminal,
        residue::{Residue, links_above},
    },
    skip,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::process::{Pid, Signal, kill_process};

/// What agentnet says when it fails itself.
const AGENTNET_FAILED: i32 = 125;

fn pid(child: &std::process::Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("no such process")
}

/// A message for a person: something on stderr, no panic, no backtrace.
fn ensure_one_clear_sentence(finished: &Finished, words: &[&str]) -> Result<()> {
    let text = finished.stderr.to_lowercase();
    ensure!(!text.contains("panicked") && !text.contains("backtrace"), "not for people: {finished:?}");
    ensure!(words.iter().all(|word| text.contains(word)), "{words:?} not all in {finished:?}");
    Ok(())
}

#[rstest]
#[case("exit 0", 0)]
#[case("exit 7", 7)]
#[case("exit 125", 125)]
fn the_exit_code_is_the_commands(#[case] script: &str, #[case] code: i32) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = agent.run(&["sh", "-c", script])?;
    ensure!(finished.status.code() == Some(code), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn a_command_that_dies_of_a_signal_says_so_as_shells_do() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = agent.run(&["sh", "-c", "kill -KILL $$"])?;
    let told = (finished.status.code(), finished.status.signal());
    ensure!(matches!(told, (Some(137), None) | (None, Some(libc::SIGKILL))), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn what_cannot_be_run_is_told_as_shells_do() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let missing = agent.run(&["no-such-command-anywhere"])?;
    ensure!(missing.status.code() == Some(127), "{missing:?}");
    ensure_one_clear_sentence(&missing, &["no-such-command-anywhere"])?;
    let policy = agent.policy_file();
    let text = policy.to_str().context("path")?;
    let unfit = agent.run(&[text])?;
    ensure!(unfit.status.code() == Some(126), "{unfit:?}");
    ensure_one_clear_sentence(&unfit, &["policy.toml"])?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn environment_directory_and_user_are_the_callers(
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let mut command = agent.command()?;
    command.env("LAB_VARIABLE", "a b\tc").current_dir("/usr/bin");
    command.args([
        "sh",
        "-c",
        "printf '%s\\n' \"$LAB_VARIABLE\" \"$PWD\" \"$(id -u)\" \"$(id -g)\" \"$1\"",
        "sh",
        "x  y",
    ]);
    let finished = finish(command, None)?;
    let uid = user.unwrap_or(0);
    ensure!(finished.stdout == format!("a b\tc\n/usr/bin\n{uid}\n{uid}\nx  y\n"), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn standard_input_and_output_pass_unchanged() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let data: Vec<u8> = (0..1 << 16).map(|number: u32| u8::try_from(number % 251).unwrap_or(0)).collect();
    let mut command = agent.command()?;
    command.args(["sh", "-c", "od -An -tx1 -v | tr -d ' \\n'"]);
    let finished = finish(command, Some(&data))?;
    let expected: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        finished.stdout == expected && finished.status.success(),
        "{} bytes came back",
        finished.stdout.len() / 2
    );
    Residue::named(&agent.name).ensure_gone()
}

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
    shell.args(["--norc", "--noprofile", "-i"]).env("PS1", "ready$ ").env_remove("SUDO_UID");
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

#[test]
fn a_broken_policy_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let text = "version = 1\nname = \"broken\"\nmoed = \"enforce\"\n\n[[egress.allow]]\ncidr = \"10.0.0.0/99\"\nports = [1]\n";
    let agent = Agent::with_text(&lab, text)?;
    let witness = agent.policy_file().with_file_name("witness");
    let finished = agent.run(&["touch", witness.to_str().context("path")?])?;
    ensure!(finished.status.code() == Some(2), "{finished:?}");
    // Both mistakes, each where it is.
    ensure_one_clear_sentence(&finished, &["policy.toml:3:", "moed", "policy.toml:6:", "10.0.0.0/99"])?;
    ensure!(!witness.exists(), "the command ran under a broken policy");
    ensure!(Residue::named(&agent.name).left()?.is_empty());
    Ok(())
}

#[test]
fn without_root_it_says_what_it_needs() -> Result<()> {
    if Path::new("/usr/bin/sudo").exists() {
        skip!("without_root_it_says_what_it_needs", "sudo is installed and might ask");
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut command = agent.command_for(NOBODY)?;
    command.arg("true");
    let finished = finish(command, None)?;
    ensure!(finished.status.code() == Some(AGENTNET_FAILED), "{finished:?}");
    ensure_one_clear_sentence(&finished, &["root"])?;
    ensure!(Residue::named(&agent.name).left()?.is_empty());
    Ok(())
}

#[test]
fn a_name_in_use_is_refused_and_its_owner_undisturbed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let second = agent.run(&["true"])?;
    ensure!(second.status.code() == Some(AGENTNET_FAILED), "{second:?}");
    ensure_one_clear_sentence(&second, &[&agent.name])?;
    running.expect(&Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM))?;
    ensure!(links_above(&running.cgroup)?.len() == residue.links().len(), "the owner lost links");
    running.finish()?;
    residue.ensure_gone()
}

/// Enforcement does not depend on the process that set it up.
#[test]
fn kill_9_leaves_enforcement_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    for engine in running.supervisors()? {
        kill_process(Pid::from_raw(engine).context("pid")?, Signal::KILL)?;
    }
    // Waiting for the child would close its input, which is the agent's as well and would end it.
    let input = running.child.stdin.take();
    running.child.wait()?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], Family::V4.denied_endpoint(), EPERM)
        .cases(&["tcp-connect", "udp-sendto"], Family::V6.denied_endpoint(), EPERM)
        .case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    running.expect(&table)?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    ensure!(links_above(&running.cgroup)?.len() == residue.links().len(), "links went with their maker");
    drop(input);
    running.finish()?;

    // The next command clears what is empty and ownerless.
    let next = Agent::new(&lab, &Policy::standard())?;
    eventually(DEADLINE, "the agent's last process ends", || match cgroup_is_empty(&residue) {
        true => Ok(()),
        false => Err(format!("{:?}", residue.left())),
    })?;
    let finished = next.run(&["true"])?;
    ensure!(finished.status.success(), "{finished:?}");
    residue.ensure_gone()?;
    Residue::named(&next.name).ensure_gone()
}

fn cgroup_is_empty(residue: &Residue) -> bool {
    residue.left().is_ok_and(|left| !left.iter().any(|line| line.starts_with("process ")))
}

#[test]
fn inherited_sockets_are_closed() -> Result<()> {
    let lab = Lab::new()?;
    let (stream, datagram) = lab.agent.run(|| {
        let datagram = UdpSocket::bind("0.0.0.0:0")?;
        datagram.connect(Family::V4.denied_endpoint())?;
        Ok((TcpStream::connect(Family::V4.denied_endpoint())?, datagram))
    })?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    for fd in [stream.as_raw_fd(), datagram.as_raw_fd()] {
        rustix::io::fcntl_setfd(borrow(&stream, &datagram, fd), rustix::io::FdFlags::empty())?;
    }
    let script = format!(
        "ls -l /proc/self/fd >&2; echo leaked >&{}; echo leaked >&{}",
        stream.as_raw_fd(),
        datagram.as_raw_fd()
    );
    let finished = agent.run(&["bash", "-c", &script])?;
    ensure!(!finished.stderr.contains("socket:["), "a socket was inherited: {finished:?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(b"leaked") == 0, "bytes left through an inherited socket");
    Residue::named(&agent.name).ensure_gone()
}

fn borrow<'fd>(stream: &'fd TcpStream, datagram: &'fd UdpSocket, fd: i32) -> std::os::fd::BorrowedFd<'fd> {
    use std::os::fd::AsFd as _;
    if stream.as_raw_fd() == fd { stream.as_fd() } else { datagram.as_fd() }
}

#[test]
fn what_outlives_the_command_is_killed() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    // The marker makes the orphan known to the residue check by its command line.
    let script = format!(
        "setsid sh -c 'while :; do sleep 0.05; done' {} </dev/null >/dev/null 2>&1 & echo $!",
        agent.name
    );
    let finished = agent.run(&["sh", "-c", &script])?;
    ensure!(finished.status.success() && !finished.stdout.is_empty(), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// An agent below an agent: what both policies allow.
#[rstest]
fn a_nested_run_is_under_both_policies(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let outer = Agent::new(&lab, &Policy::standard())?;
    let running = outer.hold()?;
    let residue = Residue::of(&outer.name, &running)?;
    let policy = Policy::closed()
        .allow(&family.denied().to_string(), &[ALLOWED_PORT], &["tcp", "udp"])
        .allow(&family.allowed().to_string(), &[ALLOWED_PORT], &["tcp"]);
    let inner = Agent::new(&lab, &policy)?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM)
        .case("udp-sendto", family.allowed_endpoint(), EPERM)
        .case("tcp-send", family.allowed_endpoint(), Said::Ok);
    table.check(&inner.attempt_below(&running, table.requests())?)?;
    Residue::named(&inner.name).ensure_gone()?;
    running.expect(&Expected::new().case("udp-sendto", family.allowed_endpoint(), Said::Ok))?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    residue.ensure_gone()
}

/// The agent has no privilege, can get none, and reaches neither cgroups nor BPF nor other processes.
#[rstest]
fn the_agent_is_confined(#[values(None, Some(NOBODY))] user: Option<u32>) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let victim = lab.outsider(user)?;
    let to = Family::V4.denied_endpoint();
    let ops = [
        "nested-cgroup-send",
        "root-cgroup-send",
        "mounted-cgroup-send",
        "mount-bpf",
        "bpf-links",
        "steal-victim-socket",
        "trace-victim",
        "uring-setup",
    ];
    let table = Expected::new().cases(&ops, to, Said::Refused).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    );
    let requests: Vec<_> =
        table.requests().iter().cloned().map(|request| request.victim(victim.pid())).collect();
    table.check(&agent.attempt(&requests)?)?;
    lab.ensure_nothing_reached(to.ip())?;

    let status = agent.run(&["cat", "/proc/self/status"])?;
    let field = |name: &str| -> Result<u64> {
        let line = status.stdout.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        Ok(u64::from_str_radix(line.trim_start_matches(':').trim(), 16)?)
    };
    ensure!(field("NoNewPrivs")? == 1 && field("Seccomp")? == 2, "{}", status.stdout);
    // CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_MODULE, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
    let dangerous = [12, 13, 16, 19, 21, 38, 39].into_iter().fold(0, |set, bit| set | 1_u64 << bit);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(set)? & dangerous == 0, "{set} of the agent: {:x}", field(set)?);
    }
    Residue::named(&agent.name).ensure_gone()
}

/// A bundle of sockets and cgroups made by the agent below its own goes with it.
#[test]
fn cgroups_below_the_agents_go_with_it() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let below = running.cgroup.join("below").join("further-below");
    fs::create_dir_all(&below)?;
    let mount = cgroup::mount_point()?;
    ensure!(cgroup::of_process(&mount, &running.pid.to_string())? == running.cgroup);
    running.finish()?;
    ensure!(!below.exists(), "{} is left", below.display());
    residue.ensure_gone()
}

/// `sudo agentnet run` and plain `agentnet run` with a sudo that asks nothing.
#[test]
fn a_user_gets_root_for_the_helper_by_sudo() -> Result<()> {
    const NAME: &str = "a_user_gets_root_for_the_helper_by_sudo";
    if !Path::new("/usr/bin/sudo").exists() {
        skip!(NAME, "sudo is not installed");
        return Ok(());
    }
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let rules = agent.policy_file().with_file_name("sudoers");
    fs::write(&rules, format!("nobody ALL=(root) NOPASSWD: {}\n", agentnet_binary()?.display()))?;
    fs::set_permissions(&rules, fs::Permissions::from_mode(0o440))?;
    let mut command = agent.command_for_sudoer(NOBODY, &rules)?;
    command.args(["sh", "-c", "id -u; exit 5"]);
    let finished = finish(command, None)?;
    ensure!(finished.status.code() == Some(5) && finished.stdout == format!("{NOBODY}\n"), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()
}
