//! The agent's confinement, and agents below agents.

use agentnet_tests::lab::{
    Lab,
    agent::{Agent, NOBODY},
    child::{finish, join_cgroup},
    expect::{EPERM, Expected, Said},
    net::{ALLOWED_PORT, Family},
    policy::Policy,
    residue::Residue,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

use super::{AGENTNET_FAILED, ensure_nothing_happened, witness};

/// An agent below an agent: what both policies allow.
#[rstest]
fn a_nested_run_is_under_both_policies(#[values(Family::V4, Family::V6)] family: Family) -> Result<()> {
    let lab = Lab::new()?;
    let outer = Agent::new(&lab, &Policy::standard().unix("any"))?;
    let running = outer.hold()?;
    let residue = Residue::of(&outer.name, &running)?;
    let policy = Policy::closed()
        .allow(&family.denied().to_string(), &[ALLOWED_PORT], &["tcp", "udp"])
        .allow(&family.allowed().to_string(), &[ALLOWED_PORT], &["tcp"]);
    let inner = Agent::new(&lab, &policy)?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], family.denied_endpoint(), EPERM)
        .case("udp-sendto", family.allowed_endpoint(), EPERM)
        .case("tcp-send", family.allowed_endpoint(), Said::Ok);
    table.check(&inner.attempt_below(&running, table.requests())?)?;
    Residue::named(&inner.name).ensure_gone()?;
    running.expect(&Expected::new().case("udp-sendto", family.allowed_endpoint(), Said::Ok))?;
    running.finish()?;
    lab.ensure_nothing_reached(family.denied())?;
    residue.ensure_gone()
}

/// Where Unix sockets are closed nothing begins below, and whoever tried is told what to add.
#[test]
fn a_nested_run_needs_a_socket() -> Result<()> {
    let lab = Lab::new()?;
    let outer = Agent::new(&lab, &Policy::standard())?;
    let running = outer.hold()?;
    let inner = Agent::new(&lab, &Policy::closed())?;
    let mut command = inner.command()?;
    command.args(witness(&inner));
    join_cgroup(&mut command, &running.cgroup)?;
    let finished = finish(command, None)?;
    let told = finished.stderr.contains("under a policy itself") && finished.stderr.contains("unix");
    ensure!(finished.status.code() == Some(AGENTNET_FAILED) && told, "{finished:?}");
    ensure_nothing_happened(&inner)?;
    running.finish()?;
    Ok(())
}

/// The agent has no privilege, can get none, and reaches neither cgroups nor BPF nor other processes.
#[rstest]
fn the_agent_is_confined(#[values(None, Some(NOBODY))] user: Option<u32>) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let victim = lab.outsider(user)?;
    let to = Family::V4.denied_endpoint();
    let ops = [
        "nested-cgroup-send",
        "root-cgroup-send",
        "mounted-cgroup-send",
        "mount-bpf",
        "bpf-links",
        "steal-victim-socket",
        "trace-victim",
        "uring-setup",
    ];
    let table = Expected::new().cases(&ops, to, Said::Refused).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    );
    let requests: Vec<_> =
        table.requests().iter().cloned().map(|request| request.victim(victim.pid())).collect();
    table.check(&agent.attempt(&requests)?)?;
    lab.ensure_nothing_reached(to.ip())?;

    let status = agent.run(&["cat", "/proc/self/status"])?;
    let field = |name: &str| -> Result<u64> {
        let line = status.stdout.lines().find_map(|line| line.strip_prefix(name)).context(name.to_owned())?;
        Ok(u64::from_str_radix(line.trim_start_matches(':').trim(), 16)?)
    };
    ensure!(field("NoNewPrivs")? == 1 && field("Seccomp")? == 2, "{}", status.stdout);
    // CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_MODULE, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
    let dangerous = [12, 13, 16, 19, 21, 38, 39].into_iter().fold(0, |set, bit| set | 1_u64 << bit);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(field(set)? & dangerous == 0, "{set} of the agent: {:x}", field(set)?);
    }
    Residue::named(&agent.name).ensure_gone()
}
