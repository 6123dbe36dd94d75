//! Processes: children, orphans, threads, other programs, other namespaces, other cgroups.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::{
    mount::MountFlags,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
    thread::UnshareFlags,
};

use super::{Args, Failure, Operation, Outcome, Report, Step as _, Trace, run, tcp, udp};
use crate::sys;

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    Operation::new("fork-send", Trace::Marker, "a child sends", |args| {
        run::outcome_in_child(|| udp::sendto(args))
    }),
    Operation::new("orphan-send", Trace::Marker, "a grandchild in a session of its own sends", orphan),
    Operation::new("thread-send", Trace::Marker, "a second thread sends", in_thread),
    Operation::new("exec-send", Trace::Marker, "another program sends", exec),
    Operation::new("inherited-send", Trace::Marker, "a child sends through its parent's socket", inherited),
    Operation::new("passed-send", Trace::Marker, "a child sends through a socket it was handed", passed),
    Operation::new("user-namespace-send", Trace::Marker, "root of a new user namespace sends", |args| {
        unshare(UnshareFlags::NEWUSER)?;
        udp::sendto(args)
    }),
    Operation::new(
        "net-namespace-send",
        Trace::Marker,
        "a socket taken along into a new network namespace",
        |args| {
            let fd = udp::socket(args.to)?;
            unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)?;
            sys::send_to(&fd, args.secret(), 0, args.to).step("sendto")
        },
    ),
    Operation::new(
        "nested-cgroup-send",
        Trace::Marker,
        "from a cgroup below, made for the purpose",
        |args| in_nested_cgroup(|| tcp::plain(args).and_then(|_| udp::sendto(args))),
    )
    .privileged(),
    Operation::new(
        "root-cgroup-send",
        Trace::Marker,
        "moves itself to the root of the cgroups, then sends",
        |args| {
            let root = cgroup_mount()?;
            fs::write(root.join("cgroup.procs"), "0").step("cgroup.procs")?;
            udp::sendto(args)
        },
    )
    .privileged(),
    Operation::new(
        "mounted-cgroup-send",
        Trace::Marker,
        "the same in a hierarchy it mounted itself",
        mounted,
    )
    .privileged(),
    Operation::new("mount-bpf", Trace::Nothing, "mounts a bpf file system", |_| {
        unshare(UnshareFlags::NEWNS)?;
        mount("bpf").map(|_| 0)
    })
    .privileged(),
    Operation::new("bpf-links", Trace::Nothing, "bpf(BPF_LINK_GET_NEXT_ID)", |_| bpf_links()).privileged(),
];

/// Does something in a cgroup below, made for the purpose, and comes back.
pub(super) fn in_nested_cgroup(body: impl FnOnce() -> Outcome) -> Outcome {
    let root = cgroup_mount()?;
    let own = own_cgroup(&root)?;
    let child = own.join(format!("probe-{}", std::process::id()));
    fs::create_dir(&child).step("mkdir")?;
    fs::write(child.join("cgroup.procs"), "0").step("cgroup.procs")?;
    let done = body();
    let _ = fs::write(own.join("cgroup.procs"), "0");
    let _ = fs::remove_dir(&child);
    done
}

fn orphan(args: &Args) -> Outcome {
    let (reader, writer) = rustix::pipe::pipe().step("pipe")?;
    if run::fork().step("fork")?.is_none() {
        let done = rustix::process::setsid().step("setsid").and_then(|_| run::fork().step("fork"));
        match done {
            Ok(None) => run::tell(writer, &Report::new("orphan", args.to, udp::sendto(args))),
            Ok(Some(_)) => {}
            Err(failure) => run::tell(writer, &Report::new("orphan", args.to, Err(failure))),
        }
        run::exit_now();
    }
    drop(writer);
    run::outcome_of(&run::hear(reader).step("orphan")?)
}

