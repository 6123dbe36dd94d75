//! Secrets of this host, which its operator names in the daemon's configuration: no agent may send them, in whatever
//! form, and nobody is told what they are.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        daemon::{Daemon, Served},
        found::Found,
        net::Family,
        policy::Policy,
        server::Transport,
    },
    probe::script::Step,
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

/// Made for this test; nothing accepts them. Each with what it is in base64, behind `id=` and before `;`.
const FIRST: (&str, &str) = ("zV8-kq2+Rm5+Wt7xLp4", "aWQ9elY4LWtxMitSbTUrV3Q3eExwNDs=");
const SECOND: (&str, &str) = ("Qm4_hT7~bN2-yK9cVw6", "aWQ9UW00X2hUN35iTjIteUs5Y1Z3Njs=");

/// A list of secrets, and the configuration that names it.
struct Listed {
    _dir: TempDir,
    list: PathBuf,
    config: PathBuf,
}

impl Listed {
    fn new() -> Result<Self> {
        let dir = TempDir::with_prefix("agentnet-secrets-")?;
        let home = dir.path().canonicalize()?;
        let (list, config) = (home.join("deploy.env"), home.join("config.toml"));
        fs::write(&config, format!("[detect.secret]\nhost_secrets = [{:?}]\n", list.display().to_string()))?;
        let listed = Self { _dir: dir, list, config };
        listed.write(FIRST.0)?;
        Ok(listed)
    }

    fn write(&self, secret: &str) -> Result<()> {
        fs::write(&self.list, format!("# for deployment\nDEPLOY_KEY=\"{secret}\"\n"))?;
        Ok(fs::set_permissions(&self.list, fs::Permissions::from_mode(0o600))?)
    }

    /// A daemon with this configuration.
    fn serve(&self) -> Result<Served> {
        let config = self.config.to_str().context("no UTF-8")?;
        Served::new_under(&["/bin/sh", "-c", &format!("exec \"$0\" \"$@\" --config {config}")])
    }
}

fn request(header: &str) -> String {
    format!("GET /index.html HTTP/1.1\r\nHost: docs.example.com\r\nX-Trace: {header}\r\n\r\n")
}

/// Whether what an agent says over a new connection arrives.
fn arrives(served: &Served, found: &Found<'_>, to: SocketAddr, header: &str) -> Result<bool> {
    let before = served.lab.servers.tally(to, Transport::Tcp).bytes;
    let came = found.script(&[Step::Connect { to, text: request(header) }])?;
    let arrived = served.lab.servers.tally(to, Transport::Tcp).bytes - before;
    ensure!(came[0].is_ok() == (arrived > 0), "{arrived} bytes arrived, and the agent was told {came:?}");
    Ok(arrived > 0)
}

fn alerts(daemon: &Daemon, found: &Found<'_>) -> Result<Vec<Value>> {
    Ok(daemon.log_of(&found.name)?.into_iter().filter(|line| line["kind"] == "secret").collect())
}

/// The alert that comes after so many others.
fn alert(daemon: &Daemon, found: &Found<'_>, before: usize) -> Result<Value> {
    eventually(DEADLINE, "an alert about the secret", || {
        let seen = alerts(daemon, found).map_err(|error| error.to_string())?;
        seen.get(before).cloned().ok_or_else(|| format!("{} alerts", seen.len()))
    })
}

/// Files below `directory` that hold `text`.
fn holding(directory: &Path, text: &str) -> Result<Vec<PathBuf>> {
    let mut holding = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            holding.extend(self::holding(&path, text)?);
        } else if path.is_file() {
            let bytes = fs::read(&path)?;
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                holding.push(path);
            }
        }
    }
    Ok(holding)
}

