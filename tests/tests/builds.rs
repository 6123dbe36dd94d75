//! A daemon that takes over from one of another build, whose maps are not its own.

use std::{fs, net::SocketAddr};

use agentnet_common::{abi::ABI_VERSION, verdict::DNS_PORT};
use agentnet_tests::{
    lab::{
        daemon::{Daemon, Served},
        expect::{EPERM, Expected, Said},
        found::Found,
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        residue::links_above,
        resolver::{A, Resolver, query},
    },
    probe::{
        script::{Came, Step},
        talk::Traffic,
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;
use rustix::process::Signal;

const NAME: &str = "api.example.com";

/// In what the build before differs.
#[derive(Clone, Copy, Debug)]
enum Other {
    /// Its version is in the name of the directory of its pins.
    Version,
    /// It has the same version, and a map has another shape.
    Shape,
    /// It has another version, and nobody can read what it has resolved.
    Unreadable,
}

impl Other {
    /// Makes what a daemon that is gone has pinned that of another build. Its programs and links go on as they were.
    fn make(self, daemon: &Daemon) -> Result<()> {
        let pins = format!("/sys/fs/bpf/agentnet/v{ABI_VERSION}");
        match self {
            Self::Version | Self::Unreadable => {
                let theirs = "/sys/fs/bpf/agentnet/v0";
                daemon.run_in_place("mv", &[&pins, theirs])?;
                for entry in fs::read_dir(daemon.directory("run").join("agents"))?.flatten() {
                    for file in fs::read_dir(entry.path())?.flatten() {
                        // What is no text names no pins.
                        let Ok(text) = fs::read_to_string(file.path()) else { continue };
                        if text.contains(&pins) {
                            fs::write(file.path(), text.replace(&pins, theirs))?;
                        }
                    }
                }
                if matches!(self, Self::Unreadable) {
                    daemon.run_in_place("rm", &[&format!("{theirs}/maps/PINS")])?;
                }
            }
            Self::Shape => {
                let map = |name: &str| format!("{pins}/maps/{name}");
                daemon.run_in_place("rm", &[&map("OWNERS")])?;
                daemon.run_in_place("mv", &[&map("BUDGETS"), &map("OWNERS")])?;
            }
        }
        Ok(())
    }
}

fn connect(number: u16) -> Step {
    Step::Connect { to: (Family::V4.named(number), ALLOWED_PORT).into(), text: format!("<{number}>") }
}

/// Not one forbidden packet, not one allowed connection refused; what a name has opened stays open, what it has not stays
/// closed; and nothing of the other build is left.
#[rstest]
fn the_agents_of_another_build_are_taken_over_under_traffic(
    #[values(Other::Version, Other::Shape, Other::Unreadable)] other: Other,
) -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    let at = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
    let zone = [(NAME, vec![Family::V4.named(1)])];
    let resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
    let policy = Policy::standard().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[ALLOWED_PORT]);
    daemon.write_policy("lab", &policy.text())?;
    let (found, quiet, over) = (Found::new(&lab)?, Found::new(&lab)?, Found::new(&lab)?);
    for agent in [&quiet, &found, &over] {
        daemon.tell(&["attach", "--agent", &agent.name, "--cgroup", agent.arg(), "--policy", "lab"])?;
    }
    let asked = found.script(&[Step::Ask { to: at, message: query(9, NAME, A) }, connect(1), connect(2)])?;
    ensure!(asked[0].is_ok() && asked[1].is_ok() && !asked[2].is_ok(), "{asked:?}");
    let named = SocketAddr::from((Family::V4.named(1), ALLOWED_PORT)).to_string();
    let mut talker = found.start(&["talk", &named])?;
    ensure!(talker.say(0, "BEFORE")?.errno == 0);
    let (allowed, denied) = (Family::V4.allowed_endpoint(), Family::V4.denied_endpoint());
    let (to, never) = (allowed.to_string(), denied.to_string());
    let traffic = found.start(&["traffic", "--allowed", &to, "--denied", &never, "--marker", "FORBIDDEN"])?;
    let before = links_above(&found.path)?;

    daemon.end(Signal::KILL)?;
    other.make(&daemon)?;
    // One that ends meanwhile leaves nothing behind.
    fs::remove_dir(&over.path)?;
    // While there is no daemon that knows them, they enforce what they did.
    let table = || Expected::new().case("tcp-connect", denied, EPERM).case("tcp-send", allowed, Said::Ok);
    quiet.expect(&table())?;
    daemon.start()?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "{status}");
    let now = links_above(&found.path)?;
    ensure!(now.len() == before.len(), "links of both builds: {now:?}");
    ensure!(now.iter().all(|now| before.iter().all(|before| before.id != now.id)), "{now:?}");
    let left = daemon.run_in_place("ls", &["/sys/fs/bpf/agentnet"])?;
    ensure!(left.stdout.trim() == format!("v{ABI_VERSION}"), "{left:?}");
    quiet.expect(&table())?;

    let knows = !matches!(other, Other::Unreadable);
    let came: Vec<Came> = found.script(&[connect(1), connect(2)])?;
    ensure!(came[0].is_ok() == knows && !came[1].is_ok(), "{came:?}");
    let said = talker.say(0, "AFTERWARDS")?;
    ensure!((said.errno == 0 && !said.broken) == knows, "{said:?}");
    let noted = status["engine"]["notes"].to_string().contains("has to be resolved again");
    ensure!(noted != knows, "{status}");
    // What was refused before and not read is told, too.
    let log = daemon.log_of(&quiet.name)?;
    ensure!(log.iter().any(|line| line["kind"] == "egress_denied"), "{log:?}");

    let counted: Traffic = traffic.finish()?;
    ensure!(counted.allowed > 100 && counted.denied > 100, "too little traffic to tell: {counted:?}");
    ensure!(counted.failures.is_empty(), "allowed traffic was refused: {counted:?}");
    ensure!(counted.let_through == 0, "denied calls succeeded: {counted:?}");
    lab.ensure_nothing_reached(denied.ip())?;
    ensure!(lab.sniffer.carrying(b"FORBIDDEN") == 0);
    ensure!((lab.sniffer.carrying(b"AFTERWARDS") > 0) == knows && lab.sniffer.carrying(b"BEFORE") > 0);
    ensure!(resolver.asked().len() == 1, "{:?}", resolver.asked());
    for agent in [&found, &quiet] {
        daemon.tell(&["detach", &agent.name])?;
    }
    daemon.ensure_no_agents()
}

