//! The witness at the far end of the wire: a packet socket that records all that comes from the agent.

use std::{
    mem::MaybeUninit,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{net, netns::Namespace, wire::Packet};
use crate::sys;

/// `ETH_P_ALL` in network byte order, as `bind(2)` wants it.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();
/// Room for what arrives while the recorder is not scheduled, bytes.
const BUFFER: i32 = 16 << 20;
/// The longest packet that a virtual wire delivers in one piece, bytes.
const LONGEST: usize = 1 << 17;

/// Records what arrives on an interface.
pub struct Sniffer {
    packets: Arc<Mutex<Vec<Packet>>>,
    socket: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sniffer {
    /// Starts on the servers' interface of `namespace`.
    ///
    /// # Errors
    /// Of the socket calls.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let socket = Arc::new(namespace.run(open)?);
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let packets = Arc::new(Mutex::new(Vec::new()));
        let (socket_in, stop_in, packets_in) = (Arc::clone(&socket), Arc::clone(&stop), Arc::clone(&packets));
        let thread = namespace.spawn("sniffer", move || record(&socket_in, &stop_in, &packets_in))?;
        Ok(Self { packets, socket, stop, thread: Some(thread) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Packet>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was recorded so far and satisfies `wanted`.
    pub fn packets(&self, wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
        self.lock().iter().filter(|packet| wanted(packet)).cloned().collect()
    }

    /// How many packets hold `needle`, anywhere, whatever they are.
    pub fn carrying(&self, needle: &[u8]) -> usize {
        self.lock().iter().filter(|packet| packet.holds(needle)).count()
    }

    /// Packets to an address and, unless `port` is 0, a port; without the link's housekeeping.
    pub fn to(&self, ip: IpAddr, port: u16) -> Vec<Packet> {
        self.packets(|packet| {
            packet.header.is_some_and(|header| header.destination == ip && (port == 0 || header.port == port))
                && !packet.is_housekeeping()
        })
    }

    /// Fails if packets were lost: a witness with gaps proves no absence.
    ///
    /// # Errors
    /// If any was.
    pub fn ensure_complete(&self) -> Result<()> {
        // struct tpacket_stats: packets seen, packets dropped.
        let mut stats = [0_u32; 2];
        let mut len = libc::socklen_t::try_from(size_of_val(&stats))?;
        // SAFETY: `stats` is writable for `len` bytes.
        sys::check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut len,
            )
        })?;
        ensure!(stats[1] == 0, "the sniffer lost {} packets", stats[1]);
        Ok(())
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open() -> Result<OwnedFd> {
    let socket =
        sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_NONBLOCK, 0).context("sniffer")?;
    sys::set_int(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
    let index = net::interface(net::SERVER_INTERFACE)?;
    let mut addr = u16::try_from(libc::AF_PACKET)?.to_ne_bytes().to_vec();
    addr.extend_from_slice(&ALL_PROTOCOLS.to_ne_bytes());
    addr.extend_from_slice(&index.to_ne_bytes());
    addr.extend_from_slice(&[0; 12]);
    sys::bind(&socket, sys::RawAddr::from_bytes(&addr))?;
    Ok(socket)
}

fn record(socket: &OwnedFd, stop: &OwnedFd, packets: &Mutex<Vec<Packet>>) -> Result<()> {
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut events = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        poll(&mut events, None)?;
        while let Some((length, outgoing)) = receive(socket, &mut buffer)? {
            if !outgoing {
                let packet = Packet::new(buffer[..length].to_vec());
                packets.lock().unwrap_or_else(PoisonError::into_inner).push(packet);
            }
        }
        if !events[1].revents().is_empty() {
            return Ok(());
        }
    }
}

/// The next packet's length and whether the servers sent it; `None` if there is none.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, bool)>> {
    // SAFETY: all-zero bytes are a valid sockaddr_ll.
    let mut from: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
    let mut len = libc::socklen_t::try_from(size_of_val(&from))?;
    // SAFETY: buffer and address are writable for the lengths given.
    let got = sys::check(unsafe {
        libc::recvfrom(
            socket.as_fd().as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC,
            (&raw mut from).cast(),
            &raw mut len,
        )
    });
    match got {
        Ok(got) => {
            let length = got.unsigned_abs();
            ensure!(length <= buffer.len(), "a packet of {length} bytes does not fit");
            Ok(Some((length, from.sll_pkttype == libc::PACKET_OUTGOING)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error).context("sniffer"),
    }
}
