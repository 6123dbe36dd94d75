//! Whom the command runs as when root was only borrowed: `sudo agentnet run` governs the user's agent, it does
//! not make it root's, and neither does `doas agentnet run`.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use crate::agent::borrowed::{Borrower, BorrowerError, Lender, borrower};

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
    /// What the user called to become root.
    pub through: Lender,
}

/// Why nobody can be told to run the command as.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The caller of sudo or doas is not known.
    #[error(transparent)]
    Borrower(#[from] BorrowerError),
    /// Nobody has that number.
    #[error(
        "agentnet was started by user {uid}, whom the user database does not have; unset SUDO_UID to run the command as root"
    )]
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

/// What sudo and doas set to root's, or for their own purposes. They are replaced or taken away: tools such as
/// npm act on `SUDO_UID` when they find it.
const REPLACED: [&str; 10] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "MAIL",
    "SUDO_USER",
    "SUDO_UID",
    "SUDO_GID",
    "SUDO_COMMAND",
    "DOAS_USER",
];

impl Identity {
    /// The user who called sudo or doas; `None` if this process is not root, was started by neither, or by
    /// root's own.
    ///
    /// # Errors
    /// [`IdentityError`] if the variables are there and lead to no user.
    pub fn of_borrower() -> Result<Option<Self>, IdentityError> {
        if !Uid::effective().is_root() {
            return Ok(None);
        }
        match borrower()? {
            None | Some(Borrower { uid: 0, .. }) => Ok(None),
            Some(Borrower { uid, gid, through }) => {
                Self::look_up(uid, gid).map(|identity| Some(Self { through, ..identity }))
            }
        }
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
            through: Lender::Sudo,
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

    /// What the user should know of the environment that came through sudo or doas, a sentence each; to be said once,
    /// before the command starts.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let (home, path) = (std::env::var_os("HOME"), std::env::var_os("PATH"));
        notes(self.through, &self.home, home.as_deref(), path.as_deref())
    }
}

fn notes(through: Lender, home: &Path, given: Option<&OsStr>, path: Option<&OsStr>) -> Vec<String> {
    let mut notes = Vec::new();
    if given.is_some_and(|h| h != home.as_os_str()) {
        notes.push(format!("HOME is {} again, as without {through}", home.display()));
    }
    let has_home = path.is_some_and(|p| std::env::split_paths(p).any(|d| d.starts_with(home)));
    if !has_home {
        notes.push(format!(
            "PATH is {through}'s and has nothing below {}, and {through} may have dropped variables such as API keys and \
             agent sockets; `agentnet run` without {through} keeps them all",
            home.display()
        ));
    }
    notes
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
            through: Lender::Sudo,
        }
    }

    #[test]
    fn the_environment_is_the_users_and_the_rest_is_kept() {
        let pair = |k: &str, v: &str| (OsString::from(k), OsString::from(v));
        let given = [
            pair("HOME", "/root"),
            pair("LOGNAME", "root"),
            pair("SUDO_UID", "1000"),
            pair("DOAS_USER", "ada"),
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
        let given = |home, path| {
            notes(Lender::Doas, Path::new("/home/ada"), Some(OsStr::new(home)), Some(OsStr::new(path)))
        };
        let kept = given("/home/ada", "/home/ada/.local/bin:/bin");
        assert!(kept.is_empty(), "{kept:?}");
        let reset = given("/root", "/usr/sbin:/usr/bin");
        assert!(reset.len() == 2 && reset.iter().all(|note| note.contains("doas")), "{reset:?}");
    }

    #[test]
    fn an_unknown_number_is_said_to_be_one() {
        let error = Identity::look_up(3_999_999_999, None).unwrap_err();
        assert!(matches!(error, IdentityError::NoSuchUser { uid: 3_999_999_999 }), "{error}");
    }
}
