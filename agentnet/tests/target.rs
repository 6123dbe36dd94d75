//! What may be governed and what not, by real cgroups and processes. Needs root.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use agentnet::agent::{
    cgroup::{Cgroup, Hierarchy},
    selector::{Timing, timing},
    target::{Spec, Target, TargetError},
    watch::{Change, Watch},
};

/// Asks again until it is so; panics when it takes too long.
#[track_caller]
fn eventually(mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "gave up waiting");
        std::thread::yield_now();
    }
}

/// Cgroups of one test; what lives in them ends with it.
struct Lab {
    hierarchy: Hierarchy,
    top: Cgroup,
}

impl Lab {
    fn new(test: &str) -> Self {
        let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
        let name = format!("agentnet-test-{test}-{}", std::process::id()).parse().expect("a name");
        let top = Cgroup::create(hierarchy.top().path(), &name).expect("root may");
        Self { hierarchy, top }
    }

    fn make(&self, path: &str) -> PathBuf {
        let path = self.top.path().join(path);
        fs::create_dir_all(&path).expect("root may");
        path
    }

    /// A process in the cgroup at `path`; it is there when this returns.
    fn run(&self, path: &Path, script: &str) -> Child {
        let procs = path.join("cgroup.procs");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("echo; {script}")]).stdout(Stdio::piped());
        // SAFETY: between fork and exec only a file is written.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        let mut child = command.spawn().expect("sh");
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut String::new()).expect("it runs");
        let comm = format!("/proc/{}/comm", child.id());
        eventually(|| script != WAIT || fs::read_to_string(&comm).expect("it lives") == "sleep\n");
        child
    }

    fn resolve(&self, spec: &Spec) -> Result<Target, TargetError> {
        Target::resolve(&self.hierarchy, spec, false)
    }

    fn path(&self, path: impl Into<PathBuf>) -> Result<Target, TargetError> {
        self.resolve(&Spec::Cgroup(path.into()))
    }

    fn pid(&self, child: &Child) -> Result<Target, TargetError> {
        self.resolve(&Spec::Pid(pid(child)))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.top.kill().expect("root may");
        eventually(|| !self.top.is_populated().expect("it is there"));
        self.top.remove().expect("nobody is inside");
    }
}

fn pid(child: &Child) -> i32 {
    child.id().cast_signed()
}

fn end(mut child: Child) {
    child.kill().expect("root may");
    child.wait().expect("it was ours");
}

const WAIT: &str = "exec sleep 60";

#[test]
fn a_cgroup_is_named_by_its_directory_or_from_the_top() {
    let lab = Lab::new("paths");
    let path = lab.make("a b");
    let below = path.strip_prefix(lab.hierarchy.top().path()).expect("below").to_owned();
    let child = lab.run(&path, WAIT);
    for form in [path.clone(), Path::new("/").join(&below), below] {
        let target = lab.path(form).expect("a cgroup");
        assert_eq!(target.cgroup.path(), path);
        let [member] = target.processes.as_slice() else { panic!("{target:?}") };
        assert_eq!((member.pid, member.comm.as_str(), member.uid), (pid(&child), "sleep", Some(0)));
        let [namespace] = target.namespaces.as_slice() else { panic!("{target:?}") };
        assert!(namespace.is_hosts && namespace.processes == 1);
        target.confirm(&lab.hierarchy).expect("nothing has changed");
    }
    end(child);
}

#[test]
fn what_is_no_cgroup_of_an_agent_is_refused() {
    let lab = Lab::new("refused");
    let top = lab.hierarchy.top();
    for root in [top.path().to_owned(), "/".into()] {
        assert!(matches!(lab.path(root), Err(TargetError::Root)));
    }
    let missing = lab.top.path().join("none");
    assert!(matches!(lab.path(missing), Err(TargetError::Missing { .. })));
    assert!(matches!(lab.path(top.path().join("x/../y")), Err(TargetError::Climbs { .. })));
    let file = lab.top.path().join("cgroup.procs");
    assert!(matches!(lab.path(file), Err(TargetError::NoCgroup { .. })));
    // Where cgroup v1 is mounted as well.
    let mounts = fs::read_to_string("/proc/self/mounts").expect("it is always there");
    let v1 = mounts.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>().as_slice() {
        [_, point, "cgroup", ..] => Some((*point).to_owned()),
        _ => None,
    });
    if let Some(v1) = v1 {
        assert!(matches!(lab.path(&v1), Err(TargetError::Version1 { .. })), "{v1}");
    }
}

