//! Lines of a file or of standard input, one at a time, however long it is.

use std::io::{self, BufRead, Read as _};

/// Longest line in bytes.
pub const MAX: usize = 1 << 20;

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    Encoding,
    /// It is longer than [`MAX`].
    #[error("it is longer than 1 MiB")]
    Length,
    /// It is not what the list is of.
    #[error("{0}")]
    Content(String),
}

/// Reads the next line into `buffer`, its end removed. `None` at the end.
///
/// # Errors
/// What reading failed with.
pub fn next<'b>(
    reader: &mut impl BufRead,
    buffer: &'b mut Vec<u8>,
) -> io::Result<Option<Result<&'b str, LineError>>> {
    buffer.clear();
    let limit = MAX as u64 + 1;
    if reader.by_ref().take(limit).read_until(b'\n', buffer)? == 0 {
        return Ok(None);
    }
    if buffer.len() > MAX && buffer.last() != Some(&b'\n') {
        skip_line(reader)?;
        return Ok(Some(Err(LineError::Length)));
    }
    let line = buffer.strip_suffix(b"\n").unwrap_or(buffer);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some(std::str::from_utf8(line).map_err(|_| LineError::Encoding)))
}

/// Reads up to the next line break.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let there = reader.fill_buf()?;
        if there.is_empty() {
            return Ok(());
        }
        let (used, ended) = match there.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (there.len(), false),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_cannot_be_read_do_not_hide_the_others() {
        let mut text = b"one\r\n\xff\xfe\n".to_vec();
        text.extend(vec![b'x'; MAX + 7]);
        text.extend(b"\nlast");
        let (mut reader, mut buffer, mut read) = (text.as_slice(), Vec::new(), Vec::new());
        while let Some(line) = next(&mut reader, &mut buffer).unwrap() {
            read.push(line.map(str::to_owned).map_err(|error| error.to_string()));
        }
        let error = |text: &str| Err(text.to_owned());
        assert_eq!(
            read,
            [Ok("one".into()), error("it is not UTF-8"), error("it is longer than 1 MiB"), Ok("last".into())]
        );
    }
}
