//! What a client says in TLS before anything is encrypted: the ClientHello (RFC 8446, 4.1.2).
//!
//! Read to the last byte: what is left over, said twice or cut short is malformed, as whoever reads it otherwise would be
//! told another name.

/// What a ClientHello says of the server it wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server (RFC 6066, 3), in lower case and without a dot at its end.
    pub server_name: Option<String>,
    /// Whether there may be another name that is encrypted (RFC 9849).
    pub is_encrypted: bool,
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Handshake message (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// Extension with names of the server.
const SERVER_NAME: u16 = 0;
/// Extension of Encrypted Client Hello.
const ENCRYPTED: u16 = 0xfe0d;
/// The only type of name there is.
const HOST_NAME: u8 = 0;

/// Bytes that are still to be read.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn short(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// What is behind its length of one byte.
    pub(super) fn behind_byte(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// What is behind its length of two bytes.
    fn behind_short(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(length.into())
    }
}

/// Bytes of the handshake message that `message` begins with, its header included; `None` while that is not there.
pub fn length(message: &[u8]) -> Option<usize> {
    match message {
        [_, high, middle, low, ..] => {
            Some(4 + u32::from_be_bytes([0, *high, *middle, *low]).try_into().unwrap_or(usize::MAX))
        }
        _ => None,
    }
}

/// Reads a handshake message that is there as a whole.
///
/// # Errors
/// If it is no ClientHello, or not as RFC 8446 has it.
pub fn client_hello(message: &[u8]) -> Result<ClientHello, Malformed> {
    read(message).ok_or(Malformed)
}

fn read(message: &[u8]) -> Option<ClientHello> {
    let mut rest = Rest(message);
    if rest.byte()? != CLIENT_HELLO || length(message)? != message.len() {
        return None;
    }
    // Length, version and random.
    rest.take(3 + 2 + 32)?;
    let (_session, _suites, _compression) = (rest.behind_byte()?, rest.behind_short()?, rest.behind_byte()?);
    let mut hello = ClientHello::default();
    if rest.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Rest(rest.behind_short()?);
    if !rest.0.is_empty() {
        return None;
    }
    while !extensions.0.is_empty() {
        let kind = extensions.short()?;
        let value = extensions.behind_short()?;
        match kind {
            SERVER_NAME if hello.server_name.is_some() => return None,
            SERVER_NAME => hello.server_name = Some(server_name(value)?),
            ENCRYPTED => hello.is_encrypted = true,
            _ => {}
        }
    }
    Some(hello)
}

/// Exactly one host name, as names are written on the wire.
fn server_name(value: &[u8]) -> Option<String> {
    let mut rest = Rest(value);
    let mut list = Rest(rest.behind_short()?);
    let (kind, name) = (list.byte()?, list.behind_short()?);
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if kind != HOST_NAME || !list.0.is_empty() || !rest.0.is_empty() || !name.iter().all(is_name) {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{ClientHello, Malformed, client_hello};

    /// A ClientHello with these extensions.
    pub(in crate::detect) fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, value)| {
                let length = u16::try_from(value.len()).unwrap();
                [&kind.to_be_bytes()[..], &length.to_be_bytes(), value].concat()
            })
            .collect();
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length, &body].concat()
    }

    /// The extension with these names.
    pub(in crate::detect) fn names(names: &[&[u8]]) -> (u16, Vec<u8>) {
        let list: Vec<u8> = names
            .iter()
            .flat_map(|name| [&[0][..], &u16::try_from(name.len()).unwrap().to_be_bytes(), name].concat())
            .collect();
        (0, [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat())
    }

    #[test]
    fn the_name_is_read() {
        let said = |extensions: &[_]| client_hello(&hello(extensions));
        let named = |name: &str| ClientHello { server_name: Some(name.to_owned()), is_encrypted: false };
        assert_eq!(said(&[]), Ok(ClientHello::default()));
        assert_eq!(said(&[(43, vec![2, 3, 4]), names(&[b"API.Example."])]), Ok(named("api.example")));
        let encrypted = ClientHello { is_encrypted: true, ..named("a.example") };
        assert_eq!(said(&[names(&[b"a.example"]), (0xfe0d, vec![0])]), Ok(encrypted));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_malformed() {
        let said = |extensions: &[_]| client_hello(&hello(extensions));
        assert_eq!(said(&[names(&[b"a.example", b"b.example"])]), Err(Malformed));
        assert_eq!(said(&[names(&[b"a.example"]), names(&[b"b.example"])]), Err(Malformed));
        assert_eq!(said(&[names(&[b"a.example\0.b.example"])]), Err(Malformed));
        assert_eq!(said(&[names(&[b""])]), Err(Malformed));
        assert_eq!(said(&[(0, Vec::new())]), Err(Malformed));
        let mut longer = hello(&[names(&[b"a.example"])]);
        longer.push(0);
        assert_eq!(client_hello(&longer), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_harm(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = client_hello(&bytes);
            let mut changed = hello(&[names(&[b"a.example"]), (16, vec![0, 3, 2, 104, 50])]);
            *at.get_mut(&mut changed) = byte;
            let _ = client_hello(&changed);
        }
    }
}
