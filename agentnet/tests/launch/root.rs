//! A command that is root, or that root started: the kernel's own file systems are out of its reach, also from
//! a user namespace of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::helper::call;
use crate::support::{NOBODY, expect_probes, helper, launch, needs_root, output, stdout, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("root::cannot_leave_its_cgroup", cannot_leave),
        trial("root::cannot_undo_the_mounts", cannot_undo),
        trial("root::a_user_under_sudo_cannot_undo_the_mounts", cannot_undo_as_user),
        trial("root::a_cgroup_mount_of_its_own_shows_its_subtree_only", fresh_cgroup_mount),
        trial("root::kernel_settings_are_read_only", kernel_settings),
        trial("root::bpffs_is_covered", bpffs),
        trial("root::the_working_directory_is_no_way_around", working_directory),
    ]
}

/// A cgroup of the test's own below the root of the hierarchy.
struct Cgroup {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        needs_root()?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let mount = table
            .lines()
            .filter(|l| l.contains(" - cgroup2 "))
            .find_map(|l| l.split(' ').nth(4))
            .context("no cgroup2 mount")?;
        let path = Path::new(mount).join(format!("agentnet-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self { mount: mount.into(), path })
    }

    fn procs(&self) -> String {
        self.mount.join("cgroup.procs").display().to_string()
    }

    /// The launcher with the command in this cgroup.
    fn launch(&self, flags: &[&str], args: &[&str]) -> std::process::Command {
        let own = ["run", "--cgroup", self.path.to_str().unwrap()];
        helper(0, &[&own, flags, &["--"], args].concat())
    }

    fn probe(&self, flags: &[&str], probes: &[&str]) -> std::process::Command {
        self.launch(flags, &[&["/proc/self/exe", "--helper", "probe"], probes].concat())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The command's exit is seen before its place in the cgroup is given up.
        for _ in 0..1000 {
            if std::fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Probes of this file, run by the helper.
pub(crate) fn attempt(verb: &str, argument: &str) -> Result<(), Errno> {
    match verb {
        // clone3(CLONE_INTO_CGROUP): checks the mode of the file, not the mount.
        "clone_into" => clone_into(argument),
        // Root of a user namespace with a mount namespace of its own.
        "userns" => new_namespaces(UnshareFlags::NEWUSER | UnshareFlags::NEWNS),
        "userns_cgroup" => {
            new_namespaces(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)
        }
        "remount" => mount_remount(argument, MountFlags::BIND, c""),
        "mount_cgroup" => mount("x", argument, "cgroup2", MountFlags::empty(), None),
        "mount_proc" => mount_proc(argument),
        "mount_tmpfs" => mount("x", argument, "tmpfs", MountFlags::empty(), None),
        "mount_sysfs" => mount("x", argument, "sysfs", MountFlags::empty(), None),
        "bind_under" => {
            // A copy of the parent mount without what covers it.
            let (from, to) = argument.split_once('=').unwrap();
            rustix::mount::mount_bind(from, to)
        }
        "enter_mounts_of" => {
            let file = rustix::fs::open(
                format!("/proc/{argument}/ns/mnt"),
                rustix::fs::OFlags::RDONLY,
                rustix::fs::Mode::empty(),
            )?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Mount),
            )
        }
        other => panic!("unknown probe {other}"),
    }
}

fn new_namespaces(flags: UnshareFlags) -> Result<(), Errno> {
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    // SAFETY: descriptors are not unshared; the helper has one thread.
    unsafe { unshare_unsafe(flags)? };
    let write = |file: &str, text: String| {
        std::fs::write(format!("/proc/self/{file}"), text).map_err(|e| Errno::from_io_error(&e).unwrap())
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {} 1", uid.as_raw()))?;
    write("gid_map", format!("0 {} 1", gid.as_raw()))
}

/// <linux/sched.h>; the constant of `libc` overflows.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

fn clone_into(directory: &str) -> Result<(), Errno> {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    // SAFETY: all fields are numbers, zero means unused.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.cgroup = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&directory)).unwrap();
    // SAFETY: like fork; the child exits at once.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        // SAFETY: ends the child without running anything of the parent's.
        0 => unsafe { libc::_exit(0) },
        pid => {
            let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap());
            rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).map(drop)
        }
    }
}

