//! Who borrowed root: what sudo and doas say of their caller.

use std::{env, ffi::OsString, fmt, io};

use nix::unistd::User;

/// A program that lends root to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lender {
    /// `sudo`.
    Sudo,
    /// `doas`.
    Doas,
}

impl fmt::Display for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sudo => "sudo",
            Self::Doas => "doas",
        })
    }
}

/// The variables that [`borrower`] reads.
pub const VARIABLES: [&str; 3] = ["SUDO_UID", "SUDO_GID", "DOAS_USER"];

/// The user who called sudo or doas. May be root, who needs neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Borrower {
    /// Numeric user id.
    pub uid: u32,
    /// The group at the time of the call, where it is told.
    pub gid: Option<u32>,
    /// What was called.
    pub through: Lender,
}

/// Why [`VARIABLES`] are of no use.
#[derive(Debug, thiserror::Error)]
pub enum BorrowerError {
    /// Not a number.
    #[error("{variable} is {value:?}, not the number that sudo sets; unset it to run the command as root")]
    NotANumber {
        /// `SUDO_UID` or `SUDO_GID`.
        variable: &'static str,
        /// What it holds.
        value: OsString,
    },
    /// Nobody has that name.
    #[error("DOAS_USER is {name:?}, which no user is called; unset it to run the command as root")]
    NoSuchName {
        /// What it holds.
        name: OsString,
    },
    /// The user database failed.
    #[error("cannot look up user {name:?}: {source}")]
    Lookup {
        /// The name.
        name: OsString,
        /// What the C library said.
        source: io::Error,
    },
    /// One of them was inherited from somewhere else: doas with `keepenv` passes on what its caller calls
    /// `SUDO_UID`, sudo without `env_reset` what its caller calls `DOAS_USER`.
    #[error(
        "SUDO_UID says that user {sudo} started agentnet and DOAS_USER says user {doas}; unset the one that \
         is not true"
    )]
    Ambiguous {
        /// The user in `SUDO_UID`.
        sudo: u32,
        /// The user in `DOAS_USER`.
        doas: u32,
    },
}

/// The caller of sudo or doas; `None` if this process was started by neither. To be believed only by a
/// process that is root: anybody can set a variable.
///
/// # Errors
/// If the variables are there and lead to no user, or to two.
pub fn borrower() -> Result<Option<Borrower>, BorrowerError> {
    from(&|variable| env::var_os(variable).filter(|value| !value.is_empty()))
}

fn from(get: &dyn Fn(&str) -> Option<OsString>) -> Result<Option<Borrower>, BorrowerError> {
    let number = |variable| {
        let parse = |value: OsString| match value.to_str().and_then(|text| text.parse().ok()) {
            Some(number) => Ok(number),
            None => Err(BorrowerError::NotANumber { variable, value }),
        };
        get(variable).map(parse).transpose()
    };
    let (sudo, doas) = (number("SUDO_UID")?, get("DOAS_USER").map(uid_of).transpose()?);
    match (sudo, doas) {
        (Some(sudo), Some(doas)) if sudo != doas => Err(BorrowerError::Ambiguous { sudo, doas }),
        (Some(uid), _) => Ok(Some(Borrower { uid, gid: number("SUDO_GID")?, through: Lender::Sudo })),
        (None, Some(uid)) => Ok(Some(Borrower { uid, gid: None, through: Lender::Doas })),
        (None, None) => Ok(None),
    }
}

fn uid_of(name: OsString) -> Result<u32, BorrowerError> {
    let Some(text) = name.to_str() else { return Err(BorrowerError::NoSuchName { name }) };
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err(BorrowerError::NoSuchName { name }),
        Err(errno) => Err(BorrowerError::Lookup { name, source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Option<Borrower>, BorrowerError> {
        from(&|wanted| {
            variables.iter().find(|(variable, _)| *variable == wanted).map(|(_, value)| value.into())
        })
    }

    #[test]
    fn either_program_names_its_caller() {
        assert_eq!(with(&[]).unwrap(), None);
        let sudo = Borrower { uid: 1000, gid: Some(7), through: Lender::Sudo };
        assert_eq!(with(&[("SUDO_UID", "1000"), ("SUDO_GID", "7")]).unwrap(), Some(sudo));
        let doas = Borrower { uid: 0, gid: None, through: Lender::Doas };
        assert_eq!(with(&[("DOAS_USER", "root")]).unwrap(), Some(doas));
    }

    #[test]
    fn what_names_nobody_is_an_error() {
        for variables in [[("SUDO_UID", "ada")], [("SUDO_UID", "-1")], [("DOAS_USER", "no such user")]] {
            assert!(with(&variables).is_err(), "{variables:?}");
        }
    }

    #[test]
    fn two_answers_are_none() {
        let both = |uid| with(&[("SUDO_UID", uid), ("DOAS_USER", "root")]);
        assert!(matches!(both("1000"), Err(BorrowerError::Ambiguous { sudo: 1000, doas: 0 })));
        assert_eq!(both("0").unwrap().map(|borrower| borrower.through), Some(Lender::Sudo));
    }
}
