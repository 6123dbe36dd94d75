//! The socket calls that attacks need and that no safe library offers: any family, any option, any flag.
//!
//! Everything here is a thin, checked wrapper of one system call.

use std::{
    fs::File,
    io::{self, Result},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use libc::{c_int, c_void, socklen_t};

/// How long a receiving call may wait: a packet that is dropped must not stall a test.
pub const PATIENCE: Duration = Duration::from_millis(700);

/// How long a connecting or sending call may wait: longer than it takes to repeat a SYN, one second (RFC 6298, 2).
/// A flood of the test beside this one may have cost the first.
const PATIENCE_SENDING: Duration = Duration::from_millis(2500);

/// Turns the result of a call into what Rust expects.
///
/// # Errors
/// `errno` if `result` is negative.
pub fn check<T: PartialOrd + Default>(result: T) -> Result<T> {
    if result < T::default() { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A socket address in the form the kernel reads.
#[derive(Clone, Copy)]
pub struct RawAddr {
    bytes: [u8; size_of::<libc::sockaddr_storage>()],
    len: socklen_t,
}

impl RawAddr {
    /// `AF_UNSPEC`: dissolves an association.
    pub fn unspecified() -> Self {
        Self { bytes: [0; _], len: 16 }
    }

    /// An address of `AF_UNIX` with this `sun_path`, cut to its room.
    pub fn unix(name: &[u8]) -> Self {
        let family = u16::try_from(libc::AF_UNIX).unwrap_or_default().to_ne_bytes();
        Self::from_bytes(&[family.as_slice(), name].concat())
    }

    /// The address as its bytes in memory.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut raw = Self { bytes: [0; _], len: len_of(bytes.len()) };
        raw.bytes[..bytes.len()].copy_from_slice(bytes);
        raw
    }

    /// Pointer and length, valid as long as `self` stays where it is.
    pub fn parts(&self) -> (*const libc::sockaddr, socklen_t) {
        (self.as_ptr(), self.len)
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        self.bytes.as_ptr().cast()
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> Self {
        let mut bytes = Vec::with_capacity(28);
        let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        bytes.extend_from_slice(&u16::try_from(family).unwrap_or_default().to_ne_bytes());
        bytes.extend_from_slice(&addr.port().to_be_bytes());
        match addr {
            SocketAddr::V4(v4) => {
                bytes.extend_from_slice(&v4.ip().octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            SocketAddr::V6(v6) => {
                bytes.extend_from_slice(&v6.flowinfo().to_be_bytes());
                bytes.extend_from_slice(&v6.ip().octets());
                bytes.extend_from_slice(&v6.scope_id().to_ne_bytes());
            }
        }
        Self::from_bytes(&bytes)
    }
}

fn len_of(bytes: usize) -> socklen_t {
    socklen_t::try_from(bytes).unwrap_or(socklen_t::MAX)
}

/// The family of an address, `AF_INET` or `AF_INET6`.
pub fn family(addr: SocketAddr) -> c_int {
    if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// The IP level of an address for `setsockopt`, `IPPROTO_IP` or `IPPROTO_IPV6`.
pub fn ip_level(addr: SocketAddr) -> c_int {
    if addr.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

/// The same endpoint as an IPv4-mapped IPv6 address; IPv6 stays what it is.
pub fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), addr.port()).into(),
        IpAddr::V6(_) => addr,
    }
}

/// `socket(2)`, close-on-exec, with `SO_RCVTIMEO` of [`PATIENCE`], and a `SO_SNDTIMEO`.
///
/// # Errors
/// As the call.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<OwnedFd> {
    // SAFETY: socket(2) takes integers only.
    let fd = check(unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) })?;
    // SAFETY: the kernel has just given us this descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_timeout(&fd, libc::SO_SNDTIMEO, PATIENCE_SENDING)?;
    set_timeout(&fd, libc::SO_RCVTIMEO, PATIENCE)?;
    Ok(fd)
}

fn set_timeout(fd: &impl AsFd, option: c_int, limit: Duration) -> Result<()> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&limit.as_secs().to_ne_bytes());
    bytes[8..].copy_from_slice(&u64::from(limit.subsec_micros()).to_ne_bytes());
    set(fd, libc::SOL_SOCKET, option, &bytes)
}