/// A second procfs takes a process namespace as well, in which the caller's child lives.
fn mount_proc(directory: &str) -> Result<(), Errno> {
    call(libc::SYS_unshare, [libc::CLONE_NEWPID.unsigned_abs().into(), 0, 0, 0, 0, 0])?;
    // SAFETY: the child makes one system call and exits with its error number.
    match unsafe { libc::fork() } {
        0 => {
            let result = mount("proc", directory, "proc", MountFlags::empty(), None);
            let code = result.err().map_or(0, Errno::raw_os_error);
            // SAFETY: ends the child.
            unsafe { libc::_exit(code) }
        }
        pid => {
            let pid = rustix::process::Pid::from_raw(pid);
            let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
            match status.and_then(|(_, s)| s.exit_status()) {
                Some(0) => Ok(()),
                Some(code) => Err(Errno::from_raw_os_error(code)),
                None => Err(Errno::IO),
            }
        }
    }
}

fn cannot_leave() -> Result<()> {
    let cgroup = Cgroup::new("leave")?;
    let mount = cgroup.mount.display().to_string();
    // The parent in the hierarchy is the mount's own directory, which shows the command its own cgroup instead.
    let own = stdout(cgroup.launch(&[], &["/bin/cat", &cgroup.procs(), "/proc/self/cgroup"]))?;
    let (pid, namespace) = own.split_once('\n').context("two lines")?;
    ensure!(pid.parse::<u32>().is_ok() && namespace.contains("0::/\n"), "cat alone is in there: {own}");

    let name = cgroup.path.file_name().unwrap().to_str().unwrap();
    let write = format!("write:{}", cgroup.procs());
    let child = format!("mkdir:{mount}/x");
    let by_name = format!("read:{mount}/{name}/cgroup.procs");
    let parent = format!("/proc/{}/root{mount}", std::process::id());
    let around = format!("write:{parent}/cgroup.procs");
    let clone_around = format!("clone_into:{parent}");
    let clone_own = format!("clone_into:{mount}");
    let namespace = format!("enter_mounts_of:{}", std::process::id());
    expect_probes(
        cgroup.probe(&[], &[&write, &child, &by_name, &around, &clone_around, &namespace, &clone_own]),
        &[
            (&write, "EROFS"),
            (&child, "EROFS"),
            (&by_name, "ENOENT"),
            (&around, "EACCES"),
            (&clone_around, "EACCES"),
            (&namespace, "EACCES"),
            (&clone_own, "ok"),
        ],
    )?;
    // The attacks work where nothing stops them.
    expect_probes(helper(0, &["probe", &write, &clone_own]), &[(&write, "ok"), (&clone_own, "ok")])?;

    // Version 1 hierarchies: a release_agent there runs outside.
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for point in table.lines().filter(|l| l.contains(" - cgroup ")).filter_map(|l| l.split(' ').nth(4)) {
        let write = format!("write:{point}/cgroup.procs");
        expect_probes(cgroup.probe(&[], &[&write]), &[(&write, "EROFS")])?;
    }
    Ok(())
}

/// In a user namespace with all capabilities, what is mounted stays as it is.
fn undo(cgroup: &Cgroup, flags: &[&str]) -> Result<()> {
    let mount = cgroup.mount.display().to_string();
    let write = format!("write:{}", cgroup.procs());
    let umount = format!("umount:{mount}");
    let remount = format!("remount:{mount}");
    let parent = cgroup.mount.parent().context("parent")?.display().to_string();
    let bind = format!("bind_under:{parent}=/mnt");
    let refused = [(umount.as_str(), "EINVAL"), (&remount, "EPERM"), (&bind, "EINVAL")];
    let mut expected = vec![("userns", "ok"), ("mount_tmpfs:/mnt", "ok"), ("umount:/mnt", "ok")];
    expected.extend(refused);
    // The mode of the file comes first, and stops an ordinary user.
    expected.push((&write, if flags.is_empty() { "EROFS" } else { "EACCES" }));
    let names: Vec<&str> = expected.iter().map(|(n, _)| *n).collect();
    expect_probes(cgroup.probe(flags, &names), &expected)
}

