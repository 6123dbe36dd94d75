//! Hosts, kernels and accounts that lack something: it is said in one sentence what, nothing is changed, and
//! nobody is left to believe that a policy is in force. Each with what runs in the same second.

use std::{path::Path, process::Command};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        account::Account,
        agent::Agent,
        child::{Finished, agentnet_binary, finish},
        expect::{EPERM, Expected, Said},
        lacking::{
            LINK_CREATE, MAP_CREATE, OBJ_PIN, PROG_LOAD, without_bpf, without_call, without_capability,
        },
        mounts::{cover, mount_cgroups, unmount_all, with_own_mounts},
        net::Family,
        policy::Policy,
        residue::{Residue, links_above},
        server::Transport,
    },
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::CapabilitySet,
};

use crate::{AGENTNET_FAILED, ensure_nothing_happened, ensure_refused, witness};

const NO_CGROUP2: &str = "agentnet: cgroup v2 is not mounted, and it is what tells agents apart: boot with \
     systemd.unified_cgroup_hierarchy=1, or mount it with `mount -t cgroup2 none /sys/fs/cgroup/unified`\n";

/// The same command on the host as it is.
fn ensure_it_runs_otherwise(lab: &Lab, agent: &Agent<'_>) -> Result<()> {
    let twin = Expected::new().case("tcp-send", Family::V4.allowed_endpoint(), Said::Ok);
    agent.expect(&twin)?;
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn without_cgroup_v2_nothing_is_started(#[values("unmounted", "covered")] how: &str) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with_own_mounts(|| {
        match how {
            "covered" => cover(Path::new("/sys/fs/cgroup"), c"")?,
            _ => unmount_all("cgroup2")?,
        }
        agent.run(&witness(&agent))
    })?;
    ensure_refused(&finished, AGENTNET_FAILED, NO_CGROUP2)?;
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

