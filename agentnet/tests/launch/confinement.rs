//! What a command may not do, as root and as an ordinary user, each with what it may.

use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use crate::support::{
    Terminal, expect_probes, for_both_users, helper, launch, launch_probe, needs_root, output, stdout, trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = [
        for_both_users("socket_families", socket_families),
        for_both_users("io_uring_and_bpf", io_uring_and_bpf),
        for_both_users("processes_outside_are_out_of_reach", processes_outside),
        for_both_users("abstract_sockets_outside_are_out_of_reach", abstract_sockets),
        for_both_users("privileges_are_gone", privileges),
        for_both_users("other_architectures_are_killed", other_architecture),
    ]
    .into_iter()
    .flatten()
    .collect();
    trials.push(trial("inherited_capabilities_are_gone", inherited_capabilities));
    trials.push(trial("nothing_is_typed_into_the_terminal", terminal));
    trials
}

fn probes(names: &[&str]) -> Vec<&'static str> {
    names.iter().map(|n| &*Box::leak((*n).to_owned().into_boxed_str())).collect()
}

/// The numbers of <linux/socket.h>.
fn socket_families(uid: u32) -> Result<()> {
    let (unix, inet, inet6, netlink) = ("socket:1", "socket:2", "socket:10", "socket:16");
    let refused =
        ["socket:17", "socket:40", "socket:44", "socket:31", "socket:45", "socket_high:17", "socketpair:30"];
    let allowed = [unix, inet, inet6, netlink, "socketpair:1", "socket_high:2"];
    let expected: Vec<(&str, &str)> =
        refused.iter().map(|n| (*n, "EAFNOSUPPORT")).chain(allowed.iter().map(|n| (*n, "ok"))).collect();
    expect_probes(launch_probe(uid, &[&refused[..], &allowed[..]].concat()), &expected)?;
    #[cfg(target_arch = "x86_64")]
    expect_probes(launch_probe(uid, &["x32_socket:17"]), &[("x32_socket:17", "EAFNOSUPPORT")])?;
    // Without the launcher root has packet sockets here, so it is the filter that refuses.
    if uid == 0 {
        expect_probes(helper(0, &["probe", "socket:17"]), &[("socket:17", "ok")])?;
    }
    Ok(())
}

fn io_uring_and_bpf(uid: u32) -> Result<()> {
    expect_probes(launch_probe(uid, &["io_uring", "bpf"]), &[("io_uring", "ENOSYS"), ("bpf", "EPERM")])?;
    if uid == 0 {
        expect_probes(helper(0, &["probe", "bpf"]), &[("bpf", "ok")])?;
        let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
        if disabled.trim() == "0" {
            expect_probes(helper(0, &["probe", "io_uring"]), &[("io_uring", "ok")])?;
        }
    }
    Ok(())
}

/// A process of the same user, outside.
struct Victim(Child);

