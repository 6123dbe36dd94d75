//! The netlink side: requests, replies, and what can be wrong with them.

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netlink::{SOCK_DIAG, SocketAddrNetlink},
    },
    thread::LinkNameSpaceType,
};

use super::{InetSocket, Protocol, SockDiagError};

/// Larger than any datagram of a dump: the kernel fills 32 KiB at most (`netlink_dump`, af_netlink.c).
const DATAGRAM_BYTES: usize = 1 << 16;

/// How often a listing is tried that the kernel says changed under it.
const LIST_ATTEMPTS: usize = 16;

/// A netlink socket to sock_diag. It belongs to the network namespace it was made in.
pub(super) struct Diag {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How a listing ended.
#[derive(PartialEq)]
enum Dump {
    Complete,
    Interrupted,
}

impl Diag {
    pub(super) fn open(netns: Option<BorrowedFd<'_>>) -> Result<Self, SockDiagError> {
        let socket = match netns {
            None => connect()?,
            // Only the socket is made over there, by a thread that ends at once: nothing to switch back.
            Some(netns) => std::thread::scope(|scope| {
                let entered = scope.spawn(|| {
                    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                        .map_err(|errno| SockDiagError::Namespace(errno.into()))?;
                    connect()
                });
                entered.join().unwrap_or_else(|_| Err(SockDiagError::Namespace(Errno::IO.into())))
            })?,
        };
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES] })
    }

    pub(super) fn list(&mut self, protocol: Protocol) -> Result<Vec<InetSocket>, SockDiagError> {
        'attempt: for _ in 0..LIST_ATTEMPTS {
            let mut found = Vec::new();
            for family in [AF_INET, AF_INET6] {
                match self.dump(protocol, family, &mut found) {
                    Ok(Dump::Complete) => {}
                    Ok(Dump::Interrupted) => continue 'attempt,
                    // A kernel that was started without IPv6 has none of its sockets either.
                    Err(SockDiagError::NoListing(_)) if family == AF_INET6 => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(found);
        }
        Err(SockDiagError::Interrupted(LIST_ATTEMPTS))
    }

    fn dump(
        &mut self,
        protocol: Protocol,
        family: u8,
        found: &mut Vec<InetSocket>,
    ) -> Result<Dump, SockDiagError> {
        let request = request(protocol, family, SocketId::new_v4());
        let sequence = self.send(SockDiagMessage::InetRequest(request), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut dump = Dump::Complete;
        loop {
            let mut end = None;
            self.receive::<SockDiagMessage>(sequence, |header, payload| {
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    dump = Dump::Interrupted;
                }
                match payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                        found.push(InetSocket::from(*response));
                        Ok(())
                    }
                    NetlinkPayload::Done(done) => {
                        end = Some(done.code);
                        Ok(())
                    }
                    NetlinkPayload::Error(error) => {
                        end = Some(error.raw_code());
                        Ok(())
                    }
                    other => Err(unexpected(&other)),
                }
            })?;
            match end.map(i32::wrapping_neg) {
                None => {}
                Some(0) => return Ok(dump),
                Some(libc::ENOENT) => return Err(SockDiagError::NoListing(protocol)),
                Some(code) => return Err(refused("list sockets", code)),
            }
        }
    }

    /// Destroys one socket; `false` if there is none of that address and cookie.
    pub(super) fn destroy(&mut self, protocol: Protocol, socket: &InetSocket) -> Result<bool, SockDiagError> {
        let family = if socket.local.is_ipv4() { AF_INET } else { AF_INET6 };
        let request = request(protocol, family, socket.id.clone());
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        loop {
            let mut reply = None;
            self.receive::<SockDiagMessage>(sequence, |_, payload| match payload {
                NetlinkPayload::Error(error) => {
                    reply = Some(error.raw_code().wrapping_neg());
                    Ok(())
                }
                other => Err(unexpected(&other)),
            })?;
            return match reply {
                None => continue,
                Some(0) => Ok(true),
                // ESTALE: the address is there, but with another cookie.
                Some(libc::ENOENT | libc::ESTALE) => Ok(false),
                Some(libc::EPERM | libc::EACCES) => Err(SockDiagError::NotPermitted),
                Some(libc::EOPNOTSUPP) => Err(SockDiagError::NoDestroy),
                Some(code) => Err(refused("destroy a socket", code)),
            };
        }
    }

    /// Sends one request and returns the number its replies carry.
    fn send<M>(&mut self, message: M, flags: u16) -> Result<u32, SockDiagError>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, message.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::empty()))
            .map_err(|errno| netlink("send", errno))?;
        Ok(self.sequence)
    }

    /// Receives one datagram and hands over its messages that answer request `sequence`.
    fn receive<M: NetlinkDeserializable + fmt::Debug>(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(&NetlinkHeader, NetlinkPayload<M>) -> Result<(), SockDiagError>,
    ) -> Result<(), SockDiagError> {
        // With TRUNC the kernel says how long the datagram really was.
        let (_, length) = retry_on_intr(|| {
            rustix::net::recv(self.socket.as_fd(), self.buffer.as_mut_slice(), RecvFlags::TRUNC)
        })
        .map_err(|errno| netlink("recv", errno))?;
        let mut rest = self.buffer.get(..length).ok_or(SockDiagError::Truncated(length))?;
        while !rest.is_empty() {
            // Checks that the message is as long as it says, and no longer than what is left.
            let (header, payload) = NetlinkMessage::<M>::deserialize(rest)
                .map_err(|error| SockDiagError::Malformed(error.to_string()))?
                .into_parts();
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            rest = rest.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
            // What is left of an earlier request that ended in an error.
            if header.sequence_number == sequence {
                each(&header, payload)?;
            }
        }
        Ok(())
    }
}