fn cannot_undo() -> Result<()> {
    undo(&Cgroup::new("undo")?, &[])
}

fn cannot_undo_as_user() -> Result<()> {
    undo(&Cgroup::new("undo-user")?, &["--as", &NOBODY.to_string()])
}

fn fresh_cgroup_mount() -> Result<()> {
    let cgroup = Cgroup::new("fresh")?;
    let name = cgroup.path.file_name().unwrap().to_str().unwrap();
    let sibling = format!("read:/mnt/{name}/cgroup.procs");
    let sub = "mkdir:/mnt/sub";
    let expected = [
        ("userns_cgroup", "ok"),
        ("mount_cgroup:/mnt", "ok"),
        (sibling.as_str(), "ENOENT"),
        // Below itself it may do as it likes: the policy of the cgroup above holds there.
        (sub, "ok"),
        ("clone_into:/mnt", "ok"),
    ];
    let names: Vec<&str> = expected.iter().map(|(n, _)| *n).collect();
    expect_probes(cgroup.probe(&[], &names), &expected)
}

fn kernel_settings() -> Result<()> {
    needs_root()?;
    let paths = [
        "write:/proc/sys/kernel/core_pattern",
        "write:/proc/sys/kernel/modprobe",
        "write:/proc/sysrq-trigger",
        "write:/sys/kernel/mm/transparent_hugepage/enabled",
    ];
    let present: Vec<&str> =
        paths.into_iter().filter(|p| Path::new(p.trim_start_matches("write:")).exists()).collect();
    ensure!(present.len() >= 2, "{present:?}");
    let free: Vec<_> = present.iter().map(|p| (*p, "ok")).collect();
    expect_probes(helper(0, &[&["probe"], &present[..]].concat()), &free)?;
    let mut expected: Vec<_> = present.iter().map(|p| (*p, "EROFS")).collect();
    expected.push(("read:/proc/sys/kernel/core_pattern", "ok"));
    expected.push(("write:/proc/self/comm", "ok"));
    // A second procfs would have them writable.
    expected.push(("userns", "ok"));
    expected.push(("mount_proc:/mnt", "EPERM"));
    let names: Vec<&str> = expected.iter().map(|(n, _)| *n).collect();
    expect_probes(launch(0, &[&["/proc/self/exe", "--helper", "probe"], &names[..]].concat()), &expected)?;

    // An ordinary user may mount one: it cannot write these files anyway, and sandboxes need it.
    let expected = [("userns", "ok"), ("mount_proc:/mnt", "ok")];
    let command = helper(
        0,
        &[
            "run",
            "--as",
            &NOBODY.to_string(),
            "--",
            "/proc/self/exe",
            "--helper",
            "probe",
            "userns",
            "mount_proc:/mnt",
        ],
    );
    expect_probes(command, &expected)
}

fn bpffs() -> Result<()> {
    needs_root()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().to_str().context("path")?;
    let (pin, make, umount) =
        (format!("read:{path}/pin"), format!("mkdir:{path}/x"), format!("umount:{path}"));
    let names = [pin.as_str(), &make, "userns", &umount];
    let run = ["run", "--bpffs", path, "--", "/proc/self/exe", "--helper", "probe"];
    expect_probes(
        helper(0, &[&run, &names[..]].concat()),
        &[(&pin, "ENOENT"), (&make, "EROFS"), ("userns", "ok"), (&umount, "EINVAL")],
    )
}

fn working_directory() -> Result<()> {
    let cgroup = Cgroup::new("cwd")?;
    for (directory, what) in
        [(cgroup.path.as_path(), "the cgroup file system"), (Path::new("/proc/sys/kernel"), "procfs")]
    {
        let mut command = cgroup.launch(&[], &["true"]);
        command.current_dir(directory);
        let refused = output(command)?;
        ensure!(refused.status.code() == Some(125));
        let said = String::from_utf8(refused.stderr)?;
        ensure!(said.contains(what), "{said}");
    }
    Ok(())
}
