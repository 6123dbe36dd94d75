//! Exit code, environment, directory, user, standard streams: those of the command without agentnet.

use std::{
    net::{TcpStream, UdpSocket},
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
};

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    child::finish,
    net::Family,
    policy::Policy,
    residue::Residue,
};
use anyhow::{Result, ensure};
use rstest::rstest;

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