fn in_thread(args: &Args) -> Outcome {
    thread::scope(|scope| scope.spawn(|| udp::sendto(args)).join())
        .unwrap_or_else(|_| Err(Failure::new("thread", io::ErrorKind::Other)))
}

fn exec(args: &Args) -> Outcome {
    let output = Command::new("/proc/self/exe")
        .args(["op", "udp-sendto", "--marker", &args.marker])
        .args(["--to", &args.to.to_string(), "--via", &args.via.to_string()])
        .output()
        .step("exec")?;
    let report: Report = serde_json::from_slice(&output.stdout).step("exec")?;
    run::outcome_of(&report)
}

fn inherited(args: &Args) -> Outcome {
    let fd = udp::socket(args.to)?;
    run::outcome_in_child(|| sys::send_to(&fd, args.secret(), 0, args.to).step("sendto"))
}

fn passed(args: &Args) -> Outcome {
    let kind = rustix::net::SocketType::DGRAM;
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (giver, taker) =
        rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None).step("socketpair")?;
    let fd = udp::socket(args.to)?;
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    rustix::net::sendmsg(&giver, &[IoSlice::new(b".")], &mut ancillary, SendFlags::empty())
        .step("sendmsg")?;
    drop(fd);
    run::outcome_in_child(|| sys::send_to(&take(&taker)?, args.secret(), 0, args.to).step("sendto"))
}

fn take(socket: &OwnedFd) -> Result<OwnedFd, Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::empty())
        .step("recvmsg")?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        .step("recvmsg")
}

fn unshare(flags: UnshareFlags) -> Result<(), Failure> {
    // SAFETY: the probe has one thread, and file descriptors stay shared with nobody.
    unsafe { rustix::thread::unshare_unsafe(flags) }.step("unshare")
}

/// Where the cgroup hierarchy is, mounted by ourselves if it cannot be seen.
fn cgroup_mount() -> Result<PathBuf, Failure> {
    if let Ok(root) = crate::lab::cgroup::mount_point() {
        return Ok(root);
    }
    unshare(UnshareFlags::NEWNS)?;
    mount_cgroup()
}

fn mount_cgroup() -> Result<PathBuf, Failure> {
    mount("cgroup2")
}

/// Mounts a file system at a directory of our own. The mount namespace is our own as well and dies with us.
fn mount(kind: &str) -> Result<PathBuf, Failure> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).step("make private")?;
    let place = Path::new("/tmp");
    rustix::mount::mount("none", place, kind, MountFlags::empty(), None).step("mount")?;
    Ok(place.to_owned())
}

/// Makes a cgroup in a hierarchy that shows just the part below its own, as root of a new user namespace.
fn mounted(args: &Args) -> Outcome {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP)?;
    fs::write("/proc/self/setgroups", "deny").step("setgroups")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).step("uid_map")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).step("gid_map")?;
    let own = mount_cgroup()?;
    let child = own.join(format!("probe-{}", std::process::id()));
    fs::create_dir(&child).step("mkdir")?;
    let sent =
        fs::write(child.join("cgroup.procs"), "0").step("cgroup.procs").and_then(|()| udp::sendto(args));
    let _ = fs::write(own.join("cgroup.procs"), "0");
    let _ = fs::remove_dir(&child);
    sent
}

fn own_cgroup(root: &Path) -> Result<PathBuf, Failure> {
    crate::lab::cgroup::of_process(root, "self").map_err(io::Error::other).step("own cgroup")
}

fn bpf_links() -> Outcome {
    const BPF_LINK_GET_NEXT_ID: libc::c_long = 31;
    // The first two words are what the command reads and writes: an id, and the next.
    let mut attributes = [0_u32; 16];
    let size = size_of_val(&attributes);
    // SAFETY: the attributes are readable and writable for `size` bytes.
    let found = unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_GET_NEXT_ID, attributes.as_mut_ptr(), size) };
    match sys::check(found) {
        // No link at all is an answer, too.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
        other => other.map(|_| 0).step("bpf"),
    }
}
