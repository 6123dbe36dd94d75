//! cgroup/connect_unix.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use agentnet_common::{
    event::{Hook, Outcome},
    user::{Cause, Record},
    verdict::Reason,
};
use agentnet_tests::{
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        child::probe_binary,
        door::{Doors, Listener, Mailbox},
        policy::Policy,
        residue::Residue,
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Context as _, Result, ensure};
use serde_json::json;

fn connect(name: impl Into<Vec<u8>>, text: &str) -> Step {
    Step::Unix { kind: libc::SOCK_STREAM, send: false, name: name.into(), text: text.to_owned() }
}

/// The sockets of one test: two that the policy names, one in a directory that it names, two that it does not.
struct Set {
    doors: Doors,
    named: Listener,
    below: Listener,
    other: Listener,
    abstract_named: Listener,
    abstract_other: Listener,
    ours: String,
}

impl Set {
    fn new(lab: &Lab) -> Result<Self> {
        let doors = Doors::new()?;
        fs::create_dir(doors.path("open"))?;
        let ours = format!("agentnet-{}", lab.name);
        Ok(Self {
            named: Listener::at(&doors.path("named.sock"))?,
            below: Listener::at(&doors.path("open/below.sock"))?,
            other: Listener::at(&doors.path("other.sock"))?,
            abstract_named: Listener::named(lab, &ours)?,
            abstract_other: Listener::named(lab, &format!("{ours}-other"))?,
            doors,
            ours,
        })
    }

    fn policy(&self) -> Policy {
        Policy::standard()
            .allow_unix(&self.doors.text("named.sock"))
            .allow_unix(&self.doors.text("open/"))
            .allow_unix(&format!("@{}", self.ours))
    }

    /// Names that lead to a socket which the policy names, and are its name.
    fn open(&self) -> Vec<Vec<u8>> {
        let ended = [self.doors.text("named.sock").as_bytes(), b"\0behind the end"].concat();
        vec![
            self.doors.text("named.sock").into(),
            ended,
            self.doors.text("open/below.sock").into(),
            format!("\0{}", self.ours).into(),
        ]
    }

    /// Names that lead to a socket and are not open.
    fn closed(&self) -> Result<Vec<Vec<u8>>> {
        symlink(self.doors.path("named.sock"), self.doors.path("link.sock"))?;
        let (other, named) = (self.doors.text("other.sock"), self.doors.text("named.sock"));
        Ok(vec![
            other.clone().into(),
            "other.sock".into(),
            "named.sock".into(),
            "./named.sock".into(),
            format!("/proc/self/root{other}").into(),
            format!("/proc/self/root{named}").into(),
            "/proc/self/cwd/other.sock".into(),
            format!("/{named}").into(),
            self.doors.text("./named.sock").into(),
            self.doors.text("open/../other.sock").into(),
            self.doors.text("open/./below.sock").into(),
            self.doors.text("open//below.sock").into(),
            self.doors.text("link.sock").into(),
            format!("\0{}-other", self.ours).into(),
        ])
    }

    fn steps(&self, names: &[Vec<u8>]) -> Vec<Step> {
        let enter = Step::Enter(self.doors.path(""));
        [enter].into_iter().chain(names.iter().map(|name| connect(name.clone(), "secret"))).collect()
    }

    fn arrived(&self) -> Result<usize> {
        let all = [&self.named, &self.below, &self.other, &self.abstract_named, &self.abstract_other];
        all.iter().map(|listener| Ok(listener.arrived()?.len())).sum()
    }
}

/// A name opens the socket that it is the name of, written as the policy writes it, and nothing else does.
#[test]
fn only_named_sockets_are_connected_to() -> Result<()> {
    let lab = Lab::new()?;
    let set = Set::new(&lab)?;
    let mut watched = Watched::new(&lab, &set.policy())?;
    let (open, closed) = (set.open(), set.closed()?);
    for (name, came) in open.iter().zip(&watched.script(&set.steps(&open))?[1..]) {
        ensure!(came.is_ok(), "{:?}: {came:?}", String::from_utf8_lossy(name));
    }
    ensure!(set.named.arrived()? == ["secret", "secret"]);
    ensure!(set.below.arrived()? == ["secret"] && set.abstract_named.arrived()? == ["secret"]);

    for (name, came) in closed.iter().zip(&watched.script(&set.steps(&closed))?[1..]) {
        let refused = came.step == "connect" && came.errno == libc::EPERM;
        ensure!(refused, "{:?}: {came:?}", String::from_utf8_lossy(name));
    }
    ensure!(set.arrived()? == 0, "refused connections arrived");
    let counted = watched.counters()?.denied[Reason::UnixSocket as usize];
    ensure!(counted == u64::try_from(closed.len())?, "{counted} of {} counted", closed.len());

    let written: Vec<String> = watched
        .records()?
        .iter()
        .filter_map(|record| match record {
            Record::Verdict(verdict) if verdict.cause == Cause::Reason(Reason::UnixSocket) => Some(verdict),
            _ => None,
        })
        .map(|verdict| {
            assert_eq!((verdict.hook, verdict.outcome), (Hook::ConnectUnix, Outcome::Blocked));
            assert_eq!(verdict.event.detail >> 16, libc::SOCK_STREAM.cast_unsigned());
            verdict.door.as_ref().map(|door| door.text()).unwrap_or_default()
        })
        .collect();
    let names: Vec<String> =
        closed.iter().map(|name| String::from_utf8_lossy(name).replacen('\0', "@", 1)).collect();
    ensure!(written == names, "{written:?}");
    Ok(())
}