/// `setsockopt(2)`.
///
/// # Errors
/// As the call.
pub fn set(fd: &impl AsFd, level: c_int, option: c_int, value: &[u8]) -> Result<()> {
    let (fd, len) = (fd.as_fd().as_raw_fd(), len_of(value.len()));
    // SAFETY: `value` is readable for `len` bytes during the call.
    check(unsafe { libc::setsockopt(fd, level, option, value.as_ptr().cast(), len) }).map(drop)
}

/// `setsockopt(2)` of an integer.
///
/// # Errors
/// As the call.
pub fn set_int(fd: &impl AsFd, level: c_int, option: c_int, value: c_int) -> Result<()> {
    set(fd, level, option, &value.to_ne_bytes())
}

/// `bind(2)`.
///
/// # Errors
/// As the call.
pub fn bind(fd: &impl AsFd, addr: impl Into<RawAddr>) -> Result<()> {
    let addr = addr.into();
    // SAFETY: the address is readable for `len` bytes during the call.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), addr.as_ptr(), addr.len) }).map(drop)
}

/// `listen(2)`.
///
/// # Errors
/// As the call.
pub fn listen(fd: &impl AsFd) -> Result<()> {
    // SAFETY: listen(2) takes integers only.
    check(unsafe { libc::listen(fd.as_fd().as_raw_fd(), 16) }).map(drop)
}

