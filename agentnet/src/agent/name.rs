//! Names of agents.

use std::{ffi::OsStr, fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest name of an agent, in bytes. It is a file name in three places and part of a socket's path.
pub const NAME_BYTES: usize = 63;

/// The name of an agent: 1 to [`NAME_BYTES`] of `a-z`, `0-9` and `-`, not beginning with `-`.
///
/// It names a cgroup, a directory of pins and one of the registry, so it can be nothing but a plain file
/// name: a value of this type never leads out of the directory it is joined to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

/// A text that cannot name an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot name an agent: use 1 to {NAME_BYTES} lower-case letters, digits and dashes, and begin \
     with a letter or digit"
)]
pub struct InvalidName(String);

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name for the agent that runs `command`: the command's file name and `tag` in four hexadecimal
    /// digits, such as `claude-07f3`.
    pub fn for_command(command: &OsStr, tag: u16) -> Self {
        const TAG_BYTES: usize = "-ffff".len();
        let base = Path::new(command).file_name().unwrap_or(OsStr::new("agent")).to_string_lossy();
        let base = legal(&base, NAME_BYTES - TAG_BYTES);
        Self(format!("{base}-{tag:04x}"))
    }

    /// A name for what is called `text`, such as `claude-x-service` for `claude@x.service`.
    pub fn plain(text: &str) -> Self {
        Self(legal(text, NAME_BYTES))
    }
}

/// What of `text` can be in a name, at most `room` bytes of it.
fn legal(text: &str, room: usize) -> String {
    let mut name = String::with_capacity(room);
    for character in text.chars().flat_map(char::to_lowercase) {
        if name.len() == room {
            break;
        }
        match character {
            'a'..='z' | '0'..='9' => name.push(character),
            _ if !name.is_empty() && !name.ends_with('-') => name.push('-'),
            _ => {}
        }
    }
    match name.trim_end_matches('-') {
        "" => "agent".to_owned(),
        name => name.to_owned(),
    }
}

impl FromStr for AgentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let legal = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = (1..=NAME_BYTES).contains(&text.len());
        if fits && text.bytes().all(legal) && !text.starts_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for AgentName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> Self {
        name.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<Path> for AgentName {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_file_names() {
        for good in ["a", "7", "claude-07f3", "a-", &"x".repeat(63)] {
            assert_eq!(good.parse::<AgentName>().map(|name| name.to_string()).as_deref(), Ok(good));
        }
        for bad in ["", "-a", "A", "a b", "a/b", "..", ".", "a\0", "ü", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn units_have_names() {
        for (unit, expected) in [("claude@x.service", "claude-x-service"), ("@@", "agent"), ("a-b", "a-b")] {
            assert_eq!(AgentName::plain(unit).as_str(), expected);
        }
        assert!(AgentName::plain(&"x".repeat(200)).as_str().parse::<AgentName>().is_ok());
    }

    #[test]
    fn a_name_from_the_wire_is_checked() {
        assert!(serde_json::from_str::<AgentName>("\"../../etc\"").is_err());
        assert!(serde_json::from_str::<AgentName>("\"claude\"").is_ok());
    }

    #[test]
    fn every_command_has_a_name() {
        let long = "z".repeat(200);
        let cases = [
            ("/usr/bin/claude", "claude-07f3"),
            ("Python3.11", "python3-11-07f3"),
            ("a  b__c", "a-b-c-07f3"),
            ("...", "agent-07f3"),
            ("/", "agent-07f3"),
            ("", "agent-07f3"),
            ("--", "agent-07f3"),
            (&long, &format!("{}-07f3", "z".repeat(58))),
        ];
        for (command, expected) in cases {
            let name = AgentName::for_command(OsStr::new(command), 0x07f3);
            assert_eq!(name.as_str(), expected);
            assert!(name.as_str().parse::<AgentName>().is_ok(), "{name} is not a legal name");
        }
    }
}
