//! What a flow speaks, and which of its bytes detectors are shown: the same of the kernel's samples and of captures.

use super::{
    app::{self, App},
    dns::framing::Framer,
    event::{Body, Chunk, Datagram, Direction, Dns, Message, Transport},
};

/// Bytes of an encrypted stream that are looked at, each way.
const HEAD: u64 = 4096;
/// Segments and datagrams of a flow in which its protocol is looked for.
const TRIES: u8 = 8;
/// Port of DNS (RFC 1035, 4.2): what goes there is read as DNS, whatever it is.
const DNS: u16 = 53;

/// Where what a flow carries is handed to.
pub type See<'s> = &'s mut dyn FnMut(Body<'_>);

/// What is known of one flow. Holds at most one DNS message each way, 64 KiB, and only of DNS over a stream.
#[derive(Debug, Default)]
pub struct Dissector {
    /// What it speaks, if that can be told.
    pub app: Option<App>,
    /// Times it was tried to tell.
    tries: u8,
    framers: Option<Box<[Framer; 2]>>,
}

impl Dissector {
    /// Takes bytes of a stream, in order, of which `server` is the server's port.
    pub fn chunk(&mut self, server: u16, chunk: Chunk<'_>, see: See<'_>) {
        // It may not have been seen from its beginning: records of TLS say what they are at each.
        if self.app.is_none() && self.tries < TRIES {
            self.tries += 1;
            self.app = app::of_stream(chunk.bytes, server);
        }
        if self.app == Some(App::Dns) || server == DNS {
            let [out, back] = &mut **self.framers.get_or_insert_default();
            let framer = match chunk.direction {
                Direction::Egress => out,
                Direction::Ingress => back,
            };
            framer.push(chunk.bytes, chunk.gap, |message| {
                see(dns(chunk.direction, Transport::Tcp, message));
            });
            return;
        }
        if !self.app.is_some_and(App::is_encrypted) || chunk.offset < HEAD {
            see(Body::Chunk(chunk));
        }
    }

    /// Takes a datagram between these ports.
    pub fn datagram(&mut self, client: u16, server: u16, datagram: Datagram<'_>, see: See<'_>) {
        if self.app.is_none() && self.tries < TRIES {
            self.tries += 1;
            self.app = app::of_datagram(datagram.bytes, client.min(server), client.max(server));
        }
        let is_dns = server == DNS || matches!(self.app, Some(App::Dns | App::Mdns));
        see(if is_dns {
            dns(datagram.direction, Transport::Udp, datagram.bytes)
        } else {
            Body::Datagram(datagram)
        });
    }
}

fn dns(direction: Direction, transport: Transport, message: &[u8]) -> Body<'_> {
    Body::Dns(Dns { direction, transport, message: Message::Wire(message) })
}
