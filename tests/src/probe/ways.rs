//! Ways to hand a message to a resolver: those of ordinary clients, and those that go round who looks at plain ones.

use std::{
    io::{self, IoSlice, Seek as _, Write as _},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use io_uring::{IoUring, opcode, squeue::Entry, types::Fd};
use serde::{Deserialize, Serialize};

use super::{Failure, process, run, script::Failed};
use crate::{
    lab::resolver::framed,
    sys::{self, Message, RawAddr},
};

/// A way. The first word of its name is the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `sendto()` on an unconnected socket.
    UdpSend,
    /// `connect()` and `send()`.
    UdpConnected,
    /// `sendto()` on an IPv6 socket to the IPv4-mapped address.
    UdpMapped,
    /// The same, connected.
    UdpConnectedMapped,
    /// `writev()`, a byte at a time.
    UdpScattered,
    /// `sendmmsg()`, a query that is allowed before it.
    UdpBatch,
    /// `sendto()` past the connected peer.
    UdpPastPeer,
    /// Connected elsewhere, dissolved by `AF_UNSPEC`, connected to the resolver.
    UdpReconnected,
    /// Held back with `MSG_MORE` for another peer, released for the resolver.
    UdpCorkedElsewhere,
    /// Two calls, `MSG_MORE` between them.
    UdpMore,
    /// Two calls under `UDP_CORK`.
    UdpCork,
    /// `UDP_SEGMENT`: one call, two datagrams, of which the first is an allowed query.
    UdpSegments,
    /// `SO_ZEROCOPY` and `MSG_ZEROCOPY`.
    UdpZeroCopy,
    /// `splice()` from a pipe.
    UdpSplice,
    /// `sendfile()`.
    UdpSendfile,
    /// From a port that two sockets share, of which one has asked.
    UdpReusePort,
    /// Through a duplicate of a socket that has asked.
    UdpDuplicate,
    /// A child, through its parent's socket.
    UdpInherited,
    /// A child in a cgroup below, through a socket of its own.
    UdpNested,
    /// The same, through a socket that it was given.
    UdpNestedInherited,
    /// `io_uring`.
    UdpRing,
    /// `io_uring`, without a copy.
    UdpRingZeroCopy,
    /// `connect()` to port 0, which only asks for a route, then `send()`.
    UdpPortZero,
    /// `connect()` and `send()`.
    TcpSend,
    /// An IPv6 socket to the IPv4-mapped address.
    TcpMapped,
    /// A byte at a time.
    TcpBytes,
    /// In two calls, `MSG_MORE` between them.
    TcpMore,
    /// `MSG_ZEROCOPY`.
    TcpZeroCopy,
    /// `splice()` from a pipe.
    TcpSplice,
    /// `sendfile()`.
    TcpSendfile,
    /// Urgent data.
    TcpUrgent,
    /// In the SYN, `MSG_FASTOPEN`.
    TcpFastOpen,
    /// In the SYN, `TCP_FASTOPEN_CONNECT`.
    TcpFastOpenConnect,
    /// A call that begins before the connection is there.
    TcpEarly,
    /// Behind a query that is allowed, in one call.
    TcpBehind,
    /// Connected elsewhere, dissolved by `AF_UNSPEC`, connected to the resolver.
    TcpReconnected,
    /// The same of a connection to the resolver on which a query was asked.
    TcpAskedReconnected,
    /// A socket that listened.
    TcpListener,
    /// A child, through its parent's connection.
    TcpInherited,
    /// A child in a cgroup below, through a connection that it was given.
    TcpNestedInherited,
    /// A child in a cgroup below, through a connection of its own.
    TcpNested,
    /// `io_uring`.
    TcpRing,
    /// A multipath socket.
    TcpMultipath,
}

/// What is to be sent, and where.
pub struct Sending<'a> {
    /// The resolver.
    pub to: SocketAddr,
    /// Where else the agent may send what it likes.
    pub via: SocketAddr,
    /// A query that may leave.
    pub good: &'a [u8],
    /// The message.
    pub message: &'a [u8],
}

