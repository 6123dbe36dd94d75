//! Capabilities: what a root agent keeps of root.

use caps::Capability;
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What working as root on files, users and services takes: package managers, `su`, test suites, servers on low
/// ports. Close to what container engines give by default, less what reaches the network or the kernel:
///
/// * `NET_RAW`, `NET_ADMIN`: sockets, interfaces and rules past the policy.
/// * `SYS_ADMIN`, `BPF`, `PERFMON`, `SYS_MODULE`, `SYS_RAWIO`, `SYS_BOOT`, `SYSLOG`: detach the policy's
///   programs, undo the mounts, or change the kernel that enforces it.
/// * `SYS_PTRACE`, `CHECKPOINT_RESTORE`, `SYS_NICE`: act on processes outside the agent.
/// * `DAC_READ_SEARCH`: opens files by handle, past every mount. `MKNOD`: makes a node of the host's disk.
/// * The rest (time, quota, audit control, mandatory access control, leases …): nothing an agent does needs it.
///
/// `SETPCAP` stays because `su` and init scripts lower their own sets with it, and cannot raise them past the
/// bounding set; `SETFCAP` because package scripts and user namespaces of root need it, and no_new_privs makes
/// the agent itself blind to file capabilities; `SYS_CHROOT` because it opens nothing that was closed;
/// `AUDIT_WRITE` because PAM gives up without it.
const KEPT: [Capability; 12] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_SETPCAP,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SYS_CHROOT,
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_SETFCAP,
];

/// How many capabilities the two words of capset(2) hold.
const WIDTH: u32 = 64;

/// What is to be given up; made before fork.
pub(super) struct Plan {
    keep: CapabilitySet,
    /// The highest number this kernel knows: one newer than this program is dropped like the others.
    last: u32,
}

impl Plan {
    pub(super) fn new() -> Self {
        let keep = KEPT.iter().fold(CapabilitySet::empty(), |set, c| set | nth(u32::from(c.index())));
        let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .filter(|&n| n < WIDTH)
            .unwrap_or(WIDTH - 1);
        Self { keep, last }
    }

    /// Empties the bounding set of all but the kept. Needs SETPCAP, so before a change of user. Without it (an
    /// ordinary user) the set stays, and no_new_privs keeps it from mattering.
    ///
    /// Async-signal-safe.
    pub(super) fn limit_bounding_set(&self) -> Result<(), Errno> {
        if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
            return Ok(());
        }
        for capability in (0..=self.last).map(nth).filter(|&c| !self.keep.contains(c)) {
            match remove_capability_from_bounding_set(capability) {
                // The file with the highest number could not be read: past the end.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Keeps of the present sets what may be kept.
    ///
    /// Async-signal-safe.
    pub(super) fn apply(&self) -> Result<(), Errno> {
        match clear_ambient_capability_set() {
            // Linux before 4.3 has no such set.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
        let now = capabilities(None)?;
        set_capabilities(
            None,
            CapabilitySets {
                effective: now.effective & self.keep,
                permitted: now.permitted & self.keep,
                inheritable: now.inheritable & self.keep,
            },
        )
    }
}

fn nth(number: u32) -> CapabilitySet {
    CapabilitySet::from_bits_retain(1 << number)
}

/// Whether the calling thread may create namespaces and mount.
pub(super) fn has_sys_admin() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_kept_reaches_the_network_the_kernel_or_other_processes() {
        let plan = Plan::new();
        let dangerous = CapabilitySet::NET_ADMIN
            | CapabilitySet::NET_RAW
            | CapabilitySet::SYS_ADMIN
            | CapabilitySet::SYS_PTRACE
            | CapabilitySet::SYS_MODULE
            | CapabilitySet::SYS_RAWIO
            | CapabilitySet::BPF
            | CapabilitySet::PERFMON
            | CapabilitySet::CHECKPOINT_RESTORE
            | CapabilitySet::DAC_READ_SEARCH
            | CapabilitySet::MKNOD;
        assert!(plan.keep.intersection(dangerous).is_empty());
        assert!(plan.keep.contains(CapabilitySet::CHOWN | CapabilitySet::SETUID));
        assert!(plan.last >= 39, "CAP_BPF is number 39 and has to be among those dropped");
    }
}
