//! Which protocol a flow speaks, by its first bytes. Only what can be told for sure is named.

/// A protocol of an application, or of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum App {
    /// TLS (RFC 8446).
    Tls,
    /// HTTP/1 (RFC 9112) or HTTP/2 with prior knowledge (RFC 9113, 3.3).
    Http,
    /// DNS (RFC 1035).
    Dns,
    /// Multicast DNS (RFC 6762).
    Mdns,
    /// QUIC (RFC 9000 and drafts).
    Quic,
    /// SSH (RFC 4253).
    Ssh,
    /// SMTP (RFC 5321).
    Smtp,
    /// FTP (RFC 959), its control connection.
    Ftp,
    /// IMAP (RFC 9051).
    Imap,
    /// POP3 (RFC 1939).
    Pop3,
    /// DTLS (RFC 9147).
    Dtls,
    /// STUN (RFC 8489).
    Stun,
    /// NTP (RFC 5905).
    Ntp,
    /// DHCP (RFC 2131).
    Dhcp,
    /// BitTorrent (BEP 3, 5).
    BitTorrent,
    /// SMB 2 and 3.
    Smb,
    /// ICMP.
    Icmp,
    /// ICMPv6.
    Icmpv6,
}

impl App {
    /// Its usual name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tls => "TLS",
            Self::Http => "HTTP",
            Self::Dns => "DNS",
            Self::Mdns => "MDNS",
            Self::Quic => "QUIC",
            Self::Ssh => "SSH",
            Self::Smtp => "SMTP",
            Self::Ftp => "FTP",
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
            Self::Dtls => "DTLS",
            Self::Stun => "STUN",
            Self::Ntp => "NTP",
            Self::Dhcp => "DHCP",
            Self::BitTorrent => "BitTorrent",
            Self::Smb => "SMB",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPV6",
        }
    }

    /// Whether its content is encrypted, so that bytes behind the first ones say nothing.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Quic | Self::Ssh | Self::Dtls)
    }
}

/// What flows to a port mostly are, where no byte tells.
pub const fn of_port(protocol: u8, port: u16) -> Option<App> {
    match (protocol, port) {
        (6, 443 | 8443 | 853 | 993 | 995 | 465) => Some(App::Tls),
        (6, 80 | 8080) => Some(App::Http),
        (6 | 17, 53) => Some(App::Dns),
        (6, 22) => Some(App::Ssh),
        (6, 25 | 587) => Some(App::Smtp),
        (6, 21) => Some(App::Ftp),
        (6, 143) => Some(App::Imap),
        (6, 110) => Some(App::Pop3),
        (6, 445) => Some(App::Smb),
        (17, 443) => Some(App::Quic),
        (17, 123) => Some(App::Ntp),
        (17, 67 | 68) => Some(App::Dhcp),
        (17, 5353) => Some(App::Mdns),
        (17, 3478) => Some(App::Stun),
        (6 | 17, 6881) => Some(App::BitTorrent),
        _ => None,
    }
}

/// Of the first bytes of either direction of a TCP stream. `port` is the server's.
pub fn of_stream(first: &[u8], port: u16) -> Option<App> {
    match first {
        [0x14..=0x17, 3, 0..=4, high, _, ..] if *high <= 0x41 => Some(App::Tls),
        // SSL 2.0 ClientHello that offers more (RFC 5246, E.2).
        [length, _, 1, 3, 0..=3, ..] if *length >= 0x80 => Some(App::Tls),
        [0, _, _, _, 0xfe | 0xff, b'S', b'M', b'B', ..] => Some(App::Smb),
        _ if first.starts_with(b"SSH-") => Some(App::Ssh),
        _ if first.starts_with(b"\x13BitTorrent protocol") => Some(App::BitTorrent),
        _ if is_http(first) => Some(App::Http),
        _ if is_dns_stream(first, port) => Some(App::Dns),
        _ => of_banner(first, port),
    }
}

