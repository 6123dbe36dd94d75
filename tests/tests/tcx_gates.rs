//! `tcx_gate`: what names open and what resolvers are asked is held to its gates at the host's end of a container's
//! interface as well: frames of the agent's own making have passed none.

use std::net::SocketAddr;

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        container::{ensure_all_ok, policy},
        daemon::Served,
        found::Found,
        hello::Hello,
        net::{Family, TLS_PORT},
        resolver::{A, AAAA, Resolver, query},
        server::Transport,
    },
    probe::{Request, dns::Attack, script::Step},
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
        ensure!(came.len() == 3 && came.iter().all(|came| came.is_ok()), "{when}: {came:?}");
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
