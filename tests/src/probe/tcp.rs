//! TCP: every way to get a byte into a connection.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    thread,
};

use super::{Args, Failure, Operation, Outcome, Step as _, Trace};
use crate::sys;

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("tcp-connect", Trace::Packet, "connect() and nothing else", just_connect),
    Operation::new("tcp-send", Trace::Marker, "connect() and send()", plain),
    Operation::new("tcp-v4-mapped", Trace::Marker, "an IPv6 socket to the IPv4-mapped address", v4_mapped),
    Operation::new("tcp-fastopen-sendto", Trace::Marker, "sendto() with MSG_FASTOPEN", fast_open_sendto),
    Operation::new("tcp-fastopen-connect", Trace::Marker, "TCP_FASTOPEN_CONNECT", fast_open_connect),
    Operation::new(
        "tcp-reconnect",
        Trace::Marker,
        "connect to the allowed endpoint, dissolve with AF_UNSPEC, connect elsewhere",
        reconnect,
    ),
    Operation::new("tcp-listener-reconnect", Trace::Marker, "a listener that connects", listener_reconnect),
    Operation::new("tcp-accepted-reconnect", Trace::Marker, "an accepted socket that connects", accepted),
    Operation::new("tcp-bound-port", Trace::Marker, "from a port shared with a listener", shared_port),
    Operation::new("tcp-zerocopy", Trace::Marker, "send() with MSG_ZEROCOPY", zero_copy),
    Operation::new("tcp-sendfile", Trace::Marker, "sendfile()", send_file),
    Operation::new("tcp-splice", Trace::Marker, "splice() from a pipe", splice),
    Operation::new("tcp-urgent", Trace::Marker, "urgent data", urgent),
    Operation::new(
        "tcp-early-send",
        Trace::Marker,
        "a send() that starts before the connection is up",
        early,
    ),
    Operation::new("mptcp-send", Trace::Marker, "a multipath TCP socket", mptcp),
];

/// A TCP socket of the target's family.
pub(super) fn socket(to: SocketAddr) -> Result<OwnedFd, Failure> {
    sys::socket(sys::family(to), libc::SOCK_STREAM, libc::IPPROTO_TCP).step("socket")
}

/// Sends all of `data` and waits until the far end has echoed something: then it has arrived.
pub(super) fn deliver(fd: &impl AsFd, data: &[u8]) -> Outcome {
    let sent = sys::send(fd, data, 0).step("send")?;
    await_echo(fd);
    Ok(sent)
}

/// Waits for the first byte back. That none comes is the far end's matter, not the call's.
pub(super) fn await_echo(fd: &impl AsFd) {
    let _ = sys::receive(fd, &mut [0; 64]);
}

fn just_connect(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    Ok(0)
}

/// The plain way.
pub(super) fn plain(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    deliver(&fd, args.secret())
}

fn v4_mapped(args: &Args) -> Outcome {
    let to = sys::mapped(args.to);
    let fd = socket(to)?;
    sys::connect(&fd, to).step("connect")?;
    deliver(&fd, args.secret())
}

fn fast_open_sendto(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let sent = sys::send_to(&fd, args.secret(), libc::MSG_FASTOPEN, args.to).step("sendto")?;
    await_echo(&fd);
    Ok(sent)
}

fn fast_open_connect(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1).step("setsockopt")?;
    sys::connect(&fd, args.to).step("connect")?;
    deliver(&fd, args.secret())
}

/// Dissolves the association of `fd` and uses it for the target.
fn redirect(fd: &impl AsFd, args: &Args) -> Outcome {
    sys::connect(fd, sys::RawAddr::unspecified()).step("disconnect")?;
    sys::connect(fd, args.to).step("reconnect")?;
    deliver(fd, args.secret())
}

fn reconnect(args: &Args) -> Outcome {
    let fd = socket(args.via)?;
    sys::connect(&fd, args.via).step("connect")?;
    deliver(&fd, b"hello")?;
    redirect(&fd, args)
}

fn any_address(to: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    (ip, 0).into()
}