impl Way {
    /// Sends the message. Waits for what comes back where a connection would be gone before it has left.
    pub(super) fn send(self, sending: &Sending<'_>) -> Result<(), Failed> {
        let Sending { to, via, good, message } = *sending;
        match self {
            Self::UdpSend => send_to(&udp(to)?, message, to),
            Self::UdpConnected => send(&connected(udp(to)?, to)?, message),
            Self::UdpMapped => send_to(&udp(sys::mapped(to))?, message, sys::mapped(to)),
            Self::UdpConnectedMapped => send(&connected(udp(sys::mapped(to))?, sys::mapped(to))?, message),
            Self::UdpScattered => {
                let parts: Vec<IoSlice<'_>> = message.chunks(1).map(IoSlice::new).collect();
                rustix::io::writev(&connected(udp(to)?, to)?, &parts).map(drop).map_err(named("writev"))
            }
            Self::UdpBatch => batch(to, good, message),
            Self::UdpPastPeer => send_to(&connected(udp(via)?, via)?, message, to),
            Self::UdpReconnected => {
                let fd = connected(udp(via)?, via)?;
                send(&fd, b"hello")?;
                send(&again(fd, to)?, message)
            }
            Self::UdpCorkedElsewhere => {
                let fd = connected(udp(via)?, via)?;
                sys::send(&fd, message, libc::MSG_MORE).map_err(named("cork"))?;
                let moved = connected(fd.as_fd().try_clone_to_owned().map_err(named("dup"))?, to);
                let released = send(&fd, b"");
                moved.and(released)
            }
            Self::UdpMore => {
                let fd = udp(to)?;
                let (first, second) = message.split_at(message.len() / 2);
                sys::send_to(&fd, first, libc::MSG_MORE, to).map_err(named("sendto"))?;
                send_to(&fd, second, to)
            }
            Self::UdpCork => {
                let fd = connected(udp(to)?, to)?;
                let (first, second) = message.split_at(message.len() / 2);
                sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_CORK, 1).map_err(named("setsockopt"))?;
                send(&fd, first)?;
                send(&fd, second)?;
                sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_CORK, 0).map_err(named("release"))
            }
            Self::UdpSegments => {
                let fd = udp(to)?;
                let size = i32::try_from(good.len()).unwrap_or(i32::MAX);
                sys::set_int(&fd, libc::IPPROTO_UDP, libc::UDP_SEGMENT, size).map_err(named("setsockopt"))?;
                send_to(&fd, &[good, message].concat(), to)
            }
            Self::UdpZeroCopy | Self::TcpZeroCopy => {
                let fd = connected(self.socket(to)?, to)?;
                // Refused or not, the send is tried.
                let _ = sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
                sys::send(&fd, &self.framed(message), libc::MSG_ZEROCOPY).map_err(named("send"))?;
                self.wait(&fd);
                Ok(())
            }
            Self::UdpSplice | Self::TcpSplice => {
                let fd = connected(self.socket(to)?, to)?;
                let message = self.framed(message);
                let (reader, writer) = rustix::pipe::pipe().map_err(named("pipe"))?;
                rustix::io::write(&writer, &message).map_err(named("write"))?;
                let flags = rustix::pipe::SpliceFlags::empty();
                rustix::pipe::splice(&reader, None, &fd, None, message.len(), flags)
                    .map_err(named("splice"))?;
                self.wait(&fd);
                Ok(())
            }
            Self::UdpSendfile | Self::TcpSendfile => {
                let fd = connected(self.socket(to)?, to)?;
                let message = self.framed(message);
                let flags = rustix::fs::MemfdFlags::CLOEXEC;
                let file = rustix::fs::memfd_create("query", flags).map_err(named("memfd_create"))?;
                let mut file = std::fs::File::from(file);
                file.write_all(&message).and_then(|()| file.rewind()).map_err(named("write"))?;
                rustix::fs::sendfile(&fd, &file, None, message.len()).map_err(named("sendfile"))?;
                self.wait(&fd);
                Ok(())
            }
            Self::UdpReusePort => {
                let (first, second) = (udp(to)?, udp(to)?);
                for fd in [&first, &second] {
                    sys::set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(named("setsockopt"))?;
                }
                sys::bind(&first, any(to)).map_err(named("bind"))?;
                let own = sys::local_addr(&first).map_err(named("getsockname"))?;
                sys::bind(&second, own).map_err(named("bind"))?;
                send_to(&first, good, to)?;
                send_to(&second, message, to)
            }
            Self::UdpDuplicate => {
                let fd = connected(udp(to)?, to)?;
                send(&fd, good)?;
                send(&fd.as_fd().try_clone_to_owned().map_err(named("dup"))?, message)
            }
            Self::UdpInherited => {
                let fd = connected(udp(to)?, to)?;
                send(&fd, good)?;
                in_child(|| send(&fd, message))
            }
            Self::UdpNested => below(|| send(&connected(udp(to)?, to)?, message)),
            Self::UdpNestedInherited => {
                let fd = connected(udp(to)?, to)?;
                send(&fd, good)?;
                below(|| send(&fd, message))
            }
            Self::UdpRing => ring(&connected(udp(to)?, to)?, message, false),
            Self::UdpRingZeroCopy => ring(&connected(udp(to)?, to)?, message, true),
            Self::UdpPortZero => {
                let fd = connected(udp(to)?, SocketAddr::from((to.ip(), 0)))?;
                send_to(&fd, message, to)
            }
            Self::TcpSend => self.say(&connected(tcp(to)?, to)?, &framed(message)),
            Self::TcpMapped => {
                let to = sys::mapped(to);
                self.say(&connected(tcp(to)?, to)?, &framed(message))
            }
            Self::TcpBytes => {
                let fd = connected(tcp(to)?, to)?;
                framed(message).chunks(1).try_for_each(|byte| send(&fd, byte))?;
                self.wait(&fd);
                Ok(())
            }
            Self::TcpMore => {
                let fd = connected(tcp(to)?, to)?;
                let message = framed(message);
                let (first, second) = message.split_at(message.len() / 2);
                sys::send(&fd, first, libc::MSG_MORE).map_err(named("send"))?;
                self.say(&fd, second)
            }
            Self::TcpUrgent => {
                let fd = connected(tcp(to)?, to)?;
                sys::send(&fd, &framed(message), libc::MSG_OOB).map_err(named("send"))?;
                self.wait(&fd);
                Ok(())
            }
            Self::TcpFastOpen => {
                let fd = tcp(to)?;
                sys::send_to(&fd, &framed(message), libc::MSG_FASTOPEN, RawAddr::from(to))
                    .map_err(named("sendto"))?;
                self.wait(&fd);
                Ok(())
            }
            Self::TcpFastOpenConnect => {
                let fd = tcp(to)?;
                sys::set_int(&fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
                    .map_err(named("setsockopt"))?;
                self.say(&connected(fd, to)?, &framed(message))
            }
            Self::TcpEarly => early(self, to, &framed(message)),
            Self::TcpBehind => self.say(&connected(tcp(to)?, to)?, &[framed(good), framed(message)].concat()),
            Self::TcpReconnected => {
                let fd = connected(tcp(via)?, via)?;
                self.say(&fd, b"hello")?;
                self.say(&again(fd, to)?, &framed(message))
            }
            Self::TcpAskedReconnected => {
                let fd = connected(tcp(to)?, to)?;
                self.say(&fd, &framed(good))?;
                self.say(&again(fd, to)?, &framed(message))
            }
            Self::TcpListener => {
                let fd = tcp(to)?;
                sys::bind(&fd, any(to)).and_then(|()| sys::listen(&fd)).map_err(named("listen"))?;
                self.say(&again(fd, to)?, &framed(message))
            }
            Self::TcpInherited => {
                let fd = connected(tcp(to)?, to)?;
                self.say(&fd, &framed(good))?;
                in_child(|| self.say(&fd, &framed(message)))
            }
            Self::TcpNestedInherited => {
                let fd = connected(tcp(to)?, to)?;
                self.say(&fd, &framed(good))?;
                below(|| self.say(&fd, &framed(message)))
            }
            Self::TcpNested => below(|| self.say(&connected(tcp(to)?, to)?, &framed(message))),
            Self::TcpRing => {
                let fd = connected(tcp(to)?, to)?;
                ring(&fd, &framed(message), false)?;
                self.wait(&fd);
                Ok(())
            }
            Self::TcpMultipath => {
                let fd = sys::socket(sys::family(to), libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
                    .map_err(named("socket"))?;
                self.say(&connected(fd, to)?, &framed(message))
            }
        }
    }