/// `accept4(2)`.
///
/// # Errors
/// As the call.
pub fn accept(fd: &impl AsFd) -> Result<OwnedFd> {
    let null = std::ptr::null_mut();
    // SAFETY: null pointers say that the peer's address is not wanted.
    let fd = check(unsafe { libc::accept4(fd.as_fd().as_raw_fd(), null, null.cast(), libc::SOCK_CLOEXEC) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `connect(2)`.
///
/// # Errors
/// As the call.
pub fn connect(fd: &impl AsFd, addr: impl Into<RawAddr>) -> Result<()> {
    let addr = addr.into();
    // SAFETY: the address is readable for `len` bytes during the call.
    check(unsafe { libc::connect(fd.as_fd().as_raw_fd(), addr.as_ptr(), addr.len) }).map(drop)
}

/// The socket's own address.
///
/// # Errors
/// As `getsockname(2)`; `InvalidData` for a family other than IPv4 and IPv6.
pub fn local_addr(fd: &impl AsFd) -> Result<SocketAddr> {
    let addr = rustix::net::getsockname(fd)?;
    SocketAddr::try_from(addr).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `send(2)`, `SIGPIPE` suppressed; the bytes that were taken.
///
/// # Errors
/// As the call.
pub fn send(fd: &impl AsFd, data: &[u8], flags: c_int) -> Result<usize> {
    let (fd, flags) = (fd.as_fd().as_raw_fd(), flags | libc::MSG_NOSIGNAL);
    // SAFETY: `data` is readable for its length during the call.
    let sent = check(unsafe { libc::send(fd, data.as_ptr().cast(), data.len(), flags) })?;
    Ok(sent.unsigned_abs())
}

/// `sendto(2)`, `SIGPIPE` suppressed; the bytes that were taken.
///
/// # Errors
/// As the call.
pub fn send_to(fd: &impl AsFd, data: &[u8], flags: c_int, addr: impl Into<RawAddr>) -> Result<usize> {
    let (fd, flags, addr) = (fd.as_fd().as_raw_fd(), flags | libc::MSG_NOSIGNAL, addr.into());
    // SAFETY: `data` and the address are readable for their lengths during the call.
    let sent =
        check(unsafe { libc::sendto(fd, data.as_ptr().cast(), data.len(), flags, addr.as_ptr(), addr.len) })?;
    Ok(sent.unsigned_abs())
}

/// One control message as `sendmsg(2)` reads it.
pub fn control(level: c_int, kind: c_int, data: &[u8]) -> Vec<u8> {
    let header = size_of::<libc::cmsghdr>();
    let mut bytes = Vec::with_capacity(header + data.len() + 8);
    bytes.extend_from_slice(&(header + data.len()).to_ne_bytes());
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    bytes
}

/// What `sendmsg(2)` takes, kept alive together.
pub struct Message<'a> {
    addr: Option<RawAddr>,
    data: &'a [u8],
    // Whole words: the kernel reads control messages as aligned structures.
    control: Vec<usize>,
    control_len: usize,
}

impl<'a> Message<'a> {
    /// A message with control messages made by [`control`].
    pub fn new(addr: Option<RawAddr>, data: &'a [u8], control: &[u8]) -> Self {
        let words = control.chunks(size_of::<usize>()).map(|chunk| {
            let mut word = [0; size_of::<usize>()];
            word[..chunk.len()].copy_from_slice(chunk);
            usize::from_ne_bytes(word)
        });
        Self { addr, data, control: words.collect(), control_len: control.len() }
    }

    /// Calls `body` with the header, which points into `self`.
    pub fn with_header<T>(&self, body: impl FnOnce(&libc::msghdr) -> T) -> T {
        let data: *const u8 = self.data.as_ptr();
        let mut part = libc::iovec { iov_base: data.cast_mut().cast::<c_void>(), iov_len: self.data.len() };
        // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(addr) = &self.addr {
            header.msg_name = addr.as_ptr().cast_mut().cast();
            header.msg_namelen = addr.len;
        }
        if self.control_len > 0 {
            header.msg_control = self.control.as_ptr().cast_mut().cast();
            header.msg_controllen = self.control_len as _;
        }
        body(&header)
    }
}

/// `sendmsg(2)`, `SIGPIPE` suppressed; the bytes that were taken.
///
/// # Errors
/// As the call.
pub fn send_message(fd: &impl AsFd, message: &Message<'_>, flags: c_int) -> Result<usize> {
    let (fd, flags) = (fd.as_fd().as_raw_fd(), flags | libc::MSG_NOSIGNAL);
    message.with_header(|header| {
        // SAFETY: the header and all it points to live until the call returns.
        let sent = check(unsafe { libc::sendmsg(fd, header, flags) })?;
        Ok(sent.unsigned_abs())
    })
}

/// `sendmmsg(2)` of several messages; how many were taken.
///
/// # Errors
/// As the call.
pub fn send_messages(fd: &impl AsFd, messages: &[Message<'_>]) -> Result<usize> {
    fn collect(fd: RawFd, messages: &[Message<'_>], headers: &mut Vec<libc::mmsghdr>) -> Result<usize> {
        let Some((first, rest)) = messages.split_first() else {
            let count = libc::c_uint::try_from(headers.len()).unwrap_or(libc::c_uint::MAX);
            // SAFETY: `count` headers, each pointing to what the callers up the stack keep alive.
            let sent = check(unsafe { libc::sendmmsg(fd, headers.as_mut_ptr(), count, libc::MSG_NOSIGNAL) })?;
            return Ok(sent.unsigned_abs() as usize);
        };
        first.with_header(|header| {
            headers.push(libc::mmsghdr { msg_hdr: *header, msg_len: 0 });
            collect(fd, rest, headers)
        })
    }
    collect(fd.as_fd().as_raw_fd(), messages, &mut Vec::new())
}

/// The device that makes TUN interfaces.
///
/// # Errors
/// As `open(2)`.
pub fn tun_open() -> Result<File> {
    File::options().read(true).write(true).open("/dev/net/tun")
}

/// `TUNSETIFF`: takes the TUN interface `name`, or makes it.
///
/// # Errors
/// As `ioctl(2)`; `InvalidInput` if the name is too long.
pub fn tun_attach(device: &File, name: &str) -> Result<()> {
    // struct ifreq: a name that ends in NUL, then the flags; the rest is not read.
    let mut request = [0_u8; 40];
    let Some(place) =
        request.get_mut(..name.len().min(libc::IFNAMSIZ - 1)).filter(|place| place.len() == name.len())
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    place.copy_from_slice(name.as_bytes());
    let flags = u16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap_or_default();
    request[libc::IFNAMSIZ..][..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the request is as long as a struct ifreq and lives until the call returns.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, request.as_mut_ptr()) }).map(drop)
}

/// `TUNSETOWNER` and `TUNSETPERSIST`: the interface stays, and `owner` may take it without privilege.
///
/// # Errors
/// As `ioctl(2)`.
pub fn tun_keep(device: &File, owner: u32) -> Result<()> {
    let owner = libc::c_ulong::from(owner);
    // SAFETY: both requests take an integer.
    unsafe {
        check(libc::ioctl(device.as_raw_fd(), libc::TUNSETOWNER as _, owner))?;
        check(libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as _, 1)).map(drop)
    }
}

/// `recv(2)`; the bytes received, 0 at the end of the stream.
///
/// # Errors
/// As the call; `WouldBlock` after [`PATIENCE`].
pub fn receive(fd: &impl AsFd, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: `buffer` is writable for its length during the call.
    let got =
        check(unsafe { libc::recv(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })?;
    Ok(got.unsigned_abs())
}
