//! The mount namespace of a command that root started: what the kernel lets root change stays out of reach.
//!
//! Being root is enough to write `cgroup.procs` and leave the agent's cgroup, whatever capabilities are gone.
//! A read-only mount stops that write, yet not `clone3(CLONE_INTO_CGROUP)`, which takes any descriptor of a
//! directory and checks the file's mode only. So a cgroup namespace rooted at the agent's cgroup goes with
//! it, and every cgroup2 mount is covered by one that shows this subtree alone.
//!
//! The command cannot undo this: it has no `CAP_SYS_ADMIN` here, and in a user namespace of its own the kernel
//! locks mounts it inherits. Propagation is one way, from the host: what is mounted there later arrives.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::{FsWord, Mode, OFlags, open, statfs};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::child::{Failure, Step};
use super::fds::{BPFFS, CGROUP, CGROUP2, PROC};
use crate::kernel::mountinfo::{self, Mount, PATH_MAX};

/// agentnet's own state: control sockets, alert logs, pins.
const OWN_STATE: [&CStr; 2] = [c"/run/agentnet", c"/var/lib/agentnet"];

/// [`OWN_STATE`] as paths.
pub(super) fn own_state() -> [&'static Path; 2] {
    [Path::new("/run/agentnet"), Path::new("/var/lib/agentnet")]
}

/// File systems by which root configures the kernel. uid 0 may write most of them without any capability.
const KERNEL_CONTROL: [&[u8]; 11] = [
    b"sysfs",
    b"debugfs",
    b"tracefs",
    b"securityfs",
    b"configfs",
    b"efivarfs",
    b"pstore",
    b"fusectl",
    b"resctrl",
    b"selinuxfs",
    b"smackfs",
];

/// The parts of procfs that configure the kernel: `sys/kernel/core_pattern` alone would have it start a program
/// of the agent's choice outside the agent.
const PROC_CONTROL: [&[u8]; 6] = [b"/sys", b"/sysrq-trigger", b"/irq", b"/bus", b"/fs", b"/acpi"];

/// Flags for what carries no programs.
const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Room for the list of mounts: some hundred bytes each on hosts with thousands.
const LIST: usize = 8 << 20;

/// What is to be done; made before fork.
pub(super) struct Plan {
    /// Whether the command is uid 0, which the permissions of the kernel's files do not stop.
    root: bool,
    /// Filled by the child. Pages that are not touched take no memory.
    list: Vec<u8>,
}

impl Plan {
    pub(super) fn new(root: bool) -> Self {
        Self { root, list: vec![0; LIST] }
    }

    /// Makes the namespaces and changes the mounts. The process has to be in the agent's cgroup.
    ///
    /// Async-signal-safe.
    pub(super) fn apply(&mut self) -> Result<(), Failure> {
        let namespace = Failure::during(Step::MountNamespace);
        // SAFETY: only CLONE_FILES can invalidate descriptors, and it is not asked for.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP) }.map_err(&namespace)?;
        mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(&namespace)?;

        let length = read_list(&mut self.list).map_err(Failure::during(Step::MountList))?;
        let list = self.list.get(..length).unwrap_or_default();
        for entry in mountinfo::mounts(list) {
            self.change(&entry)?;
        }
        for directory in OWN_STATE {
            cover(directory)?;
        }
        Ok(())
    }

    fn change(&self, entry: &Mount<'_>) -> Result<(), Failure> {
        let mut buffer = [0; PATH_MAX];
        let Some(point) = mountinfo::c_path(entry.point, b"", &mut buffer) else {
            return Err(Failure::at(Step::MountList, Errno::NAMETOOLONG, entry.point));
        };
        match entry.kind {
            b"cgroup" if shows(point, CGROUP) => read_only(point, entry.flags()),
            b"cgroup2" if shows(point, CGROUP2) => {
                read_only(point, entry.flags())?;
                own_subtree(point)
            }
            b"bpf" if shows(point, BPFFS) => cover(point),
            b"proc" if self.root && shows(point, PROC) => proc_read_only(entry),
            // The automounter stands in until somebody looks; then the host mounts it, writable.
            b"binfmt_misc" if self.root => cover(point),
            b"autofs" if self.root && entry.point.ends_with(b"/binfmt_misc") => cover(point),
            kind if self.root && KERNEL_CONTROL.contains(&kind) => read_only(point, entry.flags()),
            _ => Ok(()),
        }
    }
}

/// Reads the list into `buffer` and returns its length.
fn read_list(buffer: &mut [u8]) -> Result<usize, Errno> {
    let file = open(c"/proc/self/mountinfo", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut length = 0;
    loop {
        let Some(free) = buffer.get_mut(length..).filter(|b| !b.is_empty()) else {
            return Err(Errno::TOOBIG);
        };
        match rustix::io::read(&file, free) {
            Ok(0) => return Ok(length),
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a file system of this kind is what a path leads to: a mount hidden under another one is out of
/// reach as it is, and changing the path would change the wrong one.
fn shows(point: &CStr, magic: FsWord) -> bool {
    statfs(point).is_ok_and(|s| s.f_type == magic)
}

/// Makes the mount at `point` read-only, keeping its other `flags`.
fn read_only(point: &CStr, flags: MountFlags) -> Result<(), Failure> {
    match mount_remount(point, flags | MountFlags::BIND | MountFlags::RDONLY, c"") {
        // Gone, or hidden under a mount that came later.
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Failure::at(Step::ReadOnly, errno, point.to_bytes())),
    }
}

/// Mounts the command's cgroup and what is below it in place of the whole hierarchy.
fn own_subtree(point: &CStr) -> Result<(), Failure> {
    // The kernel refuses a file system on top of itself; and should the next step fail, nothing shows.
    match mount_empty(point) {
        Ok(()) => {}
        // A single file of it, bound somewhere: no directory to start a process into.
        Err(Errno::NOTDIR) => return Ok(()),
        Err(errno) => return Err(Failure::at(Step::Cover, errno, point.to_bytes())),
    }
    mount(c"cgroup2", point, c"cgroup2", PLAIN, None)
        .map_err(|errno| Failure::at(Step::Cover, errno, point.to_bytes()))?;
    read_only(point, PLAIN)
}

/// Puts an empty read-only directory in place of `point`, if it exists.
fn cover(point: &CStr) -> Result<(), Failure> {
    match mount_empty(point) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Failure::at(Step::Cover, errno, point.to_bytes())),
    }
}

fn mount_empty(point: &CStr) -> Result<(), Errno> {
    mount(c"agentnet", point, c"tmpfs", PLAIN | MountFlags::RDONLY, c"size=4k,nr_inodes=2,mode=555")
}

/// Makes the parts of a procfs mount that configure the kernel read-only, or all of it if only such a part is
/// mounted. As a consequence the kernel mounts no second, whole procfs in a user namespace.
fn proc_read_only(entry: &Mount<'_>) -> Result<(), Failure> {
    let mut buffer = [0; PATH_MAX];
    let parts: &[&[u8]] = if entry.root == b"/" { &PROC_CONTROL } else { &[b""] };
    for part in parts {
        let Some(point) = mountinfo::c_path(entry.point, part, &mut buffer) else {
            return Err(Failure::at(Step::MountList, Errno::NAMETOOLONG, entry.point));
        };
        // What is mounted further down (binfmt_misc) has to be found there still.
        let bound = match *part {
            b"/sys" => mount_bind_recursive(point, point),
            _ => mount_bind(point, point),
        };
        match bound {
            Ok(()) => read_only(point, entry.flags())?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(Failure::at(Step::ReadOnly, errno, point.to_bytes())),
        }
    }
    Ok(())
}