    fn is_tcp(self) -> bool {
        matches!(self, Self::TcpZeroCopy | Self::TcpSplice | Self::TcpSendfile)
    }

    /// Of those that both transports have.
    fn socket(self, to: SocketAddr) -> Result<OwnedFd, Failed> {
        if self.is_tcp() { tcp(to) } else { udp(to) }
    }

    fn framed(self, message: &[u8]) -> Vec<u8> {
        if self.is_tcp() { framed(message) } else { message.to_vec() }
    }

    /// Sends and waits for something to come back.
    fn say(self, fd: &impl AsFd, bytes: &[u8]) -> Result<(), Failed> {
        send(fd, bytes)?;
        self.wait(fd);
        Ok(())
    }

    /// Waits for something to come back. That nothing does is the far end's matter.
    #[expect(clippy::unused_self, reason = "reads as a sentence")]
    fn wait(self, fd: &impl AsFd) {
        let _ = sys::receive(fd, &mut [0; 512]);
    }
}

/// Names the step of a failed call.
fn named<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Failed {
    move |error| (step, error.into())
}

pub(super) fn udp(to: SocketAddr) -> Result<OwnedFd, Failed> {
    sys::socket(sys::family(to), libc::SOCK_DGRAM, libc::IPPROTO_UDP).map_err(named("socket"))
}