/// A policy that cannot be read is no reason to let go: the programs of the other build stay.
#[test]
fn without_a_policy_the_other_build_goes_on_enforcing() -> Result<()> {
    let Served { lab, mut daemon } = Served::new()?;
    daemon.write_policy("lab", &Policy::standard().text())?;
    let found = Found::new(&lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let before = links_above(&found.path)?.len();
    daemon.kill()?;
    Other::Version.make(&daemon)?;
    fs::remove_file(daemon.directory("policies").join("lab.toml"))?;
    daemon.start()?;
    ensure!(links_above(&found.path)?.len() == before, "links are gone");
    let (allowed, denied) = (Family::V4.allowed_endpoint(), Family::V4.denied_endpoint());
    let table = || Expected::new().case("tcp-connect", denied, EPERM).case("tcp-send", allowed, Said::Ok);
    found.expect(&table())?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["engine"]["notes"].to_string().contains("policy cannot be read"), "{status}");
    // When it can be read again, it is taken over.
    daemon.write_policy("lab", &Policy::standard().text())?;
    daemon.kill()?;
    daemon.start()?;
    let status = daemon.status_of(&found.name)?;
    ensure!(status["state"] == "enforced", "{status}");
    found.expect(&table())?;
    lab.ensure_nothing_reached(denied.ip())?;
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
