//! Whom the command runs as when root was only borrowed: `sudo agentnet run` governs the user's agent, it does
//! not make it root's.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

/// A user to run the command as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Numeric user id; never 0.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups of the group database, the primary one included.
    pub groups: Vec<u32>,
    /// Login name.
    pub name: String,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Why `SUDO_UID` is of no use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a number.
    #[error("{variable} is {value:?}, not the number that sudo sets; unset it to run the command as root")]
    NotANumber {
        /// `SUDO_UID` or `SUDO_GID`.
        variable: &'static str,
        /// What it holds.
        value: OsString,
    },
    /// Nobody has it.
    #[error("SUDO_UID is {uid}, which no user has; unset it to run the command as root")]
    NoSuchUser {
        /// The number.
        uid: u32,
    },
    /// The user or group database failed.
    #[error("cannot look up user {uid}: {source}")]
    Lookup {
        /// The number.
        uid: u32,
        /// What the C library said.
        source: io::Error,
    },
}

/// What sudo sets to root's, or for its own purposes. They are replaced or taken away: tools such as npm act
/// on `SUDO_UID` when they find it.
const REPLACED: [&str; 9] =
    ["HOME", "USER", "LOGNAME", "SHELL", "MAIL", "SUDO_USER", "SUDO_UID", "SUDO_GID", "SUDO_COMMAND"];

impl Identity {
    /// The user who called sudo; `None` if this process is not root, was not started by sudo, or by root's own.
    ///
    /// # Errors
    /// [`IdentityError`] if the variables are there and lead to no user.
    pub fn from_sudo_env() -> Result<Option<Self>, IdentityError> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        let Some(uid) = number("SUDO_UID")? else { return Ok(None) };
        if uid == 0 {
            return Ok(None);
        }
        Self::look_up(uid, number("SUDO_GID")?).map(Some)
    }

    /// The user with this number, with `gid` in place of the primary group if given.
    ///
    /// # Errors
    /// [`IdentityError`] if there is none or the lookup fails.
    pub fn look_up(uid: u32, gid: Option<u32>) -> Result<Self, IdentityError> {
        let lookup = |errno: nix::Error| IdentityError::Lookup { uid, source: errno.into() };
        let user =
            User::from_uid(Uid::from_raw(uid)).map_err(lookup)?.ok_or(IdentityError::NoSuchUser { uid })?;
        let gid = gid.map_or(user.gid, Gid::from_raw);
        let name = CString::new(user.name.as_str()).map_err(|_| lookup(nix::Error::EINVAL))?;
        let groups = getgrouplist(&name, gid).map_err(lookup)?;
        Ok(Self {
            uid,
            gid: gid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
            name: user.name,
            home: user.dir,
            shell: user.shell,
        })
    }

    /// `env` as this user's: home, names and shell theirs, sudo's own variables gone.
    pub(super) fn environment(
        &self,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let replaced: HashSet<&OsStr> = REPLACED.iter().map(OsStr::new).collect();
        let own = [
            ("HOME", self.home.as_os_str()),
            ("USER", OsStr::new(&self.name)),
            ("LOGNAME", OsStr::new(&self.name)),
            ("SHELL", self.shell.as_os_str()),
        ];
        env.filter(|(key, _)| !replaced.contains(key.as_os_str()))
            .chain(own.map(|(key, value)| (key.into(), value.into())))
            .collect()
    }

    /// What the user should know of the environment that came through sudo, a sentence each; to be said once,
    /// before the command starts.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        notes(&self.home, std::env::var_os("HOME").as_deref(), std::env::var_os("PATH").as_deref())
    }
}

fn notes(home: &Path, given: Option<&OsStr>, path: Option<&OsStr>) -> Vec<String> {
    let mut notes = Vec::new();
    if given.is_some_and(|h| h != home.as_os_str()) {
        notes.push(format!("HOME is {} again, as without sudo", home.display()));
    }
    let has_home = path.is_some_and(|p| std::env::split_paths(p).any(|d| d.starts_with(home)));
    if !has_home {
        notes.push(format!(
            "PATH is sudo's and has nothing below {}, and sudo has dropped variables such as API keys and agent \
             sockets; `agentnet run` without sudo keeps them all",
            home.display()
        ));
    }
    notes
}

/// The number in `variable`, if it is set.
fn number(variable: &'static str) -> Result<Option<u32>, IdentityError> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    match value.to_str().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(IdentityError::NotANumber { variable, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Identity {
        Identity {
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            name: "ada".into(),
            home: "/home/ada".into(),
            shell: "/bin/bash".into(),
        }
    }

    #[test]
    fn the_environment_is_the_users_and_the_rest_is_kept() {
        let pair = |k: &str, v: &str| (OsString::from(k), OsString::from(v));
        let given = [
            pair("HOME", "/root"),
            pair("LOGNAME", "root"),
            pair("SUDO_UID", "1000"),
            pair("MAIL", "/var/mail/root"),
            pair("API_KEY", "x"),
            pair("PATH", "/usr/bin"),
        ];
        let mut env = user().environment(given.into_iter());
        env.sort();
        let expected = [
            pair("API_KEY", "x"),
            pair("HOME", "/home/ada"),
            pair("LOGNAME", "ada"),
            pair("PATH", "/usr/bin"),
            pair("SHELL", "/bin/bash"),
            pair("USER", "ada"),
        ];
        assert_eq!(env, expected);
    }

    #[test]
    fn only_what_changed_is_noted() {
        let home = Path::new("/home/ada");
        let kept = notes(home, Some(OsStr::new("/home/ada")), Some(OsStr::new("/home/ada/.local/bin:/bin")));
        assert!(kept.is_empty(), "{kept:?}");
        let reset = notes(home, Some(OsStr::new("/root")), Some(OsStr::new("/usr/sbin:/usr/bin")));
        assert_eq!(reset.len(), 2);
    }

    #[test]
    fn an_unknown_number_is_said_to_be_one() {
        let error = Identity::look_up(3_999_999_999, None).unwrap_err();
        assert!(matches!(error, IdentityError::NoSuchUser { uid: 3_999_999_999 }), "{error}");
    }
}
