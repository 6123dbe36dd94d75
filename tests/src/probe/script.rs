//! A script of steps in one process: asks resolvers, connects, sends. What came of each is told in a line.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{dns::Attack, stream::Stream, ways};
use crate::sys::{self, RawAddr};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(1500);

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Sends a datagram from the script's socket, and waits for one from there.
    Ask {
        /// Where to.
        to: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// Sends a datagram and waits for nothing.
    Tell {
        /// Where to.
        to: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// The same from a socket of its own that is connected.
    TellConnected {
        /// Where to.
        to: SocketAddr,
        /// The message.
        message: Vec<u8>,
    },
    /// Sends over a new connection, in these parts, and reads until `expect` bytes are there.
    Stream {
        /// Where to.
        to: SocketAddr,
        /// What is written, each part with a call of its own.
        parts: Vec<Vec<u8>>,
        /// Bytes to wait for.
        expect: usize,
    },
    /// Connects, writes, and reads the echo.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// What is written.
        text: String,
    },
    /// Begins to connect, and waits for nothing: it is refused or not.
    Touch {
        /// Where to.
        to: SocketAddr,
    },
    /// Connects or sends to a Unix socket, and waits for nothing.
    Unix {
        /// `SOCK_*`.
        kind: i32,
        /// Whether a datagram is sent without connecting.
        send: bool,
        /// `sun_path` as it is handed to the kernel.
        name: Vec<u8>,
        /// What is written.
        text: String,
    },
    /// See [`Attack`].
    Attack(Attack),
    /// See [`Stream`].
    Trick(Stream),
    /// Goes into a directory.
    Enter(PathBuf),
    /// Lets go of the script's socket: the next step gets another one.
    Renew,
    /// Waits for a line of input, after having said so.
    Wait,
}

/// What came of a step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// The call that failed; empty if none did.
    pub step: String,
    /// Its `errno`, 0 if there is none.
    pub errno: i32,
    /// What came back.
    pub back: Vec<u8>,
}

impl Came {
    /// Whether nothing failed.
    pub fn is_ok(&self) -> bool {
        self.step.is_empty()
    }
}

/// Runs the steps and prints a line for each.
///
/// # Errors
/// If output cannot be written, or there is no input to wait for.
pub fn run(steps: &[Step]) -> io::Result<()> {
    let mut sockets = (None, None);
    let mut output = io::stdout();
    for step in steps {
        let came = match one(step, &mut sockets) {
            Ok(back) => Came { back, ..Came::default() },
            Err((step, error)) => Came {
                step: step.to_owned(),
                errno: error.raw_os_error().unwrap_or(0),
                back: error.to_string().into_bytes(),
            },
        };
        serde_json::to_writer(&mut output, &came)?;
        writeln!(output)?;
        output.flush()?;
        if matches!(step, Step::Wait) {
            io::stdin().read_line(&mut String::new())?;
        }
    }
    Ok(())
}

/// The call that failed, and why.
pub(super) type Failed = (&'static str, io::Error);

fn one(step: &Step, sockets: &mut (Option<UdpSocket>, Option<UdpSocket>)) -> Result<Vec<u8>, Failed> {
    match step {
        Step::Ask { to, message } => {
            let socket = socket(to, sockets)?;
            socket.send_to(message, to).map_err(|error| ("sendto", error))?;
            let mut buffer = vec![0; 1 << 16];
            let (length, _) = socket.recv_from(&mut buffer).map_err(|error| ("recvfrom", error))?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Step::Tell { to, message } => {
            socket(to, sockets)?.send_to(message, to).map_err(|error| ("sendto", error))?;
            Ok(Vec::new())
        }
        Step::TellConnected { to, message } => {
            let fd = ways::connected(ways::udp(*to)?, *to)?;
            sys::send(&fd, message, 0).map(|_| Vec::new()).map_err(|error| ("send", error))
        }
        Step::Stream { to, parts, expect } => {
            let mut stream = connect(to)?;
            stream.set_nodelay(true).map_err(|error| ("setsockopt", error))?;
            for part in parts {
                stream.write_all(part).map_err(|error| ("write", error))?;
            }
            let mut back = vec![0; *expect];
            stream.read_exact(&mut back).map_err(|error| ("read", error))?;
            Ok(back)
        }
        Step::Connect { to, text } => {
            let mut stream = connect(to)?;
            stream.write_all(text.as_bytes()).map_err(|error| ("write", error))?;
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).map_err(|error| ("read", error))?;
            Ok(back)
        }
        Step::Touch { to } => {
            let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK;
            let fd =
                sys::socket(sys::family(*to), kind, libc::IPPROTO_TCP).map_err(|error| ("socket", error))?;
            match sys::connect(&fd, *to) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(("connect", error)),
                _ => Ok(Vec::new()),
            }
        }
        Step::Unix { kind, send, name, text } => {
            let fd = sys::socket(libc::AF_UNIX, *kind, 0).map_err(|error| ("socket", error))?;
            let to = RawAddr::unix(name);
            if *send {
                return sys::send_to(&fd, text.as_bytes(), 0, to)
                    .map(|_| Vec::new())
                    .map_err(|error| ("sendto", error));
            }
            sys::connect(&fd, to).map_err(|error| ("connect", error))?;
            sys::send(&fd, text.as_bytes(), 0).map(|_| Vec::new()).map_err(|error| ("send", error))
        }
        Step::Attack(attack) => attack.run(sockets),
        Step::Trick(stream) => stream.run(),
        Step::Enter(directory) => {
            std::env::set_current_dir(directory).map(|()| Vec::new()).map_err(|error| ("chdir", error))
        }
        Step::Renew => {
            *sockets = (None, None);
            Ok(Vec::new())
        }
        Step::Wait => Ok(Vec::new()),
    }
}

fn connect(to: &SocketAddr) -> Result<TcpStream, Failed> {
    let stream = TcpStream::connect_timeout(to, PATIENCE).map_err(|error| ("connect", error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| ("setsockopt", error))?;
    Ok(stream)
}

fn socket<'a>(
    to: &SocketAddr,
    (v4, v6): &'a mut (Option<UdpSocket>, Option<UdpSocket>),
) -> Result<&'a UdpSocket, Failed> {
    let (place, any) = match to {
        SocketAddr::V4(_) => (v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        SocketAddr::V6(_) => (v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
    };
    if place.is_none() {
        let socket = UdpSocket::bind(any).map_err(|error| ("bind", error))?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(|error| ("setsockopt", error))?;
        *place = Some(socket);
    }
    place.as_ref().ok_or_else(|| ("bind", io::ErrorKind::NotFound.into()))
}