pub(super) fn tcp(to: SocketAddr) -> Result<OwnedFd, Failed> {
    sys::socket(sys::family(to), libc::SOCK_STREAM, libc::IPPROTO_TCP).map_err(named("socket"))
}

fn any(to: SocketAddr) -> SocketAddr {
    (crate::lab::net::Family::of(to.ip()).unspecified(), 0).into()
}

pub(super) fn connected(fd: OwnedFd, to: SocketAddr) -> Result<OwnedFd, Failed> {
    sys::connect(&fd, to).map_err(named("connect"))?;
    Ok(fd)
}

/// The socket with another peer.
fn again(fd: OwnedFd, to: SocketAddr) -> Result<OwnedFd, Failed> {
    sys::connect(&fd, RawAddr::unspecified()).map_err(named("disconnect"))?;
    connected(fd, to)
}

fn send(fd: &impl AsFd, bytes: &[u8]) -> Result<(), Failed> {
    sys::send(fd, bytes, 0).map(drop).map_err(named("send"))
}

fn send_to(fd: &impl AsFd, bytes: &[u8], to: SocketAddr) -> Result<(), Failed> {
    sys::send_to(fd, bytes, 0, to).map(drop).map_err(named("sendto"))
}

fn batch(to: SocketAddr, good: &[u8], message: &[u8]) -> Result<(), Failed> {
    let fd = udp(to)?;
    let of = |bytes| Message::new(Some(to.into()), bytes, &[]);
    let sent = sys::send_messages(&fd, &[of(good), of(message)]).map_err(named("sendmmsg"))?;
    if sent == 2 {
        return Ok(());
    }
    // The call hides the error of a later message; asking again tells it.
    sys::send_messages(&fd, &[of(message)]).map(drop).map_err(named("sendmmsg"))
}

fn early(way: Way, to: SocketAddr, bytes: &[u8]) -> Result<(), Failed> {
    let fd = tcp(to)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(named("fcntl"))?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK).map_err(named("fcntl"))?;
    match sys::connect(&fd, to) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(("connect", error)),
        _ => {}
    }
    rustix::fs::fcntl_setfl(&fd, flags).map_err(named("fcntl"))?;
    way.say(&fd, bytes)
}

fn ring(fd: &OwnedFd, bytes: &[u8], without_copy: bool) -> Result<(), Failed> {
    let mut ring = IoUring::new(4).map_err(named("io_uring_setup"))?;
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let fd = Fd(fd.as_raw_fd());
    let entry: Entry = if without_copy {
        opcode::SendZc::new(fd, bytes.as_ptr(), len).build()
    } else {
        opcode::Send::new(fd, bytes.as_ptr(), len).build()
    };
    // SAFETY: the bytes live until the result is there; a send without a copy ends with a second result, which is
    // waited for as well.
    unsafe { ring.submission().push(&entry) }.map_err(|_| ("push", io::ErrorKind::Other.into()))?;
    ring.submit_and_wait(1).map_err(named("io_uring_enter"))?;
    let (mut result, mut more) = (-libc::EIO, false);
    if let Some(done) = ring.completion().next() {
        result = done.result();
        more = io_uring::cqueue::more(done.flags());
    }
    if more {
        ring.submit_and_wait(1).map_err(named("io_uring_enter"))?;
    }
    if result < 0 { Err(("send", io::Error::from_raw_os_error(-result))) } else { Ok(()) }
}

fn in_child(body: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    let told = |(step, error)| Failure { step, error };
    run::outcome_in_child(|| body().map(|()| 0).map_err(told))
        .map(drop)
        .map_err(|Failure { error, .. }| ("child", error))
}

/// In a child that is in a cgroup below.
fn below(body: impl FnOnce() -> Result<(), Failed>) -> Result<(), Failed> {
    let told = |(step, error)| Failure { step, error };
    in_child(|| {
        process::in_nested_cgroup(|| body().map(|()| 0).map_err(told))
            .map(drop)
            .map_err(|Failure { step, error }| (step, error))
    })
}

/// How long a message may be sent again and again: where nothing else runs meanwhile, nothing changes.
const LONGEST: Duration = Duration::from_secs(20);

/// How often the other thread has to have run between two calls: where both share a processor, that is seldom.
const MOVES: usize = 24;

