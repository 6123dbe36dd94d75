//! cgroup/sendmsg_unix.

use agentnet_common::{
    event::{Hook, Outcome},
    user::Record,
    verdict::Reason,
};
use agentnet_tests::{
    lab::{
        Lab,
        door::{Doors, Mailbox},
        policy::Policy,
        watched::Watched,
    },
    probe::script::{Came, Step},
};
use anyhow::{Result, ensure};

fn send(name: impl Into<Vec<u8>>) -> Step {
    Step::Unix { kind: libc::SOCK_DGRAM, send: true, name: name.into(), text: "secret".to_owned() }
}

/// Datagrams go to sockets that the policy names, by path and abstract, and to no other.
#[test]
fn datagrams_go_to_named_sockets_only() -> Result<()> {
    let lab = Lab::new()?;
    let doors = Doors::new()?;
    let ours = format!("agentnet-{}", lab.name);
    let open = [Mailbox::at(&doors.path("named"))?, Mailbox::named(&lab, &ours)?];
    let closed = [Mailbox::at(&doors.path("other"))?, Mailbox::named(&lab, &format!("{ours}-other"))?];
    let steps = [
        send(doors.text("named")),
        send(format!("\0{ours}")),
        send(doors.text("other")),
        send(format!("\0{ours}-other")),
    ];
    let policy = Policy::standard().allow_unix(&doors.text("named")).allow_unix(&format!("@{ours}"));
    let mut watched = Watched::new(&lab, &policy)?;
    let came = watched.script(&steps)?;
    ensure!(came[..2].iter().all(Came::is_ok), "{came:?}");
    ensure!(came[2..].iter().all(|came| came.step == "sendto" && came.errno == libc::EPERM), "{came:?}");
    for mailbox in &open {
        ensure!(mailbox.arrived()? == ["secret"]);
    }
    for mailbox in &closed {
        ensure!(mailbox.arrived()?.is_empty());
    }
    ensure!(watched.counters()?.denied[Reason::UnixSocket as usize] == 2);
    let told: Vec<String> = watched
        .records()?
        .iter()
        .filter_map(|record| match record {
            Record::Verdict(verdict)
                if (verdict.hook, verdict.outcome) == (Hook::SendmsgUnix, Outcome::Blocked) =>
            {
                Some(verdict.door.as_ref()?.text())
            }
            _ => None,
        })
        .collect();
    ensure!(told == [doors.text("other"), format!("@{ours}-other")], "{told:?}");
    drop(watched);

    let watched = Watched::new(&lab, &Policy::standard().unix("any"))?;
    ensure!(watched.script(&steps)?.iter().all(Came::is_ok));
    for mailbox in open.iter().chain(&closed) {
        ensure!(mailbox.arrived()? == ["secret"]);
    }
    Ok(())
}
