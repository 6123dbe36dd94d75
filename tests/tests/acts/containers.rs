//! Acts where packets have no socket of the agent's: at the host's end of a container's interface.

use std::net::SocketAddr;

use agentnet::{
    act::{self, Act, Allowed, Transport, What},
    kernel::acts::Written,
};
use agentnet_common::{
    abi::{AgentCfg, CFG_BLOCKS, CFG_GRANTS},
    verdict::Reason,
};
use agentnet_tests::{
    lab::{
        Lab,
        client::is_answered,
        container::{Guard, Site, configure, ensure_all_ok, policy},
        daemon::Served,
        found::Found,
        net::{AGENT_INTERFACE, ALLOWED_PORT, Family},
        server::Transport as Over,
    },
    probe::Request,
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::{attach, in_time, last_act, until_over};

/// What no hook of a cgroup sees.
const FRAMES: [&str; 2] = ["packet-send", "tun-forward"];

/// Sends frames to an endpoint from within the agent. Markers are told apart by `when`.
fn send(found: &Found<'_>, to: SocketAddr, when: &str) -> Result<Vec<Request>> {
    let of = |op: &&str| {
        let mut request = Request::new(op, to);
        request.args.marker.push_str(when);
        request
    };
    let requests: Vec<Request> = FRAMES.iter().map(of).collect();
    found.attempt(&requests)?;
    Ok(requests)
}

/// How many of these have arrived, after a fence, which takes the container's way.
fn arrived(lab: &Lab, requests: &[Request]) -> Result<usize> {
    lab.fence()?;
    Ok(requests.iter().filter(|request| lab.sniffer.carrying(request.args.secret()) > 0).count())
}

#[rstest]
fn frames_of_a_container_are_judged_by_acts_too(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let (Served { lab, mut daemon }, _host) = Served::with_container()?;
    let (blocked, denied) = ((family.metadata(), ALLOWED_PORT).into(), family.denied_endpoint());
    let net = family.metadata().to_string();
    daemon.write_policy("lab", &policy().allow(&net, &[ALLOWED_PORT], &["tcp", "udp"]).text())?;
    let found = Found::new(&lab)?;
    let _resident = found.start(&["talk", &family.allowed_endpoint().to_string()])?;
    attach(&daemon, &found)?;
    let all = FRAMES.len();
    // Each time beside a twin that is allowed.
    let sent = |to: SocketAddr, when: &str| -> Result<usize> {
        let requests = send(&found, to, when)?;
        let twins = arrived(&lab, &send(&found, family.allowed_endpoint(), when)?)?;
        ensure!(twins == all, "{when}: {twins} of the twin's frames arrived");
        arrived(&lab, &requests)
    };
    ensure!(sent(blocked, "-first")? == all && sent(denied, "-first-denied")? == 0);

    daemon.tell(&["block", &net, "--agent", &found.name])?;
    ensure!(sent(blocked, "-blocked")? == 0, "a frame left");
    daemon.kill()?;
    ensure!(sent(blocked, "-alone")? == 0, "a frame left without a daemon");
    daemon.start()?;
    ensure!(sent(blocked, "-adopted")? == 0, "a frame left after a restart");
    daemon.tell(&["unblock", &net, "--agent", &found.name])?;
    ensure!(sent(blocked, "-unblocked")? == all, "the block is not lifted");

    daemon.tell(&["quarantine", &found.name])?;
    // A fence does not leave either.
    let quarantined = send(&found, blocked, "-quarantined")?;
    daemon.tell(&["release", &found.name])?;
    ensure!(arrived(&lab, &quarantined)? == 0, "a frame left in quarantine");
    ensure!(sent(blocked, "-released")? == all, "the agent is not released");

    let to = denied.to_string();
    let order = |length: &str| {
        daemon.tell(&["allow", "--agent", &found.name, &to, "--for", length, "--protocol", "udp"])?;
        last_act(&daemon, &found.name)
    };
    let granted = || {
        ensure!(sent(denied, "-granted")? == all, "the grant does not hold");
        Ok(())
    };
    let (act, ()) = in_time(order, granted)?;
    daemon.kill()?;
    until_over(&act)?;
    ensure!(sent(denied, "-over")? == 0, "a frame left after the grant's time");
    daemon.start()?;
    ensure!(sent(denied, "-after")? == 0, "a frame left after a restart");
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

fn block(net: &str) -> Result<Act> {
    made(What::Block { net: act::net(net)? }, 0)
}

fn grant(to: SocketAddr, protocol: Transport, expiry: u64) -> Result<Act> {
    let (target, addresses, port) = (to.ip().to_string(), vec![to.ip()], to.port());
    made(What::Allow(Allowed { target, addresses, port, protocol, local: false }), expiry)
}

fn made(what: What, expiry: u64) -> Result<Act> {
    let since = "2026-11-22T12:00:00Z".parse()?;
    Ok(Act { id: 1, what, agent: None, by: None, detection: None, reason: None, since, until: None, expiry })
}

/// Puts acts in force on the second line alone.
fn put(guard: &mut Guard<'_>, host: &agentnet_tests::lab::netns::Namespace, acts: &[Act]) -> Result<()> {
    let before = guard.kernel.written_acts()?.remove(&guard.cfg.agent).unwrap_or_default();
    let after = Written { blocks: act::nodes(acts), grants: act::grants(acts) };
    guard.kernel.write_acts(guard.cfg.agent, &before, &after)?;
    let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
    let flags = flag(CFG_BLOCKS, !after.blocks.is_empty()) | flag(CFG_GRANTS, !after.grants.is_empty());
    guard.cfg = AgentCfg { flags, generation: guard.cfg.generation + 1, ..guard.cfg };
    let (tcx, kernel, cfg) = (&mut guard.tcx, &guard.kernel, guard.cfg);
    host.run(|| Ok(tcx.configure(kernel, cfg)?))
}

/// Whoever came in before is answered no more, though the second line has noted that it may be.
#[rstest]
fn a_visitor_who_is_blocked_is_not_answered(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    const PORT: u16 = 8000;
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy().listen("any"))?;
    guard.container()?;
    let _server = guard.serve((family.unspecified(), PORT).into())?;
    let own = SocketAddr::from((family.agent(), PORT));
    let answered = |over| is_answered(&site.lab.server, own, over);
    let mut visitor = site.lab.server.run(|| Ok(std::net::TcpStream::connect(own)?))?;
    let peer = visitor.local_addr()?.ip().to_string();
    let mut echo = |text: &[u8]| -> std::io::Result<Vec<u8>> {
        use std::io::{Read as _, Write as _};
        visitor.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
        visitor.write_all(text)?;
        let mut answer = vec![0; text.len()];
        visitor.read_exact(&mut answer).map(|()| answer)
    };
    ensure!(echo(b"CAME-IN")? == b"CAME-IN" && answered(Over::Tcp)? && answered(Over::Udp)?);
    put(&mut guard, &site.host, &[block(&peer)?])?;
    ensure!(echo(b"STILL-HERE").is_err() && !answered(Over::Tcp)? && !answered(Over::Udp)?);
    ensure!(guard.refused(Reason::Blocked)? >= 3, "refusals are not counted");
    put(&mut guard, &site.host, &[])?;
    ensure!(answered(Over::Tcp)? && answered(Over::Udp)?, "the block is not lifted");
    guard.release()
}

/// A granted address is found on the link, and found again when it was forgotten: in IPv6 that takes packets to it.
#[rstest]
fn a_granted_neighbour_is_found(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let site = Site::new()?;
    let mut guard = Guard::new(&site.lab.name, &site.host, &site.lab.agent, &policy())?;
    guard.container()?;
    let (to, expiry) = (family.denied_endpoint(), act::now() + 600_000_000_000);
    let requests = ["tcp-echo", "udp-echo"].map(|op| Request::new(op, to));
    let own: &std::path::Path = &guard.cgroup.clone();
    ensure!(guard.attempt(own, &requests)?.iter().all(|report| !report.ok), "it was allowed before");
    let grants = [grant(to, Transport::Tcp, expiry)?, grant(to, Transport::Udp, expiry)?];
    put(&mut guard, &site.host, &grants)?;
    for _ in 0..3 {
        ensure_all_ok(&guard.attempt(own, &requests)?)?;
        for words in [
            &["ip", "neigh", "flush", "dev", AGENT_INTERFACE][..],
            // One that is there, and is to be asked whether it still is.
            &[
                "ip",
                "neigh",
                "replace",
                &to.ip().to_string(),
                "lladdr",
                "02:00:00:00:00:02",
                "dev",
                AGENT_INTERFACE,
                "nud",
                "probe",
            ],
        ] {
            if !configure("a_granted_neighbour_is_found", &site.lab.agent, words)? {
                return Ok(());
            }
            ensure_all_ok(&guard.attempt(own, &requests)?)?;
        }
    }
    // The time of a grant is over at once, wherever it is asked.
    let over = [grant(to, Transport::Tcp, 1)?, grant(to, Transport::Udp, 1)?];
    put(&mut guard, &site.host, &over)?;
    ensure!(guard.attempt(own, &requests)?.iter().all(|report| !report.ok), "it is allowed after its time");
    guard.release()
}