/// What is refused above is there: without the programs' no it is connected to, and an audit tells of it.
#[test]
fn where_all_are_open_and_in_an_audit_each_is_connected_to() -> Result<()> {
    let lab = Lab::new()?;
    let set = Set::new(&lab)?;
    let closed = set.closed()?;
    for (policy, told) in [(Policy::standard().unix("any"), 0), (set.policy().audit(), closed.len())] {
        let mut watched = Watched::new(&lab, &policy)?;
        for (name, came) in closed.iter().zip(&watched.script(&set.steps(&closed))?[1..]) {
            ensure!(came.is_ok(), "{:?}: {came:?}", String::from_utf8_lossy(name));
        }
        ensure!(set.arrived()? == closed.len());
        let doors = watched.records()?.iter().filter(|record| match record {
            Record::Verdict(verdict) => verdict.door.is_some() && verdict.outcome == Outcome::Audited,
            _ => false,
        });
        ensure!(doors.count() == told);
    }
    Ok(())
}

/// Datagram sockets connect as well, and then send without a name.
#[test]
fn datagram_sockets_are_judged_when_they_connect() -> Result<()> {
    let lab = Lab::new()?;
    let doors = Doors::new()?;
    let (named, other) = (Mailbox::at(&doors.path("named"))?, Mailbox::at(&doors.path("other"))?);
    let watched = Watched::new(&lab, &Policy::standard().allow_unix(&doors.text("named")))?;
    let step = |name: &str| Step::Unix {
        kind: libc::SOCK_DGRAM,
        send: false,
        name: doors.text(name).into(),
        text: "secret".to_owned(),
    };
    let came = watched.script(&[step("named"), step("other")])?;
    ensure!(came[0].is_ok() && came[1].step == "connect" && came[1].errno == libc::EPERM, "{came:?}");
    ensure!(named.arrived()? == ["secret"] && other.arrived()?.is_empty());
    Ok(())
}

/// The command of `agentnet run` is told no, and the log says which socket it was, what listens there, and what to add.
#[test]
fn a_refusal_is_told_with_the_name_of_the_socket() -> Result<()> {
    let lab = Lab::new()?;
    let doors = Doors::new()?;
    fs::set_permissions(doors.path(""), Permissions::from_mode(0o755))?;
    let (docker, named) =
        (Listener::at(&doors.path("docker.sock"))?, Listener::at(&doors.path("named.sock"))?);
    for path in ["docker.sock", "named.sock"] {
        fs::set_permissions(doors.path(path), Permissions::from_mode(0o666))?;
    }
    let agent = Agent::new(&lab, &Policy::standard().allow_unix(&doors.text("named.sock")))?.user(NOBODY);
    let file = doors.path("steps.json");
    fs::write(
        &file,
        serde_json::to_vec(&["docker.sock", "named.sock"].map(|name| connect(doors.text(name), "secret")))?,
    )?;
    let probe = probe_binary()?;
    let finished = agent.run(&[probe.as_os_str(), "script".as_ref(), file.as_os_str()])?;
    let came: Vec<Came> =
        finished.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    ensure!(came.len() == 2 && came[0].errno == libc::EPERM && came[1].is_ok(), "{finished:?}");
    ensure!(docker.arrived()?.is_empty() && named.arrived()? == ["secret"]);
    let log = agent.log()?;
    let alert = log.iter().find(|line| line["evidence"]["reason"] == "unix_socket");
    let alert = alert.with_context(|| format!("no alert in {log:#?}"))?;
    let told = json!({ "name": doors.text("docker.sock"), "type": "SOCK_STREAM", "what": "Docker" });
    ensure!(alert["evidence"]["unix"] == told && alert["severity"] == "high", "{alert:#}");
    let sentence = alert["reason"].as_str().unwrap_or_default();
    let line = format!("unix_allow = [\"{}\"]", doors.text("docker.sock"));
    ensure!(sentence.contains(&line) && sentence.contains("Docker"), "{sentence}");
    Residue::named(&agent.name).ensure_gone()
}