/// Where no cgroup can be seen, that of a living agent cannot either: it is not taken for gone.
#[test]
fn without_cgroup_v2_nobody_elses_policy_is_cleared() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    for engine in running.supervisors()? {
        kill_process(Pid::from_raw(engine).context("pid")?, Signal::KILL)?;
    }
    let input = running.child.stdin.take();
    running.child.wait()?;
    with_own_mounts(|| {
        unmount_all("cgroup2")?;
        let mut command = Command::new(agentnet_binary()?);
        command.arg("status");
        finish(command, None)
    })?;
    ensure!(links_above(&running.cgroup)?.len() == residue.links().len(), "links of a living agent are gone");
    let table = Expected::new().case("tcp-connect", Family::V4.denied_endpoint(), EPERM).case(
        "tcp-send",
        Family::V4.allowed_endpoint(),
        Said::Ok,
    );
    running.expect(&table)?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    drop(input);
    running.finish()?;
    // Where the cgroups can be seen, it is cleared.
    eventually(DEADLINE, "the agent is cleared", || {
        let status = agentnet_binary().and_then(|binary| Ok(Command::new(binary).arg("status").output()?));
        status.map_err(|error| error.to_string())?;
        match residue.left() {
            Ok(left) if left.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
}

/// `run` mounts one for its agent, which ends with the mount namespace.
#[test]
fn without_bpffs_one_is_mounted() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let table = Expected::new()
        .cases(&["tcp-connect", "udp-sendto"], Family::V4.denied_endpoint(), EPERM)
        .cases(&["tcp-connect", "udp-sendto"], Family::V6.denied_endpoint(), EPERM)
        .cases(&["tcp-send", "udp-sendto"], Family::V4.allowed_endpoint(), Said::Ok);
    with_own_mounts(|| {
        unmount_all("bpf")?;
        agent.expect(&table)?;
        Residue::named(&agent.name).ensure_gone()
    })?;
    lab.ensure_nothing_reached(Family::V4.denied())?;
    lab.ensure_nothing_reached(Family::V6.denied())?;
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn where_bpffs_cannot_be_mounted_nothing_is_started() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with_own_mounts(|| {
        unmount_all("bpf")?;
        let systems = Path::new("/sys/fs");
        cover(systems, c"")?;
        mount_cgroups(&systems.join("cgroup"))?;
        agent.run(&witness(&agent))
    })?;
    let said = "agentnet: cannot mount bpffs on /sys/fs/bpf: No such file or directory (os error 2); it takes \
                root and a kernel with CONFIG_BPF_SYSCALL\n";
    ensure_refused(&finished, AGENTNET_FAILED, said)?;
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

/// What a kernel without a feature, or a security module, says to the step that needs it.
#[rstest]
#[case::maps(MAP_CREATE, libc::EPERM)]
#[case::programs(PROG_LOAD, libc::EPERM)]
#[case::unknown_programs(PROG_LOAD, libc::EINVAL)]
#[case::pins(OBJ_PIN, libc::EPERM)]
#[case::links(LINK_CREATE, libc::EINVAL)]
#[case::forbidden_links(LINK_CREATE, libc::EPERM)]
fn a_kernel_that_refuses_a_step_starts_nothing(#[case] step: u32, #[case] errno: i32) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with(&agent, |command| without_bpf(command, step, errno))?;
    ensure!(finished.status.code() == Some(AGENTNET_FAILED), "{finished:?}");
    let said = &finished.stderr;
    let cause = std::io::Error::from_raw_os_error(errno).to_string();
    ensure!(said.starts_with("agentnet: ") && said.lines().count() == 1, "not one sentence: {finished:?}");
    ensure!(said.contains(&cause), "the cause is not named: {finished:?}");
    ensure!(said.ends_with("`agentnet doctor` tells what this kernel lacks\n"), "no next step: {finished:?}");
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

#[test]
fn without_system_call_filters_nothing_is_started() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    // A filter of one's own cannot refuse the question whether there are filters; the call that installs one it can.
    let finished = with(&agent, |command| without_call(command, libc::SYS_seccomp, libc::EINVAL))?;
    ensure!(finished.status.code() == Some(AGENTNET_FAILED), "{finished:?}");
    let said = "agentnet: cannot install the system call filter: Invalid argument (os error 22); the command was not \
                started\n";
    ensure!(finished.stderr.ends_with(said), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()?;
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

/// What a kernel without Landlock leaves open is said, and the policy holds.
#[test]
fn without_landlock_it_is_said_what_is_open() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let call = libc::SYS_landlock_create_ruleset;
    let finished = with(&agent, |command| without_call(command, call, libc::ENOSYS))?;
    ensure!(finished.status.success(), "{finished:?}");
    let said =
        "agentnet: process isolation: no Landlock: the agent can trace other processes of the same user";
    ensure!(finished.stderr.contains(said), "{finished:?}");
    Residue::named(&agent.name).ensure_gone()?;
    let full = agent.run(&witness(&agent))?;
    ensure!(full.status.success() && !full.stderr.contains("process isolation"), "{full:?}");
    Residue::named(&agent.name).ensure_gone()
}

/// As in a container: uid 0, and without what keeps it in its cgroup.
#[test]
fn a_root_that_cannot_be_confined_starts_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let finished = with(&agent, |command| {
        without_capability(command, CapabilitySet::SYS_ADMIN);
        Ok(())
    })?;
    let said = "agentnet: uid 0 without CAP_SYS_ADMIN could move out of its cgroup and agentnet could not prevent it; \
                start it as an ordinary user or with CAP_SYS_ADMIN\n";
    ensure_refused(&finished, AGENTNET_FAILED, said)?;
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

#[test]
fn without_root_and_a_way_to_it_nothing_is_started() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let account = Account::new(None, "", "")?;
    let finished = with(&agent, |command| account.starts(command))?;
    // In a PATH without anything the witness would not be found first.
    ensure!(finished.status.code() == Some(127), "{finished:?}");
    let mut command = agent.command()?;
    account.starts(&mut command)?;
    agent.give_to(agentnet_tests::lab::account::UID)?;
    command.args(["/usr/bin/touch", &witness(&agent)[1]]);
    let finished = finish(command, None)?;
    let said = "agentnet: agentnet needs root for a moment, to set up the policy in the kernel, and found neither sudo \
                nor doas; install one of them or run agentnet as root\n";
    ensure_refused(&finished, AGENTNET_FAILED, said)?;
    ensure_nothing_happened(&agent)?;
    ensure_it_runs_otherwise(&lab, &agent)
}

/// The witness under `agentnet run`, after `change`.
fn with(agent: &Agent<'_>, change: impl FnOnce(&mut Command) -> Result<()>) -> Result<Finished> {
    let mut command = agent.command()?;
    command.args(witness(agent));
    change(&mut command)?;
    finish(command, None)
}
