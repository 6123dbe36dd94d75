//! Alerts: what a person or a machine is told of what was refused.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        agent::{Agent, NOBODY},
        child::{finish, probe_binary, wait},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        residue::Residue,
        server::Transport,
    },
    probe::{Report, Request},
};
use anyhow::{Context as _, Result, bail, ensure};
use rstest::rstest;
use serde_json::{Value, json};

/// What was refused or would have been; the log tells what was let through as well.
fn alerts(agent: &Agent<'_>) -> Result<Vec<Value>> {
    Ok(agent.log()?.into_iter().filter(|line| line["kind"] != "flow").collect())
}

/// The alert about one destination and protocol.
fn find<'a>(alerts: &'a [Value], request: &Request, protocol: &str) -> Result<&'a Value> {
    let (ip, port) = (request.args.to.ip().to_string(), request.args.to.port());
    alerts
        .iter()
        .find(|alert| {
            let destination = &alert["destination"];
            destination["ip"] == ip.as_str()
                && destination["port"] == port
                && destination["protocol"] == protocol
        })
        .with_context(|| format!("no alert about {ip} {port} {protocol} in {alerts:#?}"))
}

#[rstest]
fn an_alert_says_who_tried_what(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(None, Some(NOBODY))] user: Option<u32>,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?.user(user);
    let requests =
        [("tcp-connect", 1111, "tcp"), ("udp-sendto", 2222, "udp"), ("udp-connected", 3333, "udp")]
            .map(|(op, port, protocol)| (Request::new(op, (family.denied(), port).into()), protocol));
    let allowed = Request::new("tcp-send", family.allowed_endpoint());
    let mut all: Vec<_> = requests.iter().map(|(request, _)| request.clone()).collect();
    all.push(allowed);
    let running = agent.stay(&all)?;
    let pid = running.pid;
    for (request, protocol) in &requests {
        // While the process lives: what it was is looked up when its alert is written.
        let alert = eventually(DEADLINE, "the alert is written", || {
            let alerts = alerts(&agent).map_err(|error| error.to_string())?;
            find(&alerts, request, protocol).cloned().map_err(|error| error.to_string())
        })?;
        let expected = json!({
            "agent": agent.name,
            "kind": "egress_denied",
            "action": "blocked",
            "pid": pid,
            "comm": "probe",
            "exe": probe_binary()?,
            "uid": user.unwrap_or(0),
            "policy": "lab",
        });
        let found = json!({
            "agent": alert["agent"],
            "kind": alert["kind"],
            "action": alert["action"],
            "pid": alert["process"]["pid"],
            "comm": alert["process"]["comm"],
            "exe": alert["process"]["exe"],
            "uid": alert["process"]["uid"],
            "policy": alert["policy"]["name"],
        });
        ensure!(found == expected, "{}: {alert:#}\nexpected {expected:#}", request.op);
        for field in ["time", "id", "host", "severity", "reason"] {
            ensure!(alert[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {alert:#}");
        }
        ensure!(alert["count"].as_u64() >= Some(1), "no count in {alert:#}");
    }
    running.finish()?;
    let alerts = alerts(&agent)?;
    let about_allowed =
        alerts.iter().filter(|alert| alert["destination"]["ip"] == family.allowed().to_string().as_str());
    ensure!(about_allowed.count() == 0, "an alert about what is allowed: {alerts:#?}");
    let log = agent.log()?;
    let flow =
        log.iter().find(|line| line["kind"] == "flow").with_context(|| format!("no flow in {log:#?}"))?;
    let endpoint = (&flow["destination"]["ip"], &flow["destination"]["port"], &flow["action"]);
    let expected = (&json!(family.allowed()), &json!(ALLOWED_PORT), &json!("allowed"));
    ensure!(endpoint == expected && flow["policy"]["line"].is_u64(), "{flow:#}");
    lab.ensure_bytes(family.allowed_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[rstest]
fn an_audit_reports_what_it_would_have_refused(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard().audit())?;
    let request = Request::new("tcp-send", family.denied_endpoint());
    let reports = agent.attempt(std::slice::from_ref(&request))?;
    ensure!(reports[0].ok, "an audit refused: {reports:?}");
    let alerts = alerts(&agent)?;
    let alert = find(&alerts, &request, "tcp")?;
    ensure!(alert["action"] == "alerted", "{alert:#}");
    lab.ensure_bytes(family.denied_endpoint(), Transport::Tcp)?;
    Residue::named(&agent.name).ensure_gone()
}

#[test]
fn a_raw_socket_is_an_alert_of_its_own() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let running = agent.hold()?;
    let residue = Residue::of(&agent.name, &running)?;
    let requests = [Request::new("raw-udp", Family::V4.denied_endpoint())];
    let reports = running.intrude(&running.cgroup, &requests)?;
    running.finish()?;
    let alerts = alerts(&agent)?;
    let about =
        alerts.iter().find(|alert| alert["kind"] == "raw_socket").with_context(|| format!("{alerts:#?}"))?;
    ensure!(about["process"]["pid"] == reports[0].pid && about["action"] == "blocked", "{about:#}");
    residue.ensure_gone()
}

/// The same refusal again and again is one alert with a count, and all of them are accounted for.
#[test]
fn repeats_are_folded_and_none_is_forgotten() -> Result<()> {
    const TIMES: u64 = 300;
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let request = Request::new("udp-sendto", family_v4_denied());
    let requests = vec![request.clone(); usize::try_from(TIMES)?];
    agent.attempt(&requests)?;
    let alerts = alerts(&agent)?;
    let about: Vec<_> =
        alerts.iter().filter(|alert| alert["destination"]["port"] == request.args.to.port()).collect();
    let counted: u64 = about.iter().filter_map(|alert| alert["count"].as_u64()).sum();
    ensure!(counted == TIMES, "{counted} of {TIMES} refusals are in the alerts: {about:#?}");
    ensure!(about.len() <= usize::try_from(TIMES / 10)?, "{} alerts for one thing", about.len());
    Residue::named(&agent.name).ensure_gone()
}

fn family_v4_denied() -> std::net::SocketAddr {
    (Family::V4.denied(), ALLOWED_PORT).into()
}

/// A flood is refused to the last packet, and what is not reported singly is counted.
#[test]
fn a_flood_is_refused_and_its_losses_are_told() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let reports = agent.attempt(&[
        Request::new("udp-flood", family_v4_denied()),
        Request::new("tcp-send", Family::V4.allowed_endpoint()),
    ])?;
    ensure!(reports[0].errno == libc::EPERM && reports[1].ok, "{reports:?}");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    let alerts = alerts(&agent)?;
    let bytes = fs::metadata(agent.alerts_file())?.len();
    ensure!(bytes < 4 << 20, "{bytes} bytes of alerts for one flood");
    let counted: u64 = alerts.iter().filter_map(|alert| alert["count"].as_u64()).sum();
    ensure!(counted > 1000, "{counted} refusals are in the alerts of a flood");
    Residue::named(&agent.name).ensure_gone()
}

/// Nobody reads the alerts: neither the agent nor the enforcement waits.
#[test]
fn a_stalled_reader_stalls_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let requests = [
        Request::new("udp-flood", family_v4_denied()),
        Request::new("udp-flood", (Family::V6.denied(), ALLOWED_PORT).into()),
        Request::new("udp-scatter", family_v4_denied()),
        Request::new("tcp-send", Family::V4.allowed_endpoint()),
    ];
    let mut command = agent.command_with_alerts("-".as_ref())?;
    command.arg(probe_binary()?).arg("suite").arg(agent.suite(&requests)?);
    // A pipe that a few alerts fill.
    let (reader, writer) = std::io::pipe()?;
    rustix::pipe::fcntl_setpipe_size(&writer, 4096)?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer).spawn()?;
    drop(command);
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().context("stdout")?);
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut reports: Vec<Report> = Vec::new();
    while reports.len() < requests.len() {
        let Ok(line) = lines.recv_timeout(3 * DEADLINE) else {
            drop(reader);
            wait(&mut child)?;
            bail!("the agent stalled after {reports:?}");
        };
        reports.push(serde_json::from_str(&line)?);
    }
    let told: Vec<_> = reports.iter().map(|report| report.errno).collect();
    ensure!(told == [libc::EPERM, libc::EPERM, libc::EPERM, 0], "{reports:?}");
    lab.ensure_nothing_reached(Family::V4.denied())?;
    lab.ensure_nothing_reached(Family::V6.denied())?;
    lab.ensure_bytes(Family::V4.allowed_endpoint(), Transport::Tcp)?;
    // The reader is gone for good: the end is not delayed by what cannot be said.
    drop(reader);
    ensure!(wait(&mut child)?.success());
    Residue::named(&agent.name).ensure_gone()
}

/// `--alerts -` writes to standard error, without colour where that is no terminal, and the command's own
/// output stays clean.
#[test]
fn alerts_can_be_read_on_standard_error() -> Result<()> {
    let lab = Lab::new()?;
    let agent = Agent::new(&lab, &Policy::standard())?;
    let mut command = agent.command_with_alerts("-".as_ref())?;
    command.arg(probe_binary()?).args([
        "op",
        "tcp-connect",
        "--to",
        "198.18.0.3:4321",
        "--via",
        "198.18.0.2:7000",
    ]);
    let finished = finish(command, None)?;
    ensure!(finished.reports()?.len() == 1, "{finished:?}");
    ensure!(finished.stderr.contains("198.18.0.3") && finished.stderr.contains("4321"), "{finished:?}");
    ensure!(!finished.stderr.contains('\x1b'), "colour without a terminal: {finished:?}");
    Residue::named(&agent.name).ensure_gone()
}
