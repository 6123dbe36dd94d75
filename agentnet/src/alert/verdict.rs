//! What a verdict of the kernel says, in the terms of alerts.

use std::net::{IpAddr, SocketAddr};

use agentnet_common::{
    abi,
    addr::{Addr, Endpoint, protocol},
    event::{Hook, Outcome},
    user::VerdictRecord,
    verdict::Reason,
};

use super::{
    community::community_id,
    door::UnixSocket,
    model::{Destination, Direction, Process, VerdictEvidence},
    names::{Socket, SocketOption, protocol_name},
    query,
    text::{MAX_COMM, MAX_SENTENCE, clean},
};

/// Who did it, if the kernel knew.
pub(super) fn process(verdict: &VerdictRecord, executable: Option<&str>) -> Option<Process> {
    who(&verdict.event.process, executable)
}

/// A process of the kernel's, if it knew one.
pub(crate) fn who(process: &abi::Process, executable: Option<&str>) -> Option<Process> {
    (process.pid != 0).then(|| Process {
        pid: process.pid,
        comm: clean(&process.comm_text(), MAX_COMM),
        exe: executable.map(str::to_owned),
        uid: process.uid,
    })
}

/// The far end; `None` where the hook knows of none.
pub(super) fn destination(verdict: &VerdictRecord) -> Option<Destination> {
    far_end(&verdict.event.endpoint)
}

/// An endpoint of the kernel's, if it knew one.
pub(super) fn far_end(endpoint: &Endpoint) -> Option<Destination> {
    let unknown = endpoint.addr == Addr::UNSPECIFIED && endpoint.port == 0;
    (!unknown).then(|| Destination {
        ip: endpoint.addr.into(),
        port: (endpoint.port != 0 && has_ports(endpoint.protocol)).then_some(endpoint.port),
        protocol: protocol_name(endpoint.protocol),
        domain: None,
    })
}

/// Whether the port of an endpoint means something.
const fn has_ports(number: u8) -> bool {
    matches!(number, protocol::TCP | protocol::UDP | DCCP | SCTP | UDP_LITE)
}

/// DCCP (RFC 4340), SCTP (RFC 9260) and UDP-Lite (RFC 3828).
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// The local end; `None` where the hook knows of none.
fn local(verdict: &VerdictRecord) -> Option<SocketAddr> {
    let event = &verdict.event;
    let ip = IpAddr::from(event.local);
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip, event.local_port))
}

/// The Community ID, where both ends are known.
pub(super) fn community(verdict: &VerdictRecord) -> Option<String> {
    community_of(&verdict.event.endpoint, local(verdict)?)
}

/// The Community ID of a flow between `local` and `endpoint`.
pub(super) fn community_of(endpoint: &Endpoint, local: SocketAddr) -> Option<String> {
    community_id(endpoint.protocol, local, SocketAddr::new(far_end(endpoint)?.ip, endpoint.port))
}

/// What was measured; `reason` if it was refused.
pub(super) fn evidence(verdict: &VerdictRecord, reason: Option<Reason>) -> VerdictEvidence {
    let event = &verdict.event;
    VerdictEvidence {
        hook: verdict.hook.label().into(),
        reason: reason.map(|reason| reason.label().into()),
        direction: match verdict.hook {
            Hook::Ingress | Hook::TcxTo => Direction::Ingress,
            Hook::Connect
            | Hook::Sendmsg
            | Hook::SockCreate
            | Hook::Setsockopt
            | Hook::Egress
            | Hook::TcxFrom
            | Hook::TcxFrame
            | Hook::ConnectUnix
            | Hook::SendmsgUnix => Direction::Egress,
        },
        bytes: event.bytes,
        // What this socket had sent to whomever, when it was stopped.
        bytes_before_block: match verdict.hook {
            Hook::Connect | Hook::Sendmsg | Hook::SockCreate | Hook::Egress
                if verdict.outcome == Outcome::Blocked =>
            {
                Some(event.sent)
            }
            _ => None,
        },
        local: local(verdict),
        special: None,
        socket: socket(verdict),
        option: option(verdict),
        query: verdict.message.as_deref().and_then(|message| query::read(message)),
        server_name: server_name(verdict),
        unix: UnixSocket::of(verdict).map(Box::new),
        socket_cookie: (event.header.flow != 0).then_some(event.header.flow),
        various: false,
    }
}

/// The server name that was said in TLS, bytes that no text has escaped.
pub(super) fn server_name(verdict: &VerdictRecord) -> Option<String> {
    let said = verdict.server_name.as_deref()?;
    Some(clean(&said.escape_ascii().to_string(), MAX_SENTENCE))
}

/// The socket that was asked for.
pub(super) fn socket(verdict: &VerdictRecord) -> Option<Socket> {
    let detail = verdict.event.detail;
    (verdict.hook == Hook::SockCreate && detail != 0).then(|| Socket::from_detail(detail))
}

/// The socket option that was asked for.
pub(super) fn option(verdict: &VerdictRecord) -> Option<SocketOption> {
    (verdict.hook == Hook::Setsockopt).then(|| SocketOption::from_detail(verdict.event.detail))
}
