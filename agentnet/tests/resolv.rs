//! Whom processes with a `resolv.conf` of their own ask for names, by real mounts. Needs root.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::{Child, Command, Stdio},
};

use agentnet::{
    agent::resolv::{self, of_process},
    policy::host::Host,
};

/// A process that sees `file` at `/etc/resolv.conf`, as a container runtime mounts it; it is there when this returns.
struct Contained(Child);

impl Contained {
    fn new(file: &std::path::Path) -> Self {
        Self::run(&format!("mount --bind {} /etc/resolv.conf && echo && exec sleep 600", file.display()))
    }

    fn run(script: &str) -> Self {
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux");
        let out = child.stdout.take().expect("a pipe");
        let read = BufReader::new(out).read_line(&mut String::new()).expect("it runs");
        assert_eq!(read, 1, "the mount failed");
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.0.kill().expect("it runs");
        self.0.wait().expect("it ends");
    }
}

fn host() -> Host {
    let (host, problem) = resolv::this_host().expect("addresses");
    assert_eq!(problem, None);
    host
}

#[test]
fn of_a_file_that_is_mounted_only_what_the_host_knows_counts() {
    let host = host();
    let known = *host.resolution.servers.first().expect("a host asks somebody");
    let foreign: IpAddr = "203.0.113.66".parse().expect("an address");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), format!("nameserver {foreign}\nnameserver {known}\nsearch evil.example\n"))
        .expect("a file");
    let contained = Contained::new(file.path());
    let found = of_process(contained.pid(), &host).expect("it has a file of its own");
    assert_eq!(found.resolution.servers, [known]);
    assert!(found.resolution.search.is_empty());
    let note = found.note(&found.resolution).expect("something is left out");
    assert!(note.contains("203.0.113.66") && note.contains("evil.example"), "{note}");
    // What is written later is read where it is read again, and counts no more.
    fs::write(file.path(), format!("nameserver {foreign}\n")).expect("a file");
    let later = of_process(contained.pid(), &host).expect("it has a file of its own");
    assert!(later.resolution.servers.is_empty());
}

#[test]
fn who_sees_the_hosts_file_asks_whom_the_host_asks() {
    let host = host();
    assert_eq!(of_process(std::process::id().cast_signed(), &host), None);
    // In a mount namespace of its own, and the same file.
    let contained = Contained::run("echo && exec sleep 600");
    assert_eq!(of_process(contained.pid(), &host), None);
    let mut gone = Command::new("true").spawn().expect("true");
    gone.wait().expect("it ends");
    assert_eq!(of_process(gone.id().cast_signed(), &host), None);
}
