//! Landlock, which keeps an agent from its user's other processes.

use std::io;

use super::{Check, Purpose, Subject};

const LANDLOCK: Subject = Subject::optional("landlock", "Landlock", Purpose::Run);

/// The first version with scopes: signals and abstract Unix sockets.
pub const SCOPES_ABI: i64 = 6;

/// The version of the kernel's Landlock.
///
/// # Errors
///
/// If it is not built in, or not enabled at boot.
pub fn abi() -> io::Result<i64> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag landlock_create_ruleset(2) takes no attributes and only returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    if abi < 0 { Err(io::Error::last_os_error()) } else { Ok(abi) }
}

pub(super) fn check(abi: &io::Result<i64>) -> Check {
    match abi {
        Ok(abi) if *abi >= SCOPES_ABI => LANDLOCK.ok(format!("ABI {abi}")),
        Ok(abi) => LANDLOCK.degraded(
            format!(
                "ABI {abi}: an agent can signal its user's other processes and reach their abstract sockets"
            ),
            "use Linux 6.12 or later",
        ),
        Err(error) => LANDLOCK.missing(
            format!("{error}: an agent can reach into its user's other processes"),
            "use a kernel with CONFIG_SECURITY_LANDLOCK=y, and add landlock to its lsm= parameter",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::State;

    #[test]
    fn versions_are_understood() {
        let cases = [
            (check(&Ok(7)), State::Ok),
            (check(&Ok(3)), State::Degraded),
            (check(&Err(io::ErrorKind::Unsupported.into())), State::Missing),
        ];
        for (check, state) in cases {
            assert_eq!(check.state, state, "{check:?}");
            let gap = matches!(check.state, State::Degraded | State::Missing);
            assert_eq!(check.fix.is_some(), gap, "whoever reports a gap says what to do: {check:?}");
        }
    }
}