/// A message whose bytes change between two forms while it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// `send()`.
    UdpSend,
    /// `sendfile()` of a file that is mapped.
    UdpSendfile,
    /// `io_uring`, without a copy.
    UdpRing,
    /// `MSG_ZEROCOPY`.
    UdpZeroCopy,
    /// `send()`.
    TcpSend,
    /// `sendfile()` of a file that is mapped.
    TcpSendfile,
    /// `MSG_ZEROCOPY`.
    TcpZeroCopy,
}

impl Flip {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UdpSend,
        Self::UdpSendfile,
        Self::UdpZeroCopy,
        Self::TcpSend,
        Self::TcpSendfile,
        Self::TcpZeroCopy,
        // The last: what is left of a ring interrupts calls for a while.
        Self::UdpRing,
    ];

    fn is_tcp(self) -> bool {
        matches!(self, Self::TcpSend | Self::TcpSendfile | Self::TcpZeroCopy)
    }

    /// Sends `rounds` times and until they have changed between [`MOVES`] of them, while another thread changes the bytes from one form to
    /// the other and back. How many calls succeeded, in four bytes.
    pub(super) fn run(self, to: SocketAddr, forms: (&[u8], &[u8]), rounds: usize) -> Result<Vec<u8>, Failed> {
        let (one, other) = if self.is_tcp() {
            (framed(forms.0), framed(forms.1))
        } else {
            (forms.0.to_vec(), forms.1.to_vec())
        };
        if one.len() != other.len() {
            return Err(("forms", io::ErrorKind::InvalidInput.into()));
        }
        let pages = Pages::new(&one)?;
        let (over, changes) = (AtomicBool::new(false), AtomicUsize::new(0));
        let sent = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    pages.write(&other);
                    changes.fetch_add(1, Ordering::Relaxed);
                    pages.write(&one);
                }
            });
            let end = Instant::now() + LONGEST;
            let (mut last, mut moves) = (0, 0);
            let sent = self.rounds(to, &pages, |round| {
                let now = changes.load(Ordering::Relaxed);
                moves += usize::from(now != last);
                last = now;
                !(round >= rounds && moves >= MOVES) && Instant::now() < end
            });
            over.store(true, Ordering::Relaxed);
            sent
        })?;
        Ok(u32::try_from(sent).unwrap_or(u32::MAX).to_be_bytes().to_vec())
    }

    fn rounds(
        self,
        to: SocketAddr,
        pages: &Pages,
        mut goes_on: impl FnMut(usize) -> bool,
    ) -> Result<usize, Failed> {
        let (mut sent, mut round) = (0, 0);
        let datagrams = if self.is_tcp() { None } else { Some(connected(udp(to)?, to)?) };
        while goes_on(round) {
            round += 1;
            let connection;
            let fd = if let Some(fd) = &datagrams {
                fd
            } else {
                connection = connected(tcp(to)?, to)?;
                &connection
            };
            let done = match self {
                Self::UdpSend | Self::TcpSend => sys::send(fd, pages.bytes(), 0).is_ok(),
                Self::UdpSendfile | Self::TcpSendfile => {
                    rustix::fs::sendfile(fd, &pages.file, Some(&mut 0), pages.len).is_ok()
                }
                Self::UdpRing => ring(fd, pages.bytes(), true).is_ok(),
                Self::UdpZeroCopy | Self::TcpZeroCopy => {
                    let _ = sys::set_int(fd, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
                    sys::send(fd, pages.bytes(), libc::MSG_ZEROCOPY).is_ok()
                }
            };
            sent += usize::from(done);
            if let Some(fd) = &datagrams {
                // So that the far end keeps up; nothing comes where nothing was let out.
                if done {
                    let _ = sys::receive(fd, &mut [0; 512]);
                }
            }
        }
        Ok(sent)
    }
}

/// Bytes of a file in memory, which can be changed.
struct Pages {
    file: OwnedFd,
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is written and read without any order on purpose; it is mapped as long as this lives.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(bytes: &[u8]) -> Result<Self, Failed> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("flip", flags).map_err(named("memfd_create"))?;
        rustix::io::write(&file, bytes).map_err(named("write"))?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at a place that the kernel picks.
        let start = unsafe { libc::mmap(null, bytes.len(), access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(("mmap", io::Error::last_os_error()));
        }
        Ok(Self { file, start: start.cast(), len: bytes.len() })
    }

    fn write(&self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate().take(self.len) {
            // SAFETY: within the mapping.
            unsafe { self.start.add(at).write_volatile(*byte) };
        }
    }

    /// What the kernel is handed. Nobody reads it here.
    fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping, readable for the life of `self`; only its address and length are used.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own, and nobody uses it any more.
        let _ = unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}
