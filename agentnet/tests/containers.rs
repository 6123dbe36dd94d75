//! Containers of a real podman, which is asked as on any host. Needs root, podman and a static busybox; skipped by name
//! where they are missing.
//!
//! podman gets a mount namespace in which only cgroup v2 is mounted, for its runtime refuses hosts that have both
//! versions; and it keeps everything below a directory of the test's. The container is privileged because the
//! runtime would otherwise raise a limit that root may not raise on every host; all it does is sleep.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use agentnet::agent::{
    cgroup::{Cgroup, Hierarchy},
    container::{
        self, ContainerError, Runtime,
        poll::{Change, Poll},
    },
    target::{Spec, Target, TargetError},
};

/// A podman of the test's own.
struct Podman {
    root: tempfile::TempDir,
    parent: Cgroup,
}

fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.exists())
}

impl Podman {
    /// `Err` says what is missing.
    fn new() -> Result<Self, String> {
        let program = found("podman").ok_or("podman is not installed")?;
        let busybox = found("busybox").ok_or("busybox is not installed")?;
        let root = tempfile::tempdir().expect("a directory");
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("image/bin")).expect("a directory");
        fs::copy(busybox, at("image/bin/busybox")).expect("a copy");
        symlink("busybox", at("image/bin/sleep")).expect("a link");
        let wrapper = format!(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -c 'mount -t cgroup2 none /sys/fs/cgroup && \
             exec {} --root {} --runroot {} --storage-driver vfs --cgroup-manager cgroupfs --events-backend file \
             \"$@\"' sh \"$@\"\n",
            program.display(),
            at("storage").display(),
            at("run").display(),
        );
        fs::create_dir(at("bin")).expect("a directory");
        fs::write(at("bin/podman"), wrapper).expect("a script");
        fs::set_permissions(at("bin/podman"), fs::Permissions::from_mode(0o755)).expect("a script");
        let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
        let name = format!("agentnet-test-podman-{}", std::process::id()).parse().expect("a name");
        let parent = Cgroup::create(hierarchy.top().path(), &name).expect("root may");
        let made = Self { root, parent };
        let image = made.root.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(made.root.path().join("image")).arg("-cf").arg(&image).arg(".");
        assert!(tar.status().expect("tar is needed").success());
        let imported = made.command(&["import", &image.display().to_string(), "agentnet-test"]);
        if imported.status.success() {
            return Ok(made);
        }
        Err(format!(
            "podman cannot import an image here: {}",
            String::from_utf8_lossy(&imported.stderr).trim()
        ))
    }

    fn directory(&self) -> PathBuf {
        self.root.path().join("bin")
    }

    fn command(&self, arguments: &[&str]) -> Output {
        podman(self.directory().join("podman"), arguments)
    }
}

/// Runs a podman.
fn podman(program: impl AsRef<OsStr>, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().expect("it runs")
}

/// Starts a container below the cgroup `parent`; `Err` says why podman cannot.
fn start(program: impl AsRef<OsStr>, parent: &Path, name: &str) -> Result<(), String> {
    let parent = Path::new("/").join(parent.file_name().expect("it has one")).display().to_string();
    let fixed = ["--privileged", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--pids-limit=0"];
    let mut arguments = vec!["run", "--detach", "--name", name, "--network=none", "--stop-timeout=0"];
    arguments.extend(fixed);
    arguments.extend(["--label=agentnet=coding", "--cgroup-parent", &parent, "agentnet-test"]);
    arguments.extend(["/bin/sleep", "600"]);
    let started = podman(program, &arguments);
    if started.status.success() {
        return Ok(());
    }
    Err(format!("podman cannot start a container here: {}", String::from_utf8_lossy(&started.stderr).trim()))
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.command(&["rm", "--all", "--force", "--time=0"]);
        self.parent.kill().expect("root may");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while self.parent.is_populated().expect("it is there") && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        self.parent.remove().expect("nobody is inside");
    }
}