impl Victim {
    fn start(uid: u32) -> Result<Self> {
        let mut child = helper(uid, &["victim"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        ensure!(line == "ready\n");
        Ok(Self(child))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn processes_outside(uid: u32) -> Result<()> {
    let victim = Victim::start(uid)?;
    let names: Vec<String> = ["seize", "getfd", "kill"].map(|v| format!("{v}:{}", victim.0.id())).into();
    let root = format!("follow_root:{}", victim.0.id());
    let memory = format!("write:/proc/{}/mem", victim.0.id());
    let mut all = probes(&names.iter().map(String::as_str).collect::<Vec<_>>());
    all.extend(probes(&[&root, &memory]));

    let free: Vec<(&str, &str)> = all.iter().map(|n| (*n, "ok")).collect();
    let mut command = vec!["probe"];
    command.extend(&all);
    expect_probes(helper(uid, &command), &free).context("without the launcher")?;

    let confined: Vec<(&str, &str)> = all
        .iter()
        .map(|n| {
            (*n, if n.starts_with("follow_root") || n.starts_with("write") { "EACCES" } else { "EPERM" })
        })
        .collect();
    expect_probes(launch_probe(uid, &all), &confined)?;
    expect_probes(launch_probe(uid, &["own_child"]), &[("own_child", "ok")])
}

fn abstract_sockets(uid: u32) -> Result<()> {
    let name = format!("agentnet-test-{}-{uid}", std::process::id());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let path = dir.path().join("socket");
    let _path_listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;

    let named = format!("abstract:{name}");
    let file = format!("unix:{}", path.display());
    expect_probes(helper(uid, &["probe", &named, &file]), &[(&named, "ok"), (&file, "ok")])?;
    expect_probes(launch_probe(uid, &[&named, &file]), &[(&named, "EPERM"), (&file, "ok")])
}

/// Capability numbers of <linux/capability.h> that a root agent keeps.
const KEPT: [u32; 12] = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31];

fn privileges(uid: u32) -> Result<()> {
    let status = stdout(launch(uid, &["/bin/cat", "/proc/self/status"]))?;
    let field = |name: &str| -> Result<&str> {
        let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
        line.with_context(|| format!("no {name} in {status}"))
    };
    ensure!(field("NoNewPrivs")? == "1");
    ensure!(field("Seccomp")? == "2");
    let kept = KEPT.iter().fold(0u64, |set, n| set | 1 << n);
    let own = std::fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).context("CapBnd")?;
    let available = u64::from_str_radix(own, 16)? & kept;
    for (name, expected) in [
        ("CapInh", 0),
        ("CapAmb", 0),
        ("CapPrm", if uid == 0 { available } else { 0 }),
        ("CapEff", if uid == 0 { available } else { 0 }),
    ] {
        let got = u64::from_str_radix(field(name)?, 16)?;
        ensure!(got == expected, "{name} is {got:x}, not {expected:x}");
    }
    if uid == 0 {
        ensure!(u64::from_str_radix(field("CapBnd")?, 16)? == available);
    }
    Ok(())
}

fn inherited_capabilities() -> Result<()> {
    needs_root()?;
    let sets = |command| -> Result<Vec<String>> {
        let status = stdout(command)?;
        let sets = status
            .lines()
            .filter(|l| ["CapInh", "CapPrm", "CapEff", "CapAmb"].contains(&&l[..6.min(l.len())]));
        Ok(sets.map(|l| l[8..].to_owned()).collect())
    };
    let cat = ["--", "/bin/cat", "/proc/self/status"];
    let launched = sets(helper(0, &[&["run", "--ambient"], &cat[..]].concat()))?;
    ensure!(launched == ["0000000000000000"; 4], "{launched:?}");
    let plain = sets(helper(0, &[&["plain", "--ambient"], &cat[..]].concat()))?;
    ensure!(plain == ["0000000000002000"; 4], "without the launcher: {plain:?}");
    Ok(())
}

/// Whatever 32-bit calls do on this kernel, confined they end the process.
fn other_architecture(uid: u32) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let confined = output(launch(uid, &["/proc/self/exe", "--helper", "int80"]))?;
    let free = output(helper(uid, &["int80"]))?;
    if free.status.success() {
        ensure!(confined.status.code() == Some(128 + libc::SIGSYS), "{confined:?}");
    } else {
        ensure!(
            free.status.signal().is_some() && confined.status.code() > Some(128),
            "{free:?} {confined:?}"
        );
    }
    Ok(())
}

fn terminal() -> Result<()> {
    needs_root()?;
    let mut tty = Terminal::start(helper(0, &["probe", "tiocsti", "tiocgwinsz"]))?;
    tty.expect("tiocsti=ok")?;
    tty.expect("tiocgwinsz=ok")?;
    let mut tty = Terminal::start(launch_probe(0, &["tiocsti", "tiocsti_high", "tiocgwinsz"]))?;
    tty.expect("tiocsti=EPERM")?;
    tty.expect("tiocsti_high=EPERM")?;
    tty.expect("tiocgwinsz=ok")?;
    Ok(())
}