/// A listed secret that leaves in base64 in a header of a request is told and its destination closed; another host is
/// not. After a reload the list is another one. Neither the log nor what is kept has the secret.
#[rstest]
fn a_listed_secret_is_found_however_it_is_coded(
    #[values(Family::V4, Family::V6)] family: Family,
) -> Result<()> {
    let listed = Listed::new()?;
    let served = listed.serve()?;
    let daemon = &served.daemon;
    let (to, other) = (family.allowed_endpoint(), family.denied_endpoint());
    let policy = Policy::standard().allow(&other.ip().to_string(), &[other.port()], &["tcp"]);
    daemon.write_policy("lab", &policy.text())?;
    let found = Found::new(&served.lab)?;
    daemon.tell(&["attach", "--agent", &found.name, "--cgroup", found.arg(), "--policy", "lab"])?;
    ensure!(arrives(&served, &found, to, "nothing")?, "the twin");
    ensure!(arrives(&served, &found, to, SECOND.1)?, "what is not listed");
    ensure!(alerts(daemon, &found)?.is_empty(), "nothing was said yet");

    found.script(&[Step::Connect { to, text: request(FIRST.1) }])?;
    let told = alert(daemon, &found, 0)?;
    ensure!(told["action"] == "blocked" && told["destination"]["ip"] == to.ip().to_string(), "{told:#}");
    let evidence = &told["evidence"];
    ensure!(evidence["rule"] == "DEPLOY_KEY" && evidence["own"] == true, "{told:#}");
    ensure!(evidence["encoding"] == "base64" && evidence["place"] == "a header of a request", "{told:#}");
    // With the head of the request it had left when it was found.
    let left = evidence["bytes_before_block"].as_u64().context("no bytes_before_block")?;
    ensure!(left == request(FIRST.1).len() as u64, "{told:#}");
    ensure!(!arrives(&served, &found, to, "nothing")?, "the destination is open");
    ensure!(arrives(&served, &found, other, "nothing")?, "another one is closed");

    daemon.tell(&["unblock", &to.ip().to_string(), "--agent", &found.name])?;
    listed.write(SECOND.0)?;
    daemon.tell(&["reload"])?;
    ensure!(arrives(&served, &found, other, FIRST.1)?, "what is listed no more");
    ensure!(alerts(daemon, &found)?.len() == 1, "what is listed no more was told");
    found.script(&[Step::Connect { to: other, text: request(SECOND.1) }])?;
    let told = alert(daemon, &found, 1)?;
    ensure!(told["action"] == "blocked" && told["evidence"]["rule"] == "DEPLOY_KEY", "{told:#}");
    ensure!(!arrives(&served, &found, other, "nothing")?, "the destination is open");

    for (secret, coded) in [FIRST, SECOND] {
        for text in [secret, coded.trim_end_matches('=')] {
            ensure!(!daemon.said().contains(text), "logged: {}", daemon.said());
            ensure!(holding(&daemon.directory("state"), text)?.is_empty(), "kept");
        }
    }
    daemon.tell(&["detach", &found.name])?;
    daemon.ensure_no_agents()
}

/// What cannot be read is told by `status`, by a reload and by `--check`, and the rest goes on.
#[test]
fn a_list_that_cannot_be_read_is_told() -> Result<()> {
    let listed = Listed::new()?;
    let served = listed.serve()?;
    let daemon = &served.daemon;
    let status = || Ok::<_, anyhow::Error>(daemon.ask(&["status"])?.stdout);
    ensure!(!status()?.contains("is not looked for"), "{}", status()?);
    fs::remove_file(&listed.list)?;
    std::os::unix::fs::symlink("/etc/shadow", &listed.list)?;
    let reloaded = daemon.ask(&["reload"])?;
    ensure!(!reloaded.status.success() && reloaded.stderr.contains("symbolic link"), "{reloaded:?}");
    ensure!(status()?.contains("is not looked for"), "{}", status()?);
    let config = listed.config.to_str().context("no UTF-8")?;
    let checked = daemon.ask(&["daemon", "--check", "--config", config])?;
    ensure!(checked.status.code() == Some(2) && checked.stderr.contains("symbolic link"), "{checked:?}");

    fs::remove_file(&listed.list)?;
    listed.write(FIRST.0)?;
    daemon.tell(&["reload"])?;
    ensure!(!status()?.contains("is not looked for"), "{}", status()?);
    daemon.ensure_no_agents()
}
