//! `tcx_gate`: what names open and what resolvers are asked is held to its gates at the host's end of a container's
//! interface as well: frames of the agent's own making have passed none.

use std::net::{SocketAddr, UdpSocket};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        container::{ensure_all_ok, policy},
        daemon::Served,
        found::Found,
        hello::Hello,
        net::{ALLOWED_PORT, Family, TLS_PORT},
        resolver::{A, AAAA, Record, Resolver, answer, query},
        server::Transport,
    },
    probe::{
        Request,
        dns::Attack,
        script::{Came, Step},
    },
};
use anyhow::{Result, ensure};
use rstest::rstest;

const NAME: &str = "api.example.com";

/// Frames to the resolver and to the port of the address that the name opens, told apart by `when`.
fn frames(resolver: SocketAddr, server: SocketAddr, when: &str) -> Vec<Request> {
    let to = [("packet-send", resolver), ("packet-tcp", resolver), ("packet-tcp", server)];
    to.into_iter()
        .map(|(op, to)| {
            let mut request = Request::new(op, to);
            request.args.marker.push_str(when);
            request
        })
        .collect()
}

/// Which of these have arrived, after a fence, which takes the container's way.
fn arrived(lab: &Lab, requests: &[Request]) -> Result<Vec<bool>> {
    lab.fence()?;
    Ok(requests.iter().map(|request| lab.sniffer.carrying(request.args.secret()) > 0).collect())
}

/// Queries over UDP and TCP and a client of TLS get through, before and after frames to the same places do not.
#[rstest]
fn frames_pass_no_gate(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let (Served { lab, daemon }, _host) = Served::with_container()?;
    let (resolver, server) = ((family.allowed(), DNS_PORT).into(), (family.named(1), TLS_PORT).into());
    let _resolver = Resolver::of_zone(&lab.server, &[resolver], &[(NAME, vec![family.named(1)])])?;
    let text = policy().allow_hosts(&[DNS_PORT], &["udp", "tcp"]).allow_name(NAME, &[TLS_PORT]).text();
    daemon.write_policy("lab", &text)?;
    let found = Found::new(&lab)?;
    // A container has a process, by which its network namespace is known.
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    let free = frames(resolver, server, "-before");
    ensure_all_ok(&found.attempt(&free)?)?;
    ensure!(arrived(&lab, &free)? == [true; 3], "the frames prove nothing");

    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let message = query(7, NAME, if family == Family::V4 { A } else { AAAA });
    let hello = Hello::to(NAME).record();
    let ordinary = [
        Step::Ask { to: resolver, message: message.clone() },
        Step::Attack(Attack::Dialog { to: resolver, message }),
        Step::Stream { to: server, parts: vec![hello.clone()], expect: hello.len() },
    ];
    let works = |when: &str| -> Result<()> {
        let came = found.script(&ordinary)?;
        ensure!(came.len() == 3 && came.iter().all(Came::is_ok), "{when}: {came:?}");
        Ok(())
    };
    works("before the frames")?;
    let bytes = lab.servers.tally(server, Transport::Tcp).bytes;
    let frames = frames(resolver, server, "-attached");
    found.attempt(&frames)?;
    ensure!(arrived(&lab, &frames)? == [false; 3], "a frame left: {:?}", arrived(&lab, &frames)?);
    works("after the frames")?;
    ensure!(
        lab.servers.tally(server, Transport::Tcp).bytes == bytes + hello.len(),
        "the server got something else than the client's hello"
    );
    for reason in ["dns_unjudged", "tls_unjudged"] {
        eventually(DEADLINE, "the refusal is told", || {
            let log = daemon.log_of(&found.name).map_err(|error| error.to_string())?;
            let told = log.iter().any(|line| line["evidence"]["reason"] == reason);
            if told { Ok(()) } else { Err(format!("no {reason} in {log:?}")) }
        })?;
    }
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// A container runtime's resolver asks from within the container, by a socket that is not the agent's.
#[rstest]
fn sockets_that_no_agent_made_ask(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let (Served { lab, daemon }, _host) = Served::with_container()?;
    let to: SocketAddr = (family.allowed(), DNS_PORT).into();
    let resolver = Resolver::of_zone(&lab.server, &[to], &[(NAME, vec![family.named(1)])])?;
    daemon.write_policy("lab", &policy().allow_hosts(&[DNS_PORT], &["udp", "tcp"]).text())?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let message = query(7, NAME, if family == Family::V4 { A } else { AAAA });
    // The agent itself may not ask for it.
    let came = found.script(&[Step::Ask { to, message: message.clone() }])?;
    ensure!(came.iter().all(|came| !came.is_ok()) && resolver.asked().is_empty(), "{came:?}");
    let socket = lab.agent.run(|| Ok(UdpSocket::bind((family.unspecified(), 0))?))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.send_to(&message, to)?;
    let mut back = [0; 512];
    let (length, from) = socket.recv_from(&mut back)?;
    ensure!(
        from == to && length > message.len() && resolver.asked() == [message],
        "{length} bytes of {from}"
    );
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What an agent has told itself in a network namespace of its own opens nothing for its frames either.
#[test]
fn an_answer_counts_at_the_interface_of_its_namespace() -> Result<()> {
    let family = Family::V4;
    let (Served { lab, daemon }, _host) = Served::with_container()?;
    let to: SocketAddr = (family.allowed(), DNS_PORT).into();
    let _resolver = Resolver::of_zone(&lab.server, &[to], &[(NAME, vec![family.named(1)])])?;
    let text = policy().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[ALLOWED_PORT]).text();
    daemon.write_policy("lab", &text)?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    let question = query(7, NAME, A);
    let forged = answer(&question, &[Record::address(family.named(2), 60)], 0).unwrap_or_default();
    let came = found.script(&[
        Step::Attack(Attack::Abroad { to, message: question.clone(), answer: forged.clone() }),
        Step::Ask { to, message: question },
    ])?;
    ensure!(came[0].is_ok() && came[0].back == forged && came[1].is_ok(), "{came:?}");
    let frames = [2, 1].map(|number| Request::new("packet-tcp", (family.named(number), ALLOWED_PORT).into()));
    found.attempt(&frames)?;
    let arrived = arrived(&lab, &frames)?;
    ensure!(arrived == [false, true], "the forged address and the name's: {arrived:?}");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}
