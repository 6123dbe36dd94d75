//! Programs as they are, under a policy with names: they ask the resolver of `/etc/resolv.conf` as they always do.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        agent::Agent,
        child::{Finished, finish},
        net::{ALLOWED_PORT, Family},
        resolver::Resolver,
        server::Transport,
    },
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use serde_json::Value;

const ALLOWED: &str = "api.example.com";
const DENIED: &str = "leak.example.net";

/// Who looks a name up and says something to what it finds there; `URL` and `TLS` stand for where.
#[derive(Clone, Copy, Debug)]
struct Client {
    program: &'static str,
    args: &'static [&'static str],
    /// How it ends when it got there.
    met: i32,
}

/// What answers at the other end is no TLS.
const CURL: Client =
    Client { program: "curl", args: &["--silent", "--show-error", "TLS"], met: CURLE_SSL_CONNECT_ERROR };
const CURLE_SSL_CONNECT_ERROR: i32 = 35;
const PYTHON: Client = Client {
    program: "python3",
    args: &[
        "-c",
        "import socket, sys, urllib.parse\n\
         url = urllib.parse.urlsplit(sys.argv[1])\n\
         with socket.create_connection((url.hostname, url.port)) as peer:\n\
         \x20   peer.sendall(b'python')\n\
         \x20   peer.shutdown(socket.SHUT_WR)\n\
         \x20   print(peer.recv(100))\n",
        "URL",
    ],
    met: 0,
};
/// c-ares asks, past the C library.
const NODE_RESOLVE: Client = Client {
    program: "node",
    args: &[
        "-e",
        "const url = new URL(process.argv[1]);\n\
         require('dns').promises.resolve4(url.hostname).then(([ip]) => {\n\
         \x20   const peer = require('net').connect(url.port, ip, () => peer.end('node'));\n\
         \x20   peer.on('data', (data) => console.log(data.toString()));\n\
         \x20   peer.on('error', (error) => { console.error(error); process.exit(1); });\n\
         }, (error) => { console.error(error); process.exit(1); });\n",
        "URL",
    ],
    met: 0,
};
/// The C library asks for both families at once.
const NODE_LOOKUP: Client = Client {
    program: "node",
    args: &[
        "-e",
        "const url = new URL(process.argv[1]);\n\
         const peer = require('net').connect(url.port, url.hostname, () => peer.end('node'));\n\
         peer.on('data', (data) => console.log(data.toString()));\n\
         peer.on('error', (error) => { console.error(error); process.exit(1); });\n",
        "URL",
    ],
    met: 0,
};

/// Whether a program is there.
pub(super) fn is_installed(program: &str) -> bool {
    let found = |dir: PathBuf| dir.join(program).is_file();
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(found))
}

impl Client {
    /// Runs it as the agent, with a `resolv.conf` of its own that agentnet reads too.
    fn run(self, agent: &Agent<'_>, resolv_conf: &str, name: &str) -> Result<Finished> {
        let file = agent.policy_file().with_file_name("resolv.conf");
        fs::write(&file, resolv_conf)?;
        let inner = agent.command()?;
        let url = format!("http://{name}:{ALLOWED_PORT}/");
        let tls = format!("https://{name}:{ALLOWED_PORT}/");
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&file).arg(inner.get_program());
        command.args(inner.get_args()).arg(self.program);
        command.args(self.args.iter().map(|arg| match *arg {
            "URL" => url.as_str(),
            "TLS" => tls.as_str(),
            arg => arg,
        }));
        agent.place(&mut command);
        finish(command, None)
    }
}

fn policy(names: &[&str]) -> String {
    use std::fmt::Write as _;
    let mut text = "version = 1\nname = \"names\"\n".to_owned();
    for name in names {
        let _ = write!(text, "[[egress.allow]]\ndomain = {name:?}\nports = [{ALLOWED_PORT}]\n");
    }
    text
}

/// A name that is allowed is reached, one that is not is never heard of outside.
#[rstest]
fn programs_reach_the_names_they_may(
    #[values(CURL, PYTHON, NODE_RESOLVE, NODE_LOOKUP)] client: Client,
    #[values(Family::V4, Family::V6)] resolver: Family,
) -> Result<()> {
    if !is_installed(client.program) {
        skip!("programs_reach_the_names_they_may", "{} is not installed", client.program);
        return Ok(());
    }
    let lab = Lab::new()?;
    let at = SocketAddr::from((resolver.allowed(), DNS_PORT));
    let addresses = vec![Family::V4.named(1), Family::V6.named(1)];
    let zone = [(ALLOWED, addresses.clone()), (DENIED, addresses)];
    let resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
    let conf = format!("nameserver {}\noptions ndots:5\nsearch corp.example\n", at.ip());
    let agent = Agent::with_text(&lab, &policy(&[ALLOWED]))?;

    let said = client.run(&agent, &conf, DENIED)?;
    ensure!(![Some(0), Some(client.met)].contains(&said.status.code()), "{said:?}");
    ensure!(resolver.asked_for(b"\x04leak") == 0, "asked: {:?}", resolver.asked());

    let said = client.run(&agent, &conf, ALLOWED)?;
    ensure!(said.status.code() == Some(client.met), "{said:?}");
    ensure!(resolver.asked_for(b"\x03api\x07example\x03com") > 0, "the twin");
    let connections = |family: Family| {
        lab.servers.tally((family.named(1), ALLOWED_PORT).into(), Transport::Tcp).connections
    };
    ensure!(connections(Family::V4) + connections(Family::V6) == 1, "the twin connects once");

    let log = agent.log()?;
    // With the search domain, as the C library asks first, or without.
    let rule = format!("[[egress.allow]] domain = \"{DENIED}\"");
    let is_told = |line: &Value| {
        let asked = line["evidence"]["query"]["name"].as_str().is_some_and(|name| name.starts_with(DENIED));
        line["kind"] == "dns_denied"
            && asked
            && line["reason"].as_str().is_some_and(|text| text.contains(&rule))
    };
    ensure!(log.iter().any(is_told), "nobody was told: {log:#?}");
    Ok(())
}
