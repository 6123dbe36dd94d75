//! Clients that want something of the agent.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{net::Family, netns::Namespace, server::Transport};

/// What is sent and is to come back.
const GREETING: &[u8] = b"hello agent";
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends a greeting from `namespace` to an echo server and waits for it to come back. Whether it did.
///
/// # Errors
/// If the client itself cannot work.
pub fn is_answered(namespace: &Namespace, to: SocketAddr, transport: Transport) -> Result<bool> {
    namespace.run(|| {
        let answer = match transport {
            Transport::Tcp => over_tcp(to),
            Transport::Udp => over_udp(to)?,
        };
        match answer {
            Ok(answer) => {
                ensure!(answer == GREETING, "{to} answered {answer:?}");
                Ok(true)
            }
            // Refused, unreachable or silent: no answer.
            Err(_) => Ok(false),
        }
    })
}

fn over_tcp(to: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(GREETING)?;
    let mut answer = vec![0; GREETING.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn over_udp(to: SocketAddr) -> Result<std::io::Result<Vec<u8>>> {
    let socket = UdpSocket::bind((Family::of(to.ip()).unspecified(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut answer = vec![0; 64];
    let length = socket.send_to(GREETING, to).and_then(|_| socket.recv(&mut answer));
    Ok(length.map(|length| {
        answer.truncate(length);
        answer
    }))
}
