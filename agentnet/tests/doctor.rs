//! The probes for real. Needs root on the host itself, and Linux 6.12 or later.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    collections::HashSet,
    fs::{self, File},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agentnet::kernel::{
    features::{self, Check, Purpose, State},
    mounts::{self, MountError},
    sockdiag::{self, Protocol},
};
use rustix::{
    fs::FlockOperation,
    mount::{MountPropagationFlags, UnmountFlags},
    thread::UnshareFlags,
};

/// One probe at a time: the tests look at what the whole process holds.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `body` in a thread of its own, with namespaces of its own.
fn unshared<T: Send>(namespaces: UnshareFlags, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the thread's file descriptors stay shared, only its namespaces change.
            unsafe { rustix::thread::unshare_unsafe(namespaces) }.expect("a namespace takes root");
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn find<'a>(checks: &'a [Check], id: &str) -> &'a Check {
    checks.iter().find(|check| check.id == id).expect("every check is always there")
}

#[test]
fn a_recent_kernel_has_all_that_is_needed() {
    let _alone = alone();
    let checks = features::probe();
    let required = [
        "cgroup2",
        "bpffs",
        "sock_destroy",
        "map_cgroup_storage",
        "map_sk_storage",
        "map_lpm_trie",
        "map_array_of_maps",
        "map_ringbuf",
        "hook_egress",
        "hook_ingress",
        "hook_connect4",
        "hook_connect6",
        "hook_sendmsg4",
        "hook_sendmsg6",
        "hook_sock_create",
        "hook_sock_release",
        "hook_setsockopt",
        "hook_sock_ops",
        "hook_sk_msg",
        "lockdown",
        "privilege",
        "seccomp",
        "cgroup_kill",
    ];
    for id in required {
        let check = find(&checks, id);
        assert!(check.required && check.state == State::Ok, "{check:?}");
    }
    let known = checks.iter().filter(|check| check.required).count();
    assert_eq!(known, required.len(), "a required check is missing from this test: {checks:?}");
    assert_eq!(find(&checks, "landlock").state, State::Ok);
    for (id, purpose) in [
        ("hook_connect_unix", Purpose::Enforcement),
        ("hook_sendmsg_unix", Purpose::Enforcement),
        ("hook_tcx", Purpose::Containers),
    ] {
        let check = find(&checks, id);
        assert!(!check.required && check.state == State::Ok, "{check:?}");
        assert_eq!(check.needed_for, purpose, "{check:?}");
    }
}

#[test]
fn every_check_can_be_acted_on() {
    let _alone = alone();
    let checks = features::probe();
    let ids: HashSet<_> = checks.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), checks.len(), "names are unique: {checks:?}");
    for check in checks {
        assert!(!check.detail.is_empty(), "{check:?}");
        let gap = matches!(check.state, State::Degraded | State::Missing);
        assert_eq!(check.fix.is_some(), gap, "{check:?}");
    }
}

#[test]
fn without_root_what_cannot_be_tried_is_unknown_and_nothing_is_missing() {
    let _alone = alone();
    let checks = std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            let nobody = rustix::process::Uid::from_raw(65534);
            // This thread alone; its capabilities go with the user id.
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may");
            features::probe()
        });
        user.join().expect("the probes do not panic")
    });
    for check in checks.iter().filter(|check| check.needed_for == Purpose::Enforcement && check.required) {
        let expected = match check.id {
            "cgroup2" | "bpffs" | "lockdown" => State::Ok,
            _ => State::Unknown,
        };
        assert_eq!(check.state, expected, "{check:?}");
        if check.state == State::Unknown {
            assert!(check.detail.contains("needs root") && check.blocks(), "{check:?}");
        }
    }
    for id in ["seccomp", "landlock"] {
        assert_eq!(find(&checks, id).state, State::Ok, "takes no root");
    }
}

#[test]
fn in_a_container_root_is_told_what_it_lacks() {
    let _alone = alone();
    let checks = std::thread::scope(|scope| {
        let container = scope.spawn(|| {
            let keep = [caps::Capability::CAP_NET_BIND_SERVICE].into_iter().collect();
            caps::set(None, caps::CapSet::Effective, &keep).expect("root may");
            features::probe()
        });
        container.join().expect("the probes do not panic")
    });
    let check = find(&checks, "privilege");
    assert_eq!(check.state, State::Missing, "{check:?}");
    assert!(check.detail.contains("CAP_SYS_ADMIN") && check.detail.contains("CAP_NET_ADMIN"), "{check:?}");
}

#[test]
fn nothing_is_left_behind() {
    let _alone = alone();
    unshared(UnshareFlags::NEWNET, || {
        let lo = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(lo.expect("iproute2 is needed").success());
        let before = (scratch_cgroups(), bpf_descriptors(), mounts());
        let checks = features::probe();
        assert_eq!(find(&checks, "sock_destroy").state, State::Ok, "it made sockets");
        assert_eq!(find(&checks, "hook_egress").state, State::Ok, "it made a cgroup");
        assert_eq!((scratch_cgroups(), bpf_descriptors(), mounts()), before);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(sockdiag::sockets(None, protocol).expect("listing works"), []);
        }
    });
}

#[test]
fn what_a_killed_doctor_left_is_removed_and_a_living_one_is_spared() {
    let _alone = alone();
    let mount = mounts::cgroup2_mount().expect("cgroup v2 is mounted");
    // Process ids end below 2^22, so nobody has these.
    let make = |name: &str| {
        let path = mount.join(name);
        fs::create_dir(&path).expect("root may");
        path
    };
    let (dead, living) = (make("agentnet-doctor-4194304-0"), make("agentnet-doctor-4194305-0"));
    let lock = File::open(&living).expect("it is there");
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).expect("nobody else has it");
    features::probe();
    let (dead_is_there, living_is_there) = (dead.exists(), living.exists());
    for path in [dead, living] {
        let _ = fs::remove_dir(path);
    }
    assert!(!dead_is_there && living_is_there, "{dead_is_there} {living_is_there}");
}

#[test]
fn bpffs_is_mounted_where_it_is_not() {
    unshared(UnshareFlags::NEWNS, || {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("root may");
        while let Ok(point) = mounts::bpffs_mount() {
            rustix::mount::unmount(&point, UnmountFlags::DETACH).expect("root may");
        }
        assert!(matches!(mounts::bpffs_mount(), Err(MountError::NoBpffs)));
        let point = mounts::ensure_bpffs().expect("root may");
        assert_eq!(mounts::bpffs_mount().ok(), Some(point.clone()));
        assert_eq!(mounts::ensure_bpffs().ok(), Some(point), "once is enough");
        let entries = self::mounts().lines().filter(|line| line.contains(" - bpf ")).count();
        assert_eq!(entries, 1);
    });
}

fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").expect("it is always there")
}

fn scratch_cgroups() -> Vec<PathBuf> {
    let own = format!("agentnet-doctor-{}-", std::process::id());
    let mount = mounts::cgroup2_mount().expect("cgroup v2 is mounted");
    let entries = fs::read_dir(mount).expect("it can be read").map(|entry| entry.expect("an entry").path());
    entries.filter(|path| path.to_string_lossy().contains(&own)).collect()
}

/// Descriptors of programs, maps and links: what holds them in the kernel.
fn bpf_descriptors() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc/self/fd").expect("it is always there").flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().contains("bpf")).collect()
}