/// Servers that speak first, and what their clients say.
fn of_banner(first: &[u8], port: u16) -> Option<App> {
    let line = first.get(..first.len().min(64)).unwrap_or_default().to_ascii_uppercase();
    let begins = |words: &[&str]| words.iter().any(|word| line.starts_with(word.as_bytes()));
    let has = |word: &str| line.windows(word.len()).any(|window| window == word.as_bytes());
    if begins(&["EHLO ", "HELO ", "MAIL FROM:", "LHLO "]) {
        return Some(App::Smtp);
    }
    if begins(&["220"]) {
        if has("SMTP") || has("MAIL") || matches!(port, 25 | 465 | 587 | 2525) {
            return Some(App::Smtp);
        }
        if has("FTP") || port == 21 {
            return Some(App::Ftp);
        }
    }
    if begins(&["* OK", "* PREAUTH"]) || port == 143 && has(" LOGIN ") {
        return Some(App::Imap);
    }
    if begins(&["+OK"]) || port == 110 && begins(&["USER ", "APOP ", "CAPA", "AUTH "]) {
        return Some(App::Pop3);
    }
    if port == 21 && begins(&["USER ", "AUTH ", "FEAT", "OPTS "]) {
        return Some(App::Ftp);
    }
    None
}

/// Whether bytes begin a request or a response of HTTP.
pub fn is_http(first: &[u8]) -> bool {
    const METHODS: &[&str] = &[
        "GET ",
        "POST ",
        "PUT ",
        "HEAD ",
        "DELETE ",
        "OPTIONS ",
        "PATCH ",
        "CONNECT ",
        "TRACE ",
        "PROPFIND ",
        "HTTP/1.",
        "PRI * HTTP/2",
    ];
    METHODS.iter().any(|method| first.starts_with(method.as_bytes()))
}

fn is_dns_stream(first: &[u8], port: u16) -> bool {
    match first {
        [l0, l1, message @ ..] if port == 53 => {
            usize::from(u16::from_be_bytes([*l0, *l1])) >= 12 && is_dns(message)
        }
        _ => false,
    }
}

/// Whether bytes can be a DNS message: few questions, an opcode in use.
fn is_dns(message: &[u8]) -> bool {
    matches!(message, [_, _, flags, _, 0, 0..=8, ..] if flags & 0x78 <= 0x28)
}

/// Of the payload of a UDP datagram. `port` is the lower one.
pub fn of_datagram(payload: &[u8], port: u16, other: u16) -> Option<App> {
    let at = |wanted| port == wanted || other == wanted;
    match payload {
        _ if at(5353) && is_dns(payload) => Some(App::Mdns),
        _ if at(53) && is_dns(payload) => Some(App::Dns),
        [_, _, _, _, 0x21, 0x12, 0xa4, 0x42, ..] if payload.len() >= 20 && is_stun(payload) => {
            Some(App::Stun)
        }
        [0x14..=0x17 | 0x19, 0xfe, 0xfd | 0xff, ..] | [0x14..=0x17, 1, 0, ..] if payload.len() >= 13 => {
            Some(App::Dtls)
        }
        // OpenSSL's DTLS before RFC 4347.
        [first, v0, v1, v2, v3, ..] if first & 0xc0 == 0xc0 && is_quic([*v0, *v1, *v2, *v3]) => {
            Some(App::Quic)
        }
        // Google QUIC: public flags with a version and a connection identifier.
        [flags, _, _, _, _, _, _, _, _, b'Q', b'0', ..] if flags & 0x0d == 0x0d => Some(App::Quic),
        [1 | 2, 1, 6, _, ..] if payload.get(236..240) == Some(&[0x63, 0x82, 0x53, 0x63]) => Some(App::Dhcp),
        [flags, _, _, _, ..] if at(123) && payload.len() >= 48 && matches!((flags >> 3) & 7, 1..=4) => {
            Some(App::Ntp)
        }
        [b'd', b'1', b':', ..] if payload.ends_with(b"e") => Some(App::BitTorrent),
        _ => None,
    }
}

fn is_stun(payload: &[u8]) -> bool {
    match payload {
        [kind, _, l0, l1, ..] => {
            kind & 0xc0 == 0 && usize::from(u16::from_be_bytes([*l0, *l1])) + 20 == payload.len()
        }
        _ => false,
    }
}

/// Versions of QUIC: 1, 2, drafts, Google's, Facebook's, those that force negotiation (RFC 9000, 15).
const fn is_quic(version: [u8; 4]) -> bool {
    matches!(
        version,
        [0, 0, 0, 1]
            | [0x6b, 0x33, 0x43, 0xcf]
            | [0xff, 0, 0, _]
            | [b'Q' | b'T', b'0', b'0'..=b'9', b'0'..=b'9']
            | [0xfa, 0xce, 0xb0, _]
    ) || (version[0] & 0x0f == 0x0a
        && version[1] & 0x0f == 0x0a
        && version[2] & 0x0f == 0x0a
        && version[3] & 0x0f == 0x0a)
}
