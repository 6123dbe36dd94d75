//! Segments by name, and the directories they are in.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::agent::AgentName;

/// Sorts as the time does, and is a plain file name everywhere.
const FORMAT: &str = "%Y%m%dT%H%M%S%.9fZ";

const SUFFIX: &str = ".jsonl";

/// The name of a segment: the time of its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(Timestamp);

impl Name {
    /// The name of a segment that begins at `time`.
    pub const fn at(time: Timestamp) -> Self {
        Self(time)
    }

    /// When it begins.
    pub const fn time(self) -> Timestamp {
        self.0
    }

    /// The next possible name.
    pub(super) fn next(self) -> Self {
        Self(self.0.saturating_add(jiff::SignedDuration::from_nanos(1)).unwrap_or(self.0))
    }

    /// Reads a file name; `None` for what no writer has named.
    fn parse(text: &str) -> Option<Self> {
        let time = DateTime::strptime(FORMAT, text.strip_suffix(SUFFIX)?).ok()?;
        let name = Self(time.to_zoned(TimeZone::UTC).ok()?.timestamp());
        // A second spelling of a time would not sort as it should.
        (name.to_string() == text).then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{SUFFIX}", self.0.strftime(FORMAT))
    }
}

/// The segments in an agent's directory, in no order; none if it is not there.
///
/// # Errors
/// If the directory cannot be read.
pub fn list(directory: &Path) -> io::Result<Vec<Name>> {
    names(directory, Name::parse)
}

/// The agents with a directory in that of a stream, in no order; none if it is not there.
///
/// # Errors
/// If the directory cannot be read.
pub fn agents(stream: &Path) -> io::Result<Vec<AgentName>> {
    let mut agents = names(stream, |name| name.parse::<AgentName>().ok())?;
    // Links are nobody's directories.
    agents.retain(|agent| fs::symlink_metadata(stream.join(agent)).is_ok_and(|found| found.is_dir()));
    Ok(agents)
}

fn names<T>(directory: &Path, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|entry| parse(entry.ok()?.file_name().to_str()?)).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The path of a segment in an agent's directory.
pub fn path(directory: &Path, name: Name) -> PathBuf {
    directory.join(name.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_a_time() {
        let time: Timestamp = "2026-11-22T12:04:05.000000001Z".parse().unwrap();
        assert_eq!(Name::at(time).to_string(), "20261122T120405.000000001Z.jsonl");
        for foreign in [
            "lock",
            "20261122T120405.000000001Z",
            "20261122T120405Z.jsonl",
            "20261122T120405.1Z.jsonl",
            "20261322T120405.000000001Z.jsonl",
            "../20261122T120405.000000001Z.jsonl",
            "20261122T120405.000000001Z.jsonl.1",
        ] {
            assert_eq!(Name::parse(foreign), None, "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn names_sort_as_times_do(a in 0..4_000_000_000_000_000_000_i128, b in 0..4_000_000_000_000_000_000_i128) {
            let name = |time| Name::at(Timestamp::from_nanosecond(time).unwrap());
            let (one, other) = (name(a), name(b));
            prop_assert_eq!(Name::parse(&one.to_string()), Some(one));
            prop_assert_eq!(one.to_string().cmp(&other.to_string()), a.cmp(&b));
            prop_assert!(one.next().to_string() > one.to_string());
        }
    }
}
