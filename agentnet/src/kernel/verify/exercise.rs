//! Traffic that runs every program: own listeners on loopback, both families, TCP and UDP, and a Unix socket.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

/// Connections and datagrams for each family.
const ROUNDS: usize = 500;
/// Small messages on one connection: what an established flow costs.
const MESSAGES: usize = 20;

/// The directory in which Unix sockets are open.
pub(super) const DOORS: &str = "/tmp/";

/// Makes the traffic in this process, which is already governed.
///
/// # Errors
/// When a socket fails: the policy allows all of this.
pub fn exercise() -> io::Result<()> {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let any_port = SocketAddr::new(address, 0);
        tcp(&TcpListener::bind(any_port)?)?;
        udp(&UdpSocket::bind(any_port)?, &UdpSocket::bind(any_port)?)?;
    }
    let path = PathBuf::from(format!("{DOORS}agentnet-verify-{}.sock", std::process::id()));
    let result = unix(&path);
    fs::remove_file(&path)?;
    result
}

fn unix(path: &Path) -> io::Result<()> {
    let server = UnixDatagram::bind(path)?;
    let mut byte = [0];
    for _ in 0..ROUNDS {
        let client = UnixDatagram::unbound()?;
        client.send_to(b"x", path)?;
        client.connect(path)?;
        server.recv(&mut byte)?;
    }
    Ok(())
}

fn tcp(listener: &TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    for _ in 0..ROUNDS {
        let mut client = TcpStream::connect(address)?;
        client.set_nodelay(true)?;
        let (mut server, _) = listener.accept()?;
        let mut byte = [0];
        for _ in 0..MESSAGES {
            client.write_all(b"x")?;
            server.read_exact(&mut byte)?;
            server.write_all(&byte)?;
            client.read_exact(&mut byte)?;
        }
    }
    Ok(())
}

fn udp(client: &UdpSocket, server: &UdpSocket) -> io::Result<()> {
    let address = server.local_addr()?;
    let mut byte = [0];
    for _ in 0..ROUNDS {
        client.send_to(b"x", address)?;
        let (_, from) = server.recv_from(&mut byte)?;
        server.send_to(&byte, from)?;
        client.recv_from(&mut byte)?;
    }
    Ok(())
}
