//! What the child gives up before it runs the command: which steps, in which order, and what this kernel cannot
//! do of it.

use rustix::io::Errno;
use rustix::process::geteuid;
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::child::{Failure, Step};
use super::fds::{self, Closed};
use super::landlock::{Domain, Support};
use super::seccomp::Filters;
use super::{Identity, LaunchError, caps, mounts};

/// Whether a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// In full.
    Active,
    /// As far as this kernel can; the text says what is missing.
    Partial(&'static str),
    /// Not on this kernel; the text says what that leaves open.
    Unavailable(&'static str),
    /// Not needed here; the text says why.
    NotNeeded(&'static str),
}

/// What a command is confined to and whom it runs as. Depends on who calls and on the kernel, not on the policy.
#[derive(Clone, Debug)]
pub struct Confinement {
    identity: Option<Identity>,
    privileged: bool,
    isolation: Support,
}

impl Confinement {
    /// What applies to a command started by this process, as `identity` if given (of use to root only).
    #[must_use]
    pub fn new(identity: Option<Identity>) -> Self {
        Self { identity, privileged: geteuid().is_root(), isolation: Support::probe() }
    }

    /// Whom the command runs as, if not as the caller.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The steps by name, for people to read.
    #[must_use]
    pub fn describe(&self) -> Vec<(&'static str, Status)> {
        let isolation = match self.isolation {
            Support::Scopes => Status::Active,
            Support::Tracing => Status::Partial(
                "Landlock before Linux 6.12: signals and abstract Unix sockets to other processes stay open, \
                 and mount(2) is refused inside the agent",
            ),
            Support::None => Status::Unavailable(
                "no Landlock: the agent can trace other processes of the same user and send from there; set \
                 kernel.yama.ptrace_scope to 1 or boot with lsm=landlock,…",
            ),
        };
        let mounts = if self.privileged {
            Status::Active
        } else {
            Status::NotNeeded(
                "not started by root: file permissions keep the user off the cgroup file system",
            )
        };
        vec![
            ("inherited descriptors", Status::Active),
            ("no new privileges", Status::Active),
            ("mount and cgroup namespace", mounts),
            ("process isolation", isolation),
            ("capabilities", Status::Active),
            ("system call filter", Status::Active),
        ]
    }

    /// Makes ready what the child will use, and closes what it must not inherit.
    pub(super) fn prepare(&self) -> Result<(Prepared, Vec<Closed>), LaunchError> {
        let mounts = if self.privileged {
            if !caps::has_sys_admin() {
                return Err(LaunchError::CannotConfineRoot);
            }
            fds::check_working_directory(&mounts::own_state())?;
            Some(mounts::Plan::new(self.identity.is_none()))
        } else {
            None
        };
        // The mode can be asked for where filters are compiled in; see seccomp(2).
        if rustix::thread::secure_computing_mode() == Err(Errno::INVAL) {
            return Err(LaunchError::Unsupported { what: "system call filters (CONFIG_SECCOMP_FILTER)" });
        }
        let filters = Filters::compile()
            .map_err(|_| LaunchError::Unsupported { what: "system call filters for this architecture" })?;
        let domain = Domain::create(self.isolation).map_err(|e| LaunchError::System {
            what: "making a Landlock ruleset",
            source: std::io::Error::other(e),
        })?;
        let closed = fds::close_inherited()?;
        let identity = self.identity.as_ref().filter(|_| self.privileged).map(Ids::from);
        Ok((Prepared { mounts, domain, capabilities: caps::Plan::new(), identity, filters }, closed))
    }
}

/// An [`Identity`] as the kernel takes it.
struct Ids {
    uid: rustix::thread::Uid,
    gid: rustix::thread::Gid,
    groups: Vec<rustix::thread::Gid>,
}

impl From<&Identity> for Ids {
    fn from(identity: &Identity) -> Self {
        Self {
            uid: rustix::thread::Uid::from_raw(identity.uid),
            gid: rustix::thread::Gid::from_raw(identity.gid),
            groups: identity.groups.iter().copied().map(rustix::thread::Gid::from_raw).collect(),
        }
    }
}

impl Ids {
    fn take_on(&self) -> Result<(), Errno> {
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)
    }
}

/// Everything the child needs, made before fork.
pub(super) struct Prepared {
    mounts: Option<mounts::Plan>,
    domain: Option<Domain>,
    capabilities: caps::Plan,
    identity: Option<Ids>,
    filters: Filters,
}

impl Prepared {
    /// The steps in the only order that works.
    ///
    /// Async-signal-safe.
    pub(super) fn apply(&mut self) -> Result<(), Failure> {
        // First, as Landlock and seccomp demand it of the unprivileged; it takes nothing from root's own calls.
        set_no_new_privs(true).map_err(Failure::during(Step::NoNewPrivileges))?;
        // While CAP_SYS_ADMIN is there, and before Landlock, which on older kernels forbids mounting.
        if let Some(mounts) = &mut self.mounts {
            mounts.apply()?;
        }
        if let Some(domain) = &self.domain {
            domain.enter().map_err(Failure::during(Step::Isolation))?;
        }
        // While CAP_SETPCAP is there: the change of user takes all capabilities.
        self.capabilities.limit_bounding_set().map_err(Failure::during(Step::BoundingSet))?;
        // While CAP_SETUID and CAP_SETGID are there.
        if let Some(identity) = &self.identity {
            identity.take_on().map_err(Failure::during(Step::Identity))?;
        }
        self.capabilities.apply().map_err(Failure::during(Step::Capabilities))?;
        // Last: it may forbid what the other steps use.
        self.filters.install().map_err(Failure::during(Step::SystemCallFilter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_old_kernel_leaves_open_is_said() {
        let of = |isolation, privileged| Confinement { identity: None, privileged, isolation }.describe();
        let status = |steps: &[(&str, Status)], name| steps.iter().find(|(n, _)| *n == name).unwrap().1;
        let old = of(Support::None, false);
        assert!(matches!(status(&old, "process isolation"), Status::Unavailable(_)));
        assert!(matches!(status(&old, "mount and cgroup namespace"), Status::NotNeeded(_)));
        assert!(matches!(status(&of(Support::Tracing, false), "process isolation"), Status::Partial(_)));
        assert!(of(Support::Scopes, true).iter().all(|(_, s)| *s == Status::Active));
    }
}