#[test]
fn where_threads_are_apart_the_whole_is_named() {
    let lab = Lab::new("threads");
    let (whole, part) = (lab.make("whole"), lab.make("whole/part"));
    fs::write(part.join("cgroup.type"), "threaded").expect("root may");
    let Err(TargetError::Threaded { domain, .. }) = lab.path(&part) else { panic!("it is threaded") };
    assert!(domain.ends_with("/whole"), "{domain}");
    assert_eq!(lab.path(&whole).expect("its domain").cgroup.path(), whole);
    let invalid = lab.make("whole/other");
    assert!(matches!(lab.path(&invalid), Err(TargetError::Invalid { .. })));
}

#[test]
fn agentnet_itself_is_not_cut_off() {
    let lab = Lab::new("self");
    let inside = lab.make("service/agentnet");
    let own = std::process::id().cast_signed();
    let home = lab.hierarchy.of(own).expect("own cgroup");
    Cgroup::at(&inside).place(&lab.hierarchy, own).expect("root may");
    let refused = [lab.path(&inside), lab.path(inside.parent().expect("it has one"))];
    let beside = lab.path(lab.make("beside"));
    home.place(&lab.hierarchy, own).expect("root may");
    for refused in refused {
        assert!(matches!(refused, Err(TargetError::Own { .. })), "{refused:?}");
    }
    beside.expect("agentnet is not in it");
}

#[test]
fn a_process_is_governed_alone_with_what_it_started() {
    let lab = Lab::new("pid");
    let (path, other) = (lab.make("agent"), lab.make("other"));
    let child = lab.run(&path, "sleep 60 & sleep 60");
    eventually(|| Cgroup::at(&path).processes().expect("it is there") == 3);
    let procs = other.join("cgroup.procs");
    let target = lab.pid(&child).expect("nobody else is there");
    assert_eq!(target.cgroup.path(), path);
    assert!(target.processes.len() == 3 && target.notices.is_empty(), "{target:?}");
    assert!(target.description.contains("(sh)"), "{}", target.description);

    // A stranger, and one more below.
    let (stranger, nested) = (lab.run(&path, WAIT), lab.run(&lab.make("agent/below"), WAIT));
    let Err(TargetError::Shared { others, .. }) = lab.pid(&child) else { panic!("it is shared") };
    let mut named: Vec<_> = others.0.iter().map(|member| member.pid).collect();
    named.sort_unstable();
    let mut strangers = [pid(&stranger), pid(&nested)];
    strangers.sort_unstable();
    assert_eq!(named, strangers);
    assert!(others.to_string().contains("(sleep, user root)"), "{others}");
    let whole = Target::resolve(&lab.hierarchy, &Spec::Pid(pid(&child)), true).expect("as was asked");
    assert_eq!(whole.notices.len(), 1);
    end(stranger);
    end(nested);

    // Moved after it was looked at.
    fs::write(&procs, child.id().to_string()).expect("root may");
    assert!(matches!(target.confirm(&lab.hierarchy), Err(TargetError::Moved { .. })));
    let target = lab.pid(&child).expect("where it is now");
    assert!(target.notices[0].contains("other cgroups"), "{:?}", target.notices);
    let number = pid(&child);
    end(child);
    assert!(matches!(target.confirm(&lab.hierarchy), Err(TargetError::NoProcess { .. })));
    assert!(matches!(lab.resolve(&Spec::Pid(number)), Err(TargetError::NoProcess { .. })));
}

