//! HTTP/1 requests (RFC 9112) out of the bytes of a stream, gaps and all.
//!
//! A head is read as a whole; bodies are handed on as they come, chunks put together and gzip undone. After a gap
//! the bytes go on to be handed on, and reading begins anew where the next request does.

use std::io::Write as _;

use flate2::write::{GzDecoder, ZlibDecoder};

/// Bytes of a head at most: servers refuse longer ones.
const HEAD: usize = 16 << 10;
/// Headers at most.
const HEADERS: usize = 100;
/// Bytes that one piece of a body may unpack to.
const UNPACKED: usize = 256 << 10;

/// What comes out.
#[derive(Debug)]
pub enum Part<'a> {
    /// The head of a request.
    Head(&'a httparse::Request<'a, 'a>),
    /// Bytes of a body, or of what could not be read as HTTP.
    Bytes(&'a [u8]),
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Requests {
    held: Vec<u8>,
    state: State,
    /// Undoes a body's `Content-Encoding`.
    packed: Option<Packed>,
}

#[derive(Debug, Default)]
enum State {
    /// A head comes, or goes on.
    #[default]
    Head,
    /// So many bytes of a body are to come.
    Body(u64),
    /// The size of a chunk comes.
    ChunkSize,
    /// So many bytes of a chunk are to come, and the line end behind them.
    Chunk(u64),
    /// Lines behind the last chunk.
    Trailer,
    /// It is no HTTP/1, or became something else.
    Foreign,
}

impl Requests {
    /// Bytes it holds at most.
    pub const BYTES: usize = HEAD + 4096;

    /// Adds bytes, of which `gap` are missing just before.
    pub fn push(&mut self, bytes: &[u8], gap: u64, see: &mut dyn FnMut(Part<'_>)) {
        if gap > 0 {
            self.after_gap(gap);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = match self.state {
                State::Head => self.head(rest, see),
                State::Body(left) => self.body(rest, left, see),
                State::ChunkSize => self.chunk_size(rest, see),
                State::Chunk(left) => self.chunk(rest, left, see),
                State::Trailer => self.trailer(rest),
                State::Foreign => {
                    // Where a request begins again, so does reading.
                    if is_request(rest) {
                        self.state = State::Head;
                        continue;
                    }
                    see(Part::Bytes(rest));
                    &[]
                }
            };
        }
    }

    /// Bytes of a body were missed: it may still be known where it ends.
    fn after_gap(&mut self, gap: u64) {
        self.held.clear();
        self.packed = None;
        self.state = match self.state {
            State::Body(left) if left > gap => State::Body(left - gap),
            State::Body(left) if left == gap => State::Head,
            State::Chunk(left) if left > gap => State::Chunk(left - gap),
            _ => State::Foreign,
        };
    }

    fn head<'b>(&mut self, bytes: &'b [u8], see: &mut dyn FnMut(Part<'_>)) -> &'b [u8] {
        let before = self.held.len();
        let room = HEAD.saturating_sub(before);
        self.held.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        let held = std::mem::take(&mut self.held);
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&held) {
            Ok(httparse::Status::Complete(length)) => {
                self.state = body_of(&request);
                self.packed = packed(&request);
                see(Part::Head(&request));
                // What was held before is of the head.
                bytes.get(length.saturating_sub(before)..).unwrap_or_default()
            }
            Ok(httparse::Status::Partial) if held.len() < HEAD => {
                self.held = held;
                bytes.get(bytes.len().min(room)..).unwrap_or_default()
            }
            // Whoever sends what no server understands may talk to one that does.
            Ok(httparse::Status::Partial) | Err(_) => {
                see(Part::Bytes(&held));
                self.state = State::Foreign;
                bytes.get(bytes.len().min(room)..).unwrap_or_default()
            }
        }
    }

    fn body<'b>(&mut self, bytes: &'b [u8], left: u64, see: &mut dyn FnMut(Part<'_>)) -> &'b [u8] {
        let (now, rest) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        self.hand_on(now, see);
        let left = left - now.len() as u64;
        self.state = if left == 0 { State::Head } else { State::Body(left) };
        rest
    }

    fn chunk_size<'b>(&mut self, bytes: &'b [u8], see: &mut dyn FnMut(Part<'_>)) -> &'b [u8] {
        let (line, rest) = self.line(bytes);
        let Some(line) = line else { return rest };
        match httparse::parse_chunk_size(&line) {
            Ok(httparse::Status::Complete((_, 0))) => self.state = State::Trailer,
            Ok(httparse::Status::Complete((_, size))) => self.state = State::Chunk(size.saturating_add(2)),
            Ok(httparse::Status::Partial) | Err(_) => {
                see(Part::Bytes(&line));
                self.state = State::Foreign;
            }
        }
        rest
    }

    fn chunk<'b>(&mut self, bytes: &'b [u8], left: u64, see: &mut dyn FnMut(Part<'_>)) -> &'b [u8] {
        let (now, rest) = bytes.split_at(usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len()));
        let after = left - now.len() as u64;
        // The last two bytes are the line's end.
        let data = usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX).min(now.len());
        self.hand_on(now.get(..data).unwrap_or_default(), see);
        self.state = if after == 0 { State::ChunkSize } else { State::Chunk(after) };
        rest
    }

    fn trailer<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let (line, rest) = self.line(bytes);
        if line.is_some_and(|line| matches!(line.as_slice(), b"\r\n" | b"\n")) {
            self.state = State::Head;
        }
        rest
    }

    /// A line with its end, once it is whole.
    fn line<'b>(&mut self, bytes: &'b [u8]) -> (Option<Vec<u8>>, &'b [u8]) {
        let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let (now, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        self.held.extend_from_slice(now);
        if end.is_none() && self.held.len() < 4096 {
            return (None, rest);
        }
        (Some(std::mem::take(&mut self.held)), rest)
    }

    /// Bytes of a body, unpacked if they are packed.
    fn hand_on(&mut self, bytes: &[u8], see: &mut dyn FnMut(Part<'_>)) {
        if bytes.is_empty() {
            return;
        }
        let Some(packed) = &mut self.packed else { return see(Part::Bytes(bytes)) };
        match packed.unpack(bytes) {
            Some(plain) => see(Part::Bytes(&plain)),
            None => {
                // It only said that it was packed.
                self.packed = None;
                see(Part::Bytes(bytes));
            }
        }
    }
}

/// Undoes a body's encoding as it comes.
#[derive(Debug)]
enum Packed {
    Gzip(Box<GzDecoder<Sink>>),
    Zlib(Box<ZlibDecoder<Sink>>),
}

impl Packed {
    /// What bytes unpack to, at most [`UNPACKED`] of it. `None` if they are not packed.
    fn unpack(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (written, sink) = match self {
            Self::Gzip(packed) => (packed.write_all(bytes).and_then(|()| packed.flush()), packed.get_mut()),
            Self::Zlib(packed) => (packed.write_all(bytes).and_then(|()| packed.flush()), packed.get_mut()),
        };
        let plain = std::mem::take(&mut sink.0);
        (written.is_ok() || !plain.is_empty()).then_some(plain)
    }
}

/// Keeps what comes, up to a limit: a bomb is not worth more.
#[derive(Debug)]
struct Sink(Vec<u8>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = UNPACKED.saturating_sub(self.0.len());
        self.0.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What follows a head (RFC 9112, 6.3).
fn body_of(request: &httparse::Request<'_, '_>) -> State {
    if request.method == Some("CONNECT") {
        return State::Foreign;
    }
    if header(request, "transfer-encoding")
        .is_some_and(|value| value.to_ascii_lowercase().ends_with(b"chunked"))
    {
        return State::ChunkSize;
    }
    if header(request, "upgrade").is_some() {
        return State::Foreign;
    }
    let length = header(request, "content-length")
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
    match length {
        Some(0) | None => State::Head,
        Some(length) => State::Body(length),
    }
}

fn packed(request: &httparse::Request<'_, '_>) -> Option<Packed> {
    let encoding = header(request, "content-encoding")?;
    if encoding.eq_ignore_ascii_case(b"gzip") || encoding.eq_ignore_ascii_case(b"x-gzip") {
        Some(Packed::Gzip(Box::new(GzDecoder::new(Sink(Vec::new())))))
    } else if encoding.eq_ignore_ascii_case(b"deflate") {
        Some(Packed::Zlib(Box::new(ZlibDecoder::new(Sink(Vec::new())))))
    } else {
        None
    }
}

/// The first header of this name.
pub fn header<'a>(request: &httparse::Request<'_, 'a>, name: &str) -> Option<&'a [u8]> {
    request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Whether bytes begin with a method and a space.
pub fn is_request(bytes: &[u8]) -> bool {
    let word = bytes.iter().take(12).position(|&byte| byte == b' ');
    word.is_some_and(|end| {
        end >= 3 && bytes.get(..end).is_some_and(|word| word.iter().all(u8::is_ascii_uppercase))
    }) && bytes
        .get(..512.min(bytes.len()))
        .is_some_and(|start| start.windows(7).any(|seven| seven == b"HTTP/1."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn parts(stream: &[u8], size: usize) -> (Vec<String>, Vec<u8>) {
        let (mut requests, mut heads, mut body) = (Requests::default(), Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            requests.push(piece, 0, &mut |part| match part {
                Part::Head(head) => heads.push(format!("{} {}", head.method.unwrap(), head.path.unwrap())),
                Part::Bytes(bytes) => body.extend_from_slice(bytes),
            });
        }
        (heads, body)
    }

    #[test]
    fn requests_come_whole_however_they_are_cut() {
        let stream = b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\nPOST /d HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello\
            POST /e HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX: y\r\n\r\n\
            GET /f HTTP/1.1\r\n\r\n";
        for size in 1..stream.len() {
            let (heads, body) = parts(stream, size);
            assert_eq!(heads, ["GET /a?b=c", "POST /d", "POST /e", "GET /f"], "{size}");
            assert_eq!(body, b"helloabc0123456789", "{size}");
        }
    }

    #[test]
    fn packed_bodies_are_unpacked() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&b"secret text ".repeat(100)).unwrap();
        let body = packer.finish().unwrap();
        let head =
            format!("POST / HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
        let stream = [head.as_bytes(), &body, b"GET /next HTTP/1.1\r\n\r\n"].concat();
        for size in [1, 7, 100, 10_000] {
            let (heads, got) = parts(&stream, size);
            assert_eq!(heads.len(), 2, "{size}");
            assert_eq!(got, b"secret text ".repeat(100), "{size}");
        }
    }

    #[test]
    fn after_a_gap_bytes_go_on_and_the_next_request_is_read() {
        let (mut requests, mut heads, mut bytes) = (Requests::default(), 0, Vec::new());
        let mut see = |part: Part<'_>| match part {
            Part::Head(_) => heads += 1,
            Part::Bytes(more) => bytes.extend_from_slice(more),
        };
        requests.push(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n012", 0, &mut see);
        requests.push(b"789", 4, &mut see);
        requests.push(b"GET /x HTTP/1.1\r\n\r\n", 0, &mut see);
        requests.push(b"lost head\r\n\r\nbody", 9, &mut see);
        requests.push(b"GET /y HTTP/1.1\r\n\r\n", 0, &mut see);
        assert_eq!(heads, 3);
        assert_eq!(bytes, b"012789lost head\r\n\r\nbody");
    }

    #[test]
    fn an_endless_head_is_handed_on_and_not_held() {
        let mut requests = Requests::default();
        let mut seen = 0;
        for _ in 0..1000 {
            requests.push(&[b'A'; 1000], 0, &mut |part| {
                if let Part::Bytes(bytes) = part {
                    seen += bytes.len();
                }
            });
            assert!(requests.held.len() <= HEAD);
        }
        assert!(seen > 900_000);
    }
}
