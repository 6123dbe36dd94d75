//! What this process may do, and what can make it root.

use std::{env, path::Path};

use caps::{CapSet, Capability};

use super::{Check, Purpose, Subject, host::read};
use crate::programs;

const PRIVILEGE: Subject = Subject::required("privilege", "privileges", Purpose::Run);

/// What this process may do.
pub(super) struct Privileges {
    root: bool,
    /// Of the capabilities that agentnet takes, those that this process does not have.
    lacking: Vec<Capability>,
    /// Root is root only in a namespace of its own, so its capabilities do not count.
    in_user_namespace: bool,
}

impl Privileges {
    pub(super) fn of_this_process() -> Self {
        // An error means a kernel without the capability: it cannot be had.
        let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
        let wanted = [Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN];
        let identity = |map: String| map.split_whitespace().eq(["0", "0", "4294967295"]);
        Self {
            root: rustix::process::geteuid().is_root(),
            lacking: wanted.into_iter().filter(|capability| !has(*capability)).collect(),
            in_user_namespace: !read("/proc/thread-self/uid_map").is_none_or(identity),
        }
    }

    /// Whether it may load and attach programs.
    pub(super) fn may_load(&self) -> bool {
        self.lacking.is_empty() && !self.in_user_namespace
    }

    /// Whether an agent can be started from here.
    pub(super) fn check(&self) -> Check {
        self.judge(programs::elevator(env::var_os("PATH").as_deref()).as_deref())
    }

    fn judge(&self, elevator: Option<&Path>) -> Check {
        if self.may_load() {
            return PRIVILEGE.ok("this process may do all that agentnet does");
        }
        match (self.root, elevator) {
            (true, _) if self.in_user_namespace => {
                PRIVILEGE.missing("root of a user namespace, not of the host", "run it on the host itself")
            }
            (true, _) => {
                let lacking: Vec<String> = self.lacking.iter().map(ToString::to_string).collect();
                let detail = format!("root, but without {}", lacking.join(" and "));
                PRIVILEGE
                    .missing(detail, "run it on the host itself, or give the container these capabilities")
            }
            (false, None) => PRIVILEGE.missing(
                "not root, and neither sudo nor doas is installed",
                "install sudo, or run agentnet as root",
            ),
            (false, Some(elevator)) => {
                PRIVILEGE.ok(format!("not root; agentnet asks {} for what takes root", elevator.display()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::features::State;

    #[test]
    fn root_is_had_or_asked_for() {
        let user =
            Privileges { root: false, lacking: vec![Capability::CAP_SYS_ADMIN], in_user_namespace: false };
        let asked = user.judge(Some(Path::new("/usr/bin/sudo")));
        assert_eq!(asked.state, State::Ok);
        assert!(asked.detail.contains("/usr/bin/sudo"), "{asked:?}");
        assert_eq!(user.judge(None).state, State::Missing);

        let container = Privileges { root: true, ..user };
        let told = container.judge(Some(Path::new("/usr/bin/sudo")));
        assert_eq!(told.state, State::Missing);
        assert!(told.detail.contains("CAP_SYS_ADMIN"), "{told:?}");

        let namespace = Privileges { root: true, lacking: Vec::new(), in_user_namespace: true };
        assert!(!namespace.may_load());
        assert_eq!(namespace.judge(None).state, State::Missing);
        let root = Privileges { in_user_namespace: false, ..namespace };
        assert!(root.may_load());
        assert_eq!(root.judge(None).state, State::Ok);
    }
}
