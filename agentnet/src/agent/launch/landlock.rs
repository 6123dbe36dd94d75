//! Isolation from processes outside the agent, by a Landlock domain.
//!
//! A process in a domain may not trace one outside it: no ptrace, no `process_vm_writev`, no `pidfd_getfd`, no
//! `/proc/PID/{mem,fd,root,cwd,environ}`. That is what the domain is for: without it, an agent could take over
//! any process of the same user and send from there. Scopes (Linux 6.12) add signals and abstract Unix
//! sockets. Files are none of its business.

use std::os::fd::{AsRawFd, OwnedFd};

use ::landlock::{AccessFs, Ruleset, RulesetAttr, RulesetError, Scope};
use rustix::io::Errno;

use crate::kernel::features::landlock;

/// What this kernel's Landlock can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// Not built in, or not enabled at boot.
    None,
    /// Linux 5.13: no tracing out of the domain.
    Tracing,
    /// Linux 6.12: signals and abstract sockets as well.
    Scopes,
}

impl Support {
    /// Asks the kernel.
    pub(super) fn probe() -> Self {
        match landlock::abi() {
            Err(_) => Self::None,
            Ok(..landlock::SCOPES_ABI) => Self::Tracing,
            Ok(_) => Self::Scopes,
        }
    }
}

/// A domain ready to be entered.
pub(super) struct Domain(OwnedFd);

impl Domain {
    /// Makes the ruleset; `None` where the kernel has no Landlock.
    pub(super) fn create(support: Support) -> Result<Option<Self>, RulesetError> {
        let ruleset = match support {
            Support::None => return Ok(None),
            // A ruleset has to restrict something. Making block devices is what an agent misses least. It costs
            // mount(2): the kernel refuses that in any domain that handles file accesses.
            Support::Tracing => Ruleset::default().handle_access(AccessFs::MakeBlock)?,
            // No file access is handled here, so sandboxes inside the agent (bubblewrap, rootless containers)
            // can mount.
            Support::Scopes => Ruleset::default().scope(Scope::Signal | Scope::AbstractUnixSocket)?,
        };
        Ok(Option::<OwnedFd>::from(ruleset.create()?).map(Self))
    }

    /// Enters the domain for good; needs no_new_privs.
    ///
    /// Async-signal-safe.
    pub(super) fn enter(&self) -> Result<(), Errno> {
        // SAFETY: takes a descriptor and flags, no memory.
        let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0u32) };
        if result == 0 {
            Ok(())
        } else {
            Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Either kind of domain, on a thread of its own: entering one concerns the calling thread only.
    #[test]
    fn a_process_outside_the_domain_cannot_be_traced() {
        assert_ne!(Support::probe(), Support::None, "this test needs a kernel with Landlock");
        for support in [Support::Tracing, Support::Scopes] {
            if support == Support::Scopes && Support::probe() != Support::Scopes {
                continue;
            }
            let mut outside = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
            let traced = format!("/proc/{}/root/", outside.id());
            let (before, after) = std::thread::spawn(move || {
                let before = std::fs::metadata(&traced);
                rustix::thread::set_no_new_privs(true).unwrap();
                Domain::create(support).unwrap().unwrap().enter().unwrap();
                (before, std::fs::metadata(&traced))
            })
            .join()
            .unwrap();
            outside.kill().unwrap();
            outside.wait().unwrap();
            assert!(before.is_ok(), "{before:?}");
            assert_eq!(after.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{support:?}");
        }
    }
}