/// A netlink socket connected to the kernel, so that no other process can put messages into it.
fn connect() -> Result<OwnedFd, SockDiagError> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(SOCK_DIAG),
    )
    .map_err(|errno| netlink("socket", errno))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))
        .map_err(|errno| netlink("connect", errno))?;
    Ok(socket)
}

/// All sockets of a protocol and family, or the one of `id`.
fn request(protocol: Protocol, family: u8, socket_id: SocketId) -> InetRequest {
    // Every state up to TCP_NEW_SYN_RECV (12); TCP_BOUND_INACTIVE (13) are sockets that never connected.
    let states = StateFlags::from_bits_retain((1 << 13) - 2);
    InetRequest {
        family,
        protocol: protocol.number(),
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    }
}

fn netlink(call: &'static str, errno: Errno) -> SockDiagError {
    SockDiagError::Netlink { call, source: errno.into() }
}

fn refused(what: &'static str, code: i32) -> SockDiagError {
    SockDiagError::Refused { what, source: io::Error::from_raw_os_error(code) }
}

fn unexpected<M: fmt::Debug>(payload: &NetlinkPayload<M>) -> SockDiagError {
    SockDiagError::Malformed(format!("unexpected {payload:?}"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use netlink_packet_core::{NLMSG_DONE, NLMSG_ERROR};
    use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;

    use super::*;

    /// A `Diag` whose kernel is the returned socket.
    fn diag() -> (Diag, OwnedFd) {
        let (near, far) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .expect("a socket pair");
        (Diag { socket: near, sequence: 0, buffer: vec![0; DATAGRAM_BYTES] }, far)
    }

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).expect("a short message");
        let header = [length.to_ne_bytes().as_slice(), &kind.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        [header.as_slice(), &sequence.to_ne_bytes(), &[0; 4], payload].concat()
    }

    fn done(flags: u16, sequence: u32) -> Vec<u8> {
        message(NLMSG_DONE, flags, sequence, &0_i32.to_ne_bytes())
    }

    fn error(sequence: u32, errno: i32) -> Vec<u8> {
        let code = (-errno).to_ne_bytes();
        message(NLMSG_ERROR, 0, sequence, &[code.as_slice(), &[0; 16]].concat())
    }

    /// `struct inet_diag_msg` of an established IPv4 socket with this local port.
    fn socket(sequence: u32, port: u16) -> Vec<u8> {
        let mut payload = [0; 72];
        payload[0] = AF_INET;
        payload[1] = 1;
        payload[4..6].copy_from_slice(&port.to_be_bytes());
        message(SOCK_DIAG_BY_FAMILY, 0, sequence, &payload)
    }

    fn reply(kernel: impl AsFd, messages: &[Vec<u8>]) {
        rustix::net::send(kernel, &messages.concat(), SendFlags::empty()).expect("it fits");
    }

    fn ports(listed: Result<Vec<InetSocket>, SockDiagError>) -> Vec<u16> {
        listed.expect("a listing").iter().map(|socket| socket.local.port()).collect()
    }

    #[test]
    fn an_interrupted_listing_starts_again() {
        let (mut diag, kernel) = diag();
        // IPv4, of which the last message says that it is not consistent; then IPv4 and IPv6 in peace.
        reply(&kernel, &[socket(1, 10), done(NLM_F_DUMP_INTR, 1)]);
        reply(&kernel, &[socket(2, 10), socket(2, 20)]);
        reply(&kernel, &[socket(2, 30), done(0, 2)]);
        reply(&kernel, &[done(0, 3)]);
        assert_eq!(ports(diag.list(Protocol::Tcp)), [10, 20, 30]);
    }

    #[test]
    fn a_listing_that_is_always_interrupted_is_an_error() {
        let (mut diag, kernel) = diag();
        let attempts = u32::try_from(LIST_ATTEMPTS).expect("few");
        reply(&kernel, &(1..=attempts).map(|n| done(NLM_F_DUMP_INTR, n)).collect::<Vec<_>>());
        // One datagram holds them all, so each attempt but the first finds nothing more to read.
        assert!(matches!(diag.list(Protocol::Tcp), Err(SockDiagError::Netlink { call: "recv", .. })));

        let (mut diag, kernel) = self::diag();
        for sequence in 1..=attempts {
            reply(&kernel, &[done(NLM_F_DUMP_INTR, sequence)]);
        }
        assert!(matches!(diag.list(Protocol::Tcp), Err(SockDiagError::Interrupted(LIST_ATTEMPTS))));
    }

    #[test]
    fn replies_to_others_are_passed_over() {
        let (mut diag, kernel) = diag();
        reply(&kernel, &[socket(7, 10), error(7, libc::EPERM), done(0, 7)]);
        reply(&kernel, &[socket(1, 20), done(0, 1)]);
        reply(&kernel, &[done(0, 2)]);
        assert_eq!(ports(diag.list(Protocol::Tcp)), [20]);
    }

    #[test]
    fn what_is_cut_off_or_broken_is_an_error() {
        let cases: [(&str, Vec<u8>); 5] = [
            ("half a header", done(0, 1)[..10].to_vec()),
            ("shorter than it says", socket(1, 10)[..60].to_vec()),
            (
                "a length of nothing",
                message(SOCK_DIAG_BY_FAMILY, 0, 1, &[])[..16].iter().map(|_| 0).collect(),
            ),
            ("half a socket", message(SOCK_DIAG_BY_FAMILY, 0, 1, &[AF_INET; 40])),
            ("a family nobody asked for", message(SOCK_DIAG_BY_FAMILY, 0, 1, &[255; 72])),
        ];
        for (what, bytes) in cases {
            let (mut diag, kernel) = diag();
            reply(&kernel, &[bytes]);
            let listed = diag.list(Protocol::Tcp);
            assert!(matches!(listed, Err(SockDiagError::Malformed(_))), "{what}: {listed:?}");
        }
        let (mut diag, kernel) = diag();
        diag.buffer.truncate(64);
        reply(&kernel, &[socket(1, 10)]);
        assert!(matches!(diag.list(Protocol::Tcp), Err(SockDiagError::Truncated(88))));
    }

    #[test]
    fn refusals_are_told_apart() {
        let list = |errno| {
            let (mut diag, kernel) = diag();
            reply(&kernel, &[error(1, errno)]);
            diag.list(Protocol::Udp)
        };
        assert!(matches!(list(libc::ENOENT), Err(SockDiagError::NoListing(Protocol::Udp))));
        assert!(matches!(list(libc::ENOMEM), Err(SockDiagError::Refused { .. })));

        let destroy = |errno| {
            let (mut diag, kernel) = diag();
            reply(&kernel, &[socket(1, 10), done(0, 1)]);
            // Without IPv6 there are no such sockets either.
            reply(&kernel, &[error(2, libc::ENOENT)]);
            let listed = diag.list(Protocol::Tcp).expect("a listing");
            reply(&kernel, &[error(3, errno)]);
            diag.destroy(Protocol::Tcp, &listed[0])
        };
        assert!(matches!(destroy(0), Ok(true)));
        assert!(matches!(destroy(libc::ENOENT), Ok(false)));
        assert!(matches!(destroy(libc::ESTALE), Ok(false)));
        assert!(matches!(destroy(libc::EPERM), Err(SockDiagError::NotPermitted)));
        assert!(matches!(destroy(libc::EOPNOTSUPP), Err(SockDiagError::NoDestroy)));
        assert!(matches!(destroy(libc::ENOMEM), Err(SockDiagError::Refused { .. })));
    }
}