/// The name of the test that runs with the podman that was prepared, and what tells it the parent of its containers.
const INSIDE: &str = "with_the_podman_of_the_test";
const PARENT: &str = "AGENTNET_TEST_PARENT";

#[test]
fn containers_of_podman_are_found_and_followed() {
    let prepared = Podman::new().and_then(|podman| {
        let program = podman.directory().join("podman");
        start(program, podman.parent.path(), "agentnet-a").map(|()| podman)
    });
    let podman = match prepared {
        Ok(podman) => podman,
        Err(why) => {
            let _ = writeln!(io::stderr(), "SKIP containers_of_podman_are_found_and_followed: {why}");
            return;
        }
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::iter::once(podman.directory()).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(directories).expect("no colon in it");
    // This podman is found where programs are looked for, as that of a host is.
    let mut inside = Command::new(std::env::current_exe().expect("this program"));
    inside.args(["--exact", INSIDE, "--ignored", "--nocapture"]).env("PATH", path);
    inside.env(PARENT, podman.parent.path());
    assert!(inside.status().expect("it runs").success(), "see above");
}

#[test]
#[ignore = "run by the test above, with the podman it has prepared"]
fn with_the_podman_of_the_test() {
    let parent = PathBuf::from(std::env::var_os(PARENT).expect("the test above says it"));
    let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
    let resolve = |name: &str| Target::resolve(&hierarchy, &Spec::Container(name.to_owned()), false);
    let container = container::find("agentnet-a").expect("it runs");
    assert_eq!((container.runtime, container.name.as_str()), (Runtime::Podman, "agentnet-a"));
    assert_eq!(container.labels.get("agentnet").map(String::as_str), Some("coding"));
    let short = &container.id[..12];
    for name in ["agentnet-a", "podman:agentnet-a", &container.id, short] {
        let target = resolve(name).expect("its cgroup");
        let directory = target.cgroup.path().file_name().expect("it has one").to_string_lossy().into_owned();
        assert!(directory.contains(&container.id), "{directory}");
        assert!(target.cgroup.path().starts_with(&parent));
        let [member] = target.processes.as_slice() else { panic!("{target:?}") };
        assert_eq!((member.pid, member.comm.as_str()), (container.pid, "sleep"));
        let [namespace] = target.namespaces.as_slice() else { panic!("{target:?}") };
        assert!(!namespace.is_hosts, "it has a network of its own");
        assert_eq!(target.description, "the container agentnet-a of podman");
    }
    let missing = resolve("agentnet-none");
    assert!(matches!(missing, Err(TargetError::Container(ContainerError::NotFound { .. }))), "{missing:?}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut poll = Poll::start(Duration::from_millis(100));
        let mut next = async || loop {
            let change = tokio::time::timeout(Duration::from_secs(30), poll.next()).await.expect("a change");
            // A docker without its service, if there is one.
            if !matches!(change, Change::Blind { runtime: Runtime::Docker, .. }) {
                break change;
            }
        };
        assert_eq!(next().await, Change::Started(container.clone()));
        start("podman", &parent, "agentnet-b").expect("as the first");
        let Change::Started(second) = next().await else { panic!("it was started") };
        assert_eq!(second.name, "agentnet-b");
        assert!(podman("podman", &["stop", "--time=0", "agentnet-a"]).status.success());
        assert_eq!(next().await, Change::Ended(container.clone()));
        assert!(podman("podman", &["start", "agentnet-a"]).status.success());
        let Change::Started(again) = next().await else { panic!("it was started anew") };
        assert!(again.id == container.id && again.pid != container.pid, "{again:?}");
    });

    assert!(podman("podman", &["stop", "--time=0", "agentnet-a"]).status.success());
    let stopped = resolve("agentnet-a");
    assert!(matches!(stopped, Err(TargetError::Container(ContainerError::NotRunning { .. }))), "{stopped:?}");
}
