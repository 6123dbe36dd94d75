//! What the texts of the configuration mean.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;
use jiff::{SignedDuration, Span, SpanRelativeTo};

use crate::detect::secrets::source::Source;

/// Least that a stream of the store may have, in bytes: sixteen segments of a size worth a file.
const LEAST_STORE: u64 = 1 << 20;

/// Least time that something is kept.
const LEAST_AGE: SignedDuration = SignedDuration::from_hours(1);

/// Longest name of a group (useradd(8)).
const GROUP_BYTES: usize = 32;

/// Why a text is no value, and what would be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) why: &'static str,
    pub(super) help: &'static str,
}

/// A number of bytes that is not zero.
pub(super) fn bytes(text: &str) -> Result<u64, Wrong> {
    const HELP: &str = "write a number and a unit, such as \"64 MiB\" or \"2 GiB\"";
    match text.trim().parse::<ByteSize>() {
        // Nobody counts bytes one by one: without a unit it is more likely forgotten.
        Ok(_) if text.trim().bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(Wrong { why: "it has no unit", help: HELP })
        }
        Ok(ByteSize(0)) => Err(Wrong { why: "that is nothing", help: HELP }),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(_) => Err(Wrong { why: "it is no size", help: HELP }),
    }
}

/// A number of bytes that is enough for a stream of the store.
pub(super) fn store_bytes(text: &str) -> Result<u64, Wrong> {
    match bytes(text)? {
        LEAST_STORE.. => bytes(text),
        _ => Err(Wrong { why: "that is too little", help: "1 MiB is the least" }),
    }
}

/// How long something is kept.
pub(super) fn age(text: &str) -> Result<SignedDuration, Wrong> {
    const HELP: &str = "write a number and a unit, such as \"30d\", \"12h\" or \"2w\"";
    // Months have no length of their own.
    let days = SpanRelativeTo::days_are_24_hours();
    let duration = text.parse::<Span>().and_then(|span| span.to_duration(days));
    match duration {
        Ok(duration) if duration >= LEAST_AGE => Ok(duration),
        Ok(_) => Err(Wrong { why: "that is too short", help: "one hour is the least" }),
        Err(_) => Err(Wrong { why: "it is no length of time", help: HELP }),
    }
}

/// The name of a group; the empty text is none.
pub(super) fn group(text: &str) -> Result<Option<String>, Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'$');
    match text {
        "" => Ok(None),
        text if text.len() <= GROUP_BYTES && text.bytes().all(plain) => Ok(Some(text.to_owned())),
        _ => Err(Wrong {
            why: "it cannot name a group",
            help: "write the name of a group of this host, or \"\" for none",
        }),
    }
}

/// The path of a directory.
pub(super) fn directory(text: &str) -> Result<PathBuf, Wrong> {
    match Path::new(text) {
        path if path.is_absolute() && !text.contains('\0') => Ok(path.to_owned()),
        _ => Err(Wrong {
            why: "it is no absolute path",
            help: "write a path that begins with a slash; the daemon has no directory of its own",
        }),
    }
}

/// Where secrets of this host are.
pub(super) fn source(text: &str) -> Result<Source, Wrong> {
    text.parse().map_err(|why| Wrong {
        why,
        help: "write the path of a file that begins with a slash, or env:NAME for a variable of the engine's environment",
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("64 MiB", Some(64 << 20))]
    #[case("64MiB", Some(64 << 20))]
    #[case("1.5 GiB", Some(3 << 29))]
    #[case("10 MB", Some(10_000_000))]
    #[case("0 MiB", None)]
    #[case("64", None)]
    #[case("64 mibs", None)]
    #[case("-1 MiB", None)]
    #[case("", None)]
    fn sizes_have_units(#[case] text: &str, #[case] expected: Option<u64>) {
        assert_eq!(bytes(text).ok(), expected);
    }

    #[rstest]
    #[case("30d", Some(30 * 24))]
    #[case("2w", Some(14 * 24))]
    #[case("1h", Some(1))]
    #[case("59m", None)]
    #[case("-30d", None)]
    #[case("3 months", None)]
    #[case("30", None)]
    #[case("", None)]
    fn ages_have_units(#[case] text: &str, #[case] hours: Option<i64>) {
        assert_eq!(age(text).ok(), hours.map(SignedDuration::from_hours));
    }
}
