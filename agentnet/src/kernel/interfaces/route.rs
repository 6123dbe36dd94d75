//! rtnetlink(7): one request at a time, and what a multicast group tells.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::{
    io::{Errno, retry_on_intr},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink},
    thread::LinkNameSpaceType,
};

use super::InterfaceError;

/// Larger than any datagram of the kernel's (`netlink_dump`, af_netlink.c).
const DATAGRAM_BYTES: usize = 1 << 16;
/// How often a listing is tried that the kernel says changed under it.
const ATTEMPTS: usize = 16;

/// A route netlink socket. It belongs to the network namespace it was made in.
pub(super) struct Route {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsRawFd for Route {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// How a reply ended.
enum End {
    Complete,
    Interrupted,
}

impl Route {
    /// A socket in `netns`, or in the calling thread's namespace. With `groups` it hears of them and does
    /// not block.
    pub(super) fn open(netns: Option<BorrowedFd<'_>>, groups: u32) -> Result<Self, InterfaceError> {
        let socket = match netns {
            None => connect(groups)?,
            // Only the socket is made over there, by a thread that ends at once: nothing to switch back.
            Some(netns) => std::thread::scope(|scope| {
                let entered = scope.spawn(|| {
                    rustix::thread::move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                        .map_err(|errno| InterfaceError::Namespace(errno.into()))?;
                    connect(groups)
                });
                entered.join().unwrap_or_else(|_| Err(InterfaceError::Namespace(Errno::IO.into())))
            })?,
        };
        Ok(Self { socket, sequence: 0, buffer: vec![0; DATAGRAM_BYTES] })
    }

    /// The cookie of the network namespace that the socket belongs to (`SO_NETNS_COOKIE`, since Linux 5.14).
    pub(super) fn cookie(&self) -> Result<u64, InterfaceError> {
        let mut cookie = 0_u64;
        let call = "getsockopt(SO_NETNS_COOKIE)";
        let failed = |source| InterfaceError::Netlink { call, source };
        let mut len = libc::socklen_t::try_from(size_of_val(&cookie))
            .map_err(|error| failed(io::Error::other(error)))?;
        // SAFETY: the value has the length given, and the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut len,
            )
        };
        if result == 0 { Ok(cookie) } else { Err(failed(io::Error::last_os_error())) }
    }

    /// Sends a request and gathers what `pick` takes from the replies.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        flags: u16,
        request: impl Fn() -> RouteNetlinkMessage,
        pick: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, InterfaceError> {
        for _ in 0..ATTEMPTS {
            self.send(flags, request())?;
            let mut found = Vec::new();
            if let End::Complete = self.replies(what, &pick, &mut found)? {
                return Ok(found);
            }
        }
        Err(InterfaceError::Interrupted(ATTEMPTS))
    }

    fn send(&mut self, flags: u16, message: RouteNetlinkMessage) -> Result<(), InterfaceError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        retry_on_intr(|| rustix::net::send(&self.socket, &bytes, SendFlags::empty()))
            .map_err(|errno| InterfaceError::Netlink { call: "send", source: errno.into() })?;
        Ok(())
    }

    fn replies<T>(
        &mut self,
        what: &'static str,
        pick: &impl Fn(RouteNetlinkMessage) -> Option<T>,
        found: &mut Vec<T>,
    ) -> Result<End, InterfaceError> {
        let mut end = End::Complete;
        loop {
            let length = self
                .receive()
                .map_err(|errno| InterfaceError::Netlink { call: "recv", source: errno.into() })?;
            let datagram = self.buffer.get(..length).ok_or(InterfaceError::Truncated(length))?;
            for message in messages(datagram) {
                let (header, payload) = message?.into_parts();
                // What is left of an earlier request that ended in an error.
                if header.sequence_number != self.sequence {
                    continue;
                }
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    end = End::Interrupted;
                }
                let code = match payload {
                    NetlinkPayload::InnerMessage(message) => {
                        found.extend(pick(message));
                        continue;
                    }
                    NetlinkPayload::Done(done) => done.code,
                    NetlinkPayload::Error(error) => error.raw_code(),
                    other => return Err(InterfaceError::Malformed(format!("unexpected {other:?}"))),
                };
                if code != 0 {
                    let source = std::io::Error::from_raw_os_error(code.wrapping_neg());
                    return Err(InterfaceError::Refused { what, source });
                }
                return Ok(end);
            }
        }
    }

    /// Receives one datagram; its length, which with TRUNC is what it really was.
    fn receive(&mut self) -> Result<usize, Errno> {
        let received = retry_on_intr(|| {
            rustix::net::recv(self.socket.as_fd(), self.buffer.as_mut_slice(), RecvFlags::TRUNC)
        });
        received.map(|(_, length)| length)
    }

    /// What the groups tell; `AGAIN` if there is nothing, `NOBUFS` if something was lost, `BADMSG` if it cannot
    /// be understood.
    pub(super) fn news(&mut self) -> Result<Vec<RouteNetlinkMessage>, Errno> {
        let length = self.receive()?;
        let datagram = self.buffer.get(..length).ok_or(Errno::BADMSG)?;
        let mut news = Vec::new();
        for message in messages(datagram) {
            if let NetlinkPayload::InnerMessage(message) = message.map_err(|_| Errno::BADMSG)?.payload {
                news.push(message);
            }
        }
        Ok(news)
    }
}

type Message = Result<NetlinkMessage<RouteNetlinkMessage>, InterfaceError>;

/// The messages of a datagram, up to the first that cannot be read.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        // Checks that the message is as long as it says, and no longer than what is left.
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest);
        let length = message
            .as_ref()
            .map_or(rest.len(), |message| usize::try_from(message.header.length).unwrap_or(usize::MAX));
        rest = rest.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
        Some(message.map_err(|error| InterfaceError::Malformed(error.to_string())))
    })
}

/// A netlink socket connected to the kernel, so that no other process can put messages into it.
fn connect(groups: u32) -> Result<OwnedFd, InterfaceError> {
    let failed = |call| move |errno: Errno| InterfaceError::Netlink { call, source: errno.into() };
    let mut flags = SocketFlags::CLOEXEC;
    if groups != 0 {
        flags |= SocketFlags::NONBLOCK;
    }
    // Protocol 0 is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
        .map_err(failed("socket"))?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups)).map_err(failed("bind"))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0)).map_err(failed("connect"))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Vec<u8> {
        let message = RouteNetlinkMessage::NewLink(netlink_packet_route::link::LinkMessage::default());
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_broken_ends_a_datagram() {
        let whole = link();
        assert_eq!(messages(&[whole.clone(), whole.clone()].concat()).filter(Result::is_ok).count(), 2);
        for broken in [&whole[..10], &whole[..20], &[0; 16], &[0xff; 40]] {
            let datagram = [&whole, broken].concat();
            let read: Vec<_> = messages(&datagram).collect();
            assert!(matches!(read.as_slice(), [Ok(_), Err(InterfaceError::Malformed(_))]), "{read:?}");
        }
    }
}
