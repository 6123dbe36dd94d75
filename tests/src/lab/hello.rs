//! Hellos of TLS clients (RFC 8446, 4.1.2), right and wrong ones.

/// Content types (RFC 8446, B.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// See [`CHANGE_CIPHER_SPEC`].
pub const ALERT: u8 = 21;
/// See [`CHANGE_CIPHER_SPEC`].
pub const HANDSHAKE: u8 = 22;
/// See [`CHANGE_CIPHER_SPEC`].
pub const APPLICATION_DATA: u8 = 23;

/// Extensions (IANA, "TLS ExtensionType Values").
pub const SERVER_NAME: u16 = 0;
/// See [`SERVER_NAME`].
pub const PADDING: u16 = 21;
/// See [`SERVER_NAME`].
pub const EARLY_DATA: u16 = 42;
/// See [`SERVER_NAME`].
pub const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// A ClientHello with what ordinary clients say, and whatever is added.
#[derive(Clone, Debug)]
pub struct Hello {
    extensions: Vec<(u16, Vec<u8>)>,
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// Bytes behind their length in two bytes.
fn counted(bytes: &[u8]) -> Vec<u8> {
    [&short(bytes.len())[..], bytes].concat()
}

/// The extension with these names, each of the type that host names have.
pub fn names(names: &[&[u8]]) -> Vec<u8> {
    counted(&names.iter().flat_map(|name| [vec![0], counted(name)].concat()).collect::<Vec<_>>())
}

impl Hello {
    /// Without a name.
    pub fn unnamed() -> Self {
        // Versions 1.3 and 1.2, one group, one share of it.
        Self {
            extensions: vec![
                (43, vec![4, 3, 4, 3, 3]),
                (10, vec![0, 2, 0, 29]),
                (51, counted(&[&[0, 29][..], &counted(&[7; 32])].concat())),
            ],
        }
    }

    /// With a name and nothing else, so that it is a line of ASCII.
    pub fn bare(name: &str) -> Self {
        Self { extensions: Vec::new() }.with(SERVER_NAME, names(&[name.as_bytes()]))
    }

    /// With a name.
    pub fn to(name: &str) -> Self {
        Self::unnamed().with(SERVER_NAME, names(&[name.as_bytes()]))
    }

    /// With one extension more.
    #[must_use]
    pub fn with(mut self, kind: u16, body: Vec<u8>) -> Self {
        self.extensions.push((kind, body));
        self
    }

    /// The handshake message.
    pub fn message(&self) -> Vec<u8> {
        let extensions: Vec<u8> = self
            .extensions
            .iter()
            .flat_map(|(kind, body)| [kind.to_be_bytes().to_vec(), counted(body)].concat())
            .collect();
        let body = [&[3, 3][..], &[5; 32], &[32], &[6; 32], &[0, 2, 0x13, 1], &[1, 0], &counted(&extensions)]
            .concat();
        let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// In one record.
    pub fn record(&self) -> Vec<u8> {
        record(HANDSHAKE, &self.message())
    }

    /// In records of `size` bytes each.
    pub fn records(&self, size: usize) -> Vec<u8> {
        self.message().chunks(size).flat_map(|part| record(HANDSHAKE, part)).collect()
    }
}

/// A record.
pub fn record(kind: u8, fragment: &[u8]) -> Vec<u8> {
    [&[kind, 3, 3][..], &counted(fragment)].concat()
}

/// The name that a ClientHello in one record says, in lower case, as strictly read as it can be: a second opinion on what the
/// kernel programs read. `None` where it says none, or not plainly.
pub fn read(bytes: &[u8]) -> Option<String> {
    let mut rest = Reader(bytes);
    let (kind, version) = (rest.number(1)?, rest.take(2)?);
    let mut rest = Reader(rest.counted(2)?.whole_of(rest)?);
    if kind != u32::from(HANDSHAKE) || version[0] != 3 || rest.number(1)? != 1 {
        return None;
    }
    let mut rest = Reader(rest.counted(3)?.whole_of(rest)?);
    if rest.take(2)?[0] != 3 {
        return None;
    }
    rest.take(32)?;
    let (session, suites, compressions) = (rest.counted(1)?, rest.counted(2)?, rest.counted(1)?);
    if session.0.len() > 32 || suites.0.len() < 2 || suites.0.len() % 2 != 0 || compressions.0.is_empty() {
        return None;
    }
    let mut extensions = Reader(rest.counted(2)?.whole_of(rest)?);
    let mut name = None;
    while !extensions.0.is_empty() {
        let (kind, body) = (extensions.number(2)?, extensions.counted(2)?);
        match u16::try_from(kind).ok()? {
            SERVER_NAME => {
                let mut body = body;
                let mut list = Reader(body.counted(2)?.whole_of(body)?);
                if list.number(1)? != 0 || name.is_some() {
                    return None;
                }
                name = Some(list.counted(2)?.whole_of(list)?);
            }
            EARLY_DATA | ENCRYPTED_HELLO | 0xffce => return None,
            _ => {}
        }
    }
    let name = String::from_utf8(name?.to_ascii_lowercase()).ok()?;
    let plain = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    (name.len() <= 253 && name.split('.').all(plain)).then_some(name)
}

/// Bytes that are still to be read.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<u32> {
        Some(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    /// Bytes behind their length.
    fn counted(&mut self, bytes: usize) -> Option<Self> {
        let count = usize::try_from(self.number(bytes)?).ok()?;
        self.take(count).map(Reader)
    }

    /// Its bytes, if nothing is left behind them.
    fn whole_of(self, rest: Self) -> Option<&'a [u8]> {
        rest.0.is_empty().then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Hello, read};

    #[test]
    fn what_is_made_is_read() {
        assert_eq!(read(&Hello::to("API.example.com").record()).as_deref(), Some("api.example.com"));
        assert_eq!(read(&Hello::unnamed().record()), None);
        assert_eq!(read(&Hello::to("a..b").record()), None);
    }
}
