//! `io_uring`: the same calls, made by the kernel on the agent's behalf.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};

use super::{Args, Failure, Operation, Outcome, Step as _, Trace, tcp, udp};
use crate::sys::{self, Message};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("uring-setup", Trace::Nothing, "only a ring", |_| ring().map(|_| 0)),
    Operation::new("uring-connect", Trace::Marker, "connect and send by the ring", connect),
    Operation::new("uring-sendmsg", Trace::Marker, "sendmsg by the ring", sendmsg),
    Operation::new("uring-socket", Trace::Marker, "the ring makes the socket, too", socket),
];

fn ring() -> Result<IoUring, Failure> {
    IoUring::new(4).step("io_uring_setup")
}

/// Submits one entry and waits for its result.
fn submit(ring: &mut IoUring, entry: &Entry, step: &'static str) -> Result<i32, Failure> {
    // SAFETY: every caller keeps what the entry points to alive until this function returns, and this
    // returns only after the completion.
    unsafe { ring.submission().push(entry) }
        .map_err(|_| io::Error::from(io::ErrorKind::Other))
        .step("push")?;
    ring.submit_and_wait(1).step("io_uring_enter")?;
    let result = ring.completion().next().map_or(-libc::EIO, |completion| completion.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)).step(step) } else { Ok(result) }
}

fn connect(args: &Args) -> Outcome {
    let mut ring = ring()?;
    let fd = tcp::socket(args.to)?;
    let addr = sys::RawAddr::from(args.to);
    let (pointer, len) = addr.parts();
    submit(&mut ring, &opcode::Connect::new(Fd(fd.as_raw_fd()), pointer, len).build(), "connect")?;
    let data = args.secret();
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let sent = submit(&mut ring, &opcode::Send::new(Fd(fd.as_raw_fd()), data.as_ptr(), len).build(), "send")?;
    tcp::await_echo(&fd);
    Ok(sent.unsigned_abs() as usize)
}

fn send_datagram(ring: &mut IoUring, fd: &OwnedFd, to: SocketAddr, data: &[u8]) -> Outcome {
    let message = Message::new(Some(to.into()), data, &[]);
    message.with_header(|header| {
        let entry = opcode::SendMsg::new(Fd(fd.as_raw_fd()), header).build();
        submit(ring, &entry, "sendmsg").map(|sent| sent.unsigned_abs() as usize)
    })
}

fn sendmsg(args: &Args) -> Outcome {
    let mut ring = ring()?;
    let fd = udp::socket(args.to)?;
    send_datagram(&mut ring, &fd, args.to, args.secret())
}

fn socket(args: &Args) -> Outcome {
    let mut ring = ring()?;
    let entry = opcode::Socket::new(sys::family(args.to), libc::SOCK_DGRAM, 0).build();
    let fd = submit(&mut ring, &entry, "socket")?;
    // SAFETY: the kernel has just given us this descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    send_datagram(&mut ring, &fd, args.to, args.secret())
}