#[test]
fn numbers_that_are_no_process() {
    let lab = Lab::new("nopid");
    for number in [0, -1, i32::MAX] {
        assert!(matches!(lab.resolve(&Spec::Pid(number)), Err(TargetError::NoProcess { .. })));
    }
    let (tell, told) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        tell.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("somebody waits");
        let _ = wait.recv();
    });
    let number = told.recv().expect("the thread");
    let refused = lab.resolve(&Spec::Pid(number));
    drop(done);
    thread.join().expect("it ends");
    let own = std::process::id().cast_signed();
    assert!(matches!(refused, Err(TargetError::Thread { process, .. }) if process == own), "{refused:?}");
}

#[test]
fn network_namespaces_are_told_apart() {
    let lab = Lab::new("netns");
    let path = lab.make("agent");
    let (here, there) =
        (lab.run(&path, WAIT), lab.run(&path, "exec unshare -n sh -c 'sleep 60 & echo; wait'"));
    eventually(|| {
        let target = lab.path(&path).expect("a cgroup");
        let mut found: Vec<_> = target.namespaces.iter().map(|found| found.is_hosts).collect();
        found.sort_unstable();
        found == [false, true]
    });
    end(here);
    end(there);
}

#[test]
fn a_unit_is_found_by_its_directory() {
    let lab = Lab::new("unit");
    let unit = format!("agentnet-test@{}.service", std::process::id());
    let find = |unit: &str| lab.resolve(&Spec::Unit(unit.to_owned()));
    assert!(matches!(find(&unit), Err(TargetError::NoUnit { .. })));
    let path = lab.make(&format!("app.slice/{unit}"));
    let target = find(&unit).expect("it is there");
    assert_eq!(target.cgroup.path(), path);
    assert_eq!(target.description, format!("the unit {unit}"));
    lab.make(&format!("other.slice/{unit}"));
    assert!(matches!(find(&unit), Err(TargetError::UnitAmbiguous { found, .. }) if found.len() == 2));
}

#[tokio::test]
async fn cgroups_are_seen_as_they_come_and_go() {
    let lab = Lab::new("watch");
    lab.make("before");
    let top = lab.top.path().to_owned();
    let name = top.file_name().expect("it has one").to_owned();
    let point = lab.hierarchy.top().path().to_owned();
    let interesting = move |path: &Path| path == point || path.iter().any(|part| part == name);
    let mut watch = Watch::start(lab.hierarchy.clone(), interesting).expect("inotify");
    let mut next = async || loop {
        let change = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        let (sign, cgroup, id) = match change.expect("a change").expect("inotify") {
            Change::Appeared { cgroup, id } => ('+', cgroup, id),
            Change::Vanished { cgroup, id } => ('-', cgroup, id),
            other @ Change::Blind { .. } => panic!("{other:?}"),
        };
        // Other tests have cgroups of their own.
        if let Ok(below) = cgroup.path().strip_prefix(&top) {
            break (format!("{sign}{}", below.display()), cgroup, id);
        }
    };
    assert_eq!(next().await.0, "+");
    assert_eq!(next().await.0, "+before");
    lab.make("late");
    let (what, cgroup, id) = next().await;
    assert_eq!(what, "+late");
    assert_eq!(timing(&cgroup, false).expect("it is there"), Timing::First, "nothing has run there");
    lab.make("late/below");
    assert_eq!(next().await.0, "+late/below");
    let child = lab.run(cgroup.path(), WAIT);
    assert_eq!(timing(&cgroup, false).expect("it is there"), Timing::Late);
    assert_eq!(timing(&cgroup, true).expect("it is there"), Timing::First, "governed from above");
    end(child);
    assert_eq!(timing(&cgroup, false).expect("it is there"), Timing::Late, "something has run there");
    cgroup.remove().expect("nobody is inside");
    assert_eq!(next().await.0, "-late/below");
    let (what, _, gone) = next().await;
    assert_eq!((what.as_str(), gone), ("-late", id));
    lab.make("late");
    let (what, _, again) = next().await;
    assert_eq!(what, "+late");
    assert_ne!(again, id, "another cgroup at the same place");
}