fn listener(to: SocketAddr) -> Result<OwnedFd, Failure> {
    let fd = socket(to)?;
    for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
        sys::set_int(&fd, libc::SOL_SOCKET, option, 1).step("setsockopt")?;
    }
    sys::bind(&fd, any_address(to)).step("bind")?;
    sys::listen(&fd).step("listen")?;
    Ok(fd)
}

fn listener_reconnect(args: &Args) -> Outcome {
    redirect(&listener(args.to)?, args)
}

fn accepted(args: &Args) -> Outcome {
    let server = listener(args.to)?;
    let port = sys::local_addr(&server).step("getsockname")?.port();
    let loopback: IpAddr =
        if args.to.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
    let client = socket(args.to)?;
    sys::connect(&client, SocketAddr::from((loopback, port))).step("connect to self")?;
    let peer = sys::accept(&server).step("accept")?;
    // Inherited timeouts do not cover connect() on every kernel; a fresh limit does.
    drop(server);
    redirect(&peer, args)
}

fn shared_port(args: &Args) -> Outcome {
    let server = listener(args.to)?;
    let fd = socket(args.to)?;
    for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
        sys::set_int(&fd, libc::SOL_SOCKET, option, 1).step("setsockopt")?;
    }
    sys::bind(&fd, sys::local_addr(&server).step("getsockname")?).step("bind")?;
    sys::connect(&fd, args.to).step("connect")?;
    deliver(&fd, args.secret())
}

fn zero_copy(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    // Refused or not, the send is tried: the option alone moves nothing.
    let allowed = sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1).step("setsockopt");
    sys::connect(&fd, args.to).step("connect")?;
    let sent = sys::send(&fd, args.secret(), libc::MSG_ZEROCOPY).step("send")?;
    await_echo(&fd);
    allowed.map(|()| sent)
}

/// A file that holds the secret, positioned at its start.
pub(super) fn secret_file(args: &Args) -> Result<File, Failure> {
    let fd = rustix::fs::memfd_create("probe", rustix::fs::MemfdFlags::CLOEXEC).step("memfd_create")?;
    let mut file = File::from(fd);
    file.write_all(args.secret()).step("write")?;
    file.rewind().step("rewind")?;
    Ok(file)
}

fn send_file(args: &Args) -> Outcome {
    let file = secret_file(args)?;
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    let sent = rustix::fs::sendfile(&fd, &file, None, args.secret().len()).step("sendfile")?;
    await_echo(&fd);
    Ok(sent)
}

/// Fills a pipe with the secret and splices it into the socket.
pub(super) fn splice_into(fd: &impl AsFd, args: &Args) -> Outcome {
    let (reader, writer) = rustix::pipe::pipe().step("pipe")?;
    let length = rustix::io::write(&writer, args.secret()).step("write")?;
    rustix::pipe::splice(&reader, None, fd, None, length, rustix::pipe::SpliceFlags::empty()).step("splice")
}

fn splice(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    let sent = splice_into(&fd, args)?;
    await_echo(&fd);
    Ok(sent)
}

fn urgent(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    sys::connect(&fd, args.to).step("connect")?;
    let sent = sys::send(&fd, args.secret(), libc::MSG_OOB).step("send")?;
    await_echo(&fd);
    Ok(sent)
}

fn early(args: &Args) -> Outcome {
    let fd = socket(args.to)?;
    let flags = rustix::fs::fcntl_getfl(&fd).step("fcntl")?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK).step("fcntl")?;
    match sys::connect(&fd, args.to) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error).step("connect"),
        _ => {}
    }
    rustix::fs::fcntl_setfl(&fd, flags).step("fcntl")?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| sys::send(&fd, args.secret(), 0).step("send"));
        let sent =
            sender.join().unwrap_or_else(|_| Err(Failure::new("thread", std::io::ErrorKind::Other)))?;
        await_echo(&fd);
        Ok(sent)
    })
}

fn mptcp(args: &Args) -> Outcome {
    let fd = sys::socket(sys::family(args.to), libc::SOCK_STREAM, libc::IPPROTO_MPTCP).step("socket")?;
    sys::connect(&fd, args.to).step("connect")?;
    deliver(&fd, args.secret())
}
