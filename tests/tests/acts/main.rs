//! What people do by hand: `allow`, `block`, `quarantine` and what takes them back, `reset`.

mod block;
mod containers;
mod grant;
mod names;
mod packets;
mod quarantine;
mod reset;
mod restart;
mod run;
mod who;

use std::time::Duration;

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        daemon::Daemon,
        found::{Found, Resident},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
    },
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How long an act may take to end of itself.
pub(crate) const TIME: Duration = Duration::from_secs(90);

/// Does something by hand that ends of itself, by `order` with its length, and then `body`, which must be through by
/// then: on a machine that is too slow for the length, with a longer one. The act, and what came of the body.
pub(crate) fn in_time<T>(
    order: impl Fn(&str) -> Result<Value>,
    mut body: impl FnMut() -> Result<T>,
) -> Result<(Value, T)> {
    const LENGTHS: [&str; 4] = ["4s", "8s", "20s", "60s"];
    let mut last = None;
    for length in LENGTHS {
        let act = order(length)?;
        let expiry = act["expiry"].as_u64().filter(|expiry| *expiry != 0).context("it does not end")?;
        let done = body();
        if agentnet::act::now() < expiry {
            return done.map(|done| (act, done));
        }
        last = done.err();
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("too slow"))).context("not in time")
}

/// The act that was done last to an agent.
pub(crate) fn last_act(daemon: &Daemon, agent: &str) -> Result<Value> {
    acts(daemon, agent)?.pop().context("nothing was done")
}

/// Puts a cgroup under the daemon's policy `lab`.
pub(crate) fn attach(daemon: &Daemon, found: &Found<'_>) -> Result<()> {
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"]).map(drop)
}

/// A policy that allows all three hosts of the lab, on one port.
pub(crate) fn open() -> Policy {
    Family::ALL.into_iter().fold(Policy::standard(), |policy, family| {
        [family.denied(), family.metadata()]
            .into_iter()
            .fold(policy, |policy, ip| policy.allow(&ip.to_string(), &[ALLOWED_PORT], &["tcp", "udp"]))
    })
}

/// What was done to an agent by hand, as `status` tells it.
pub(crate) fn acts(daemon: &Daemon, agent: &str) -> Result<Vec<Value>> {
    let status = daemon.status_of(agent)?;
    let acts = [&status["engine"]["acts"], &status["acts"]].into_iter().filter_map(Value::as_array);
    Ok(acts.flatten().cloned().collect())
}

/// The changes of what was done by hand, as the log has them, by what was done.
pub(crate) fn told(daemon: &Daemon, agent: &str, did: &str) -> Result<Vec<Value>> {
    let log = daemon.log_of(agent)?;
    Ok(log.into_iter().filter(|line| line["kind"] == "act" && line["evidence"]["did"] == did).collect())
}

/// Waits until it is told that something was done, or has ended.
pub(crate) fn until_told(daemon: &Daemon, agent: &str, did: &str) -> Result<Value> {
    eventually(TIME, did, || match told(daemon, agent, did) {
        Ok(lines) if !lines.is_empty() => Ok(lines[0].clone()),
        other => Err(format!("{other:?}\n{}", daemon.said())),
    })
}

/// Waits until the kernel's clock says that an act is over.
pub(crate) fn until_over(act: &Value) -> Result<()> {
    let expiry = act["expiry"].as_u64().filter(|expiry| *expiry != 0).context("it does not end")?;
    eventually(TIME, "its time is over", || match agentnet::act::now() {
        now if now > expiry => Ok(()),
        now => Err(format!("{now} of {expiry}")),
    })
}

/// Fails unless the connection is known to be closed.
pub(crate) fn ensure_closed(talker: &mut Resident, index: usize, text: &str) -> Result<()> {
    let said = talker.say(index, text)?;
    ensure!(said.errno != 0 || said.broken, "connection {index} lives on: {said:?}");
    Ok(())
}

/// Fails unless the connection takes what is written.
pub(crate) fn ensure_open(talker: &mut Resident, index: usize, text: &str) -> Result<()> {
    let said = talker.say(index, text)?;
    ensure!(said.errno == 0 && !said.broken, "connection {index} is closed: {said:?}");
    Ok(())
}

/// Fails unless these texts have arrived at the far end, and those have not.
pub(crate) fn ensure_arrived(lab: &Lab, arrived: &[&str], held_back: &[&str]) -> Result<()> {
    eventually(DEADLINE, "what is allowed arrives", || {
        let missing = arrived.iter().find(|text| lab.sniffer.carrying(text.as_bytes()) == 0);
        missing.map_or(Ok(()), |text| Err(format!("{text} did not")))
    })?;
    lab.fence()?;
    for text in held_back {
        let packets = lab.sniffer.carrying(text.as_bytes());
        ensure!(packets == 0, "{packets} packets with {text} left");
    }
    Ok(())
}
