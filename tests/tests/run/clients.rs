//! Tools that agents use, as they are: each reaches the name that it may, and is told at once of the one that it may not.
//! Those that are not installed are skipped by name.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        agent::Agent,
        child::{Finished, finish},
        net::Family,
        resolver::Resolver,
        web::{WEB_PORT, Web},
    },
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;

use super::names::is_installed;

const ALLOWED: &str = "api.example.com";
const DENIED: &str = "leak.example.net";

/// A tool. `URL` in what it is told stands for the server, `NAME` for its name, `PORT` for its port, `DIR` for a directory
/// of its own.
#[derive(Clone, Copy, Debug)]
struct Tool {
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// What it says when it got there.
    says: &'static str,
    /// Whether it only resolves.
    resolves: bool,
}

const fn tool(
    name: &'static str,
    program: &'static str,
    args: &'static [&'static str],
    says: &'static str,
) -> Tool {
    Tool { name, program, args, env: &[], says, resolves: false }
}

const CURL: Tool = tool("curl", "curl", &["-sS", "URL"], "harmless-page");
const GIT: Tool = tool("git", "git", &["ls-remote", "URLrepo.git"], "refs/heads/main");
const PIP: Tool = tool(
    "pip",
    "python3",
    &[
        "-m",
        "pip",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--retries",
        "0",
        "index",
        "versions",
        "--index-url",
        "URLsimple/",
        "--trusted-host",
        "NAME",
        "harmless",
    ],
    "Available versions: 1.0",
);
const NPM: Tool = tool(
    "npm",
    "npm",
    &["ping", "--registry", "URL", "--fetch-retries", "0", "--cache", "DIR", "--no-update-notifier"],
    "PONG",
);
/// Go, whose own resolver asks; or the C library's.
const GO: Tool = Tool {
    env: &[("GODEBUG", "netdns=go"), ("RCLONE_CONFIG", "DIR/rclone.conf")],
    ..tool(
        "Go's resolver (rclone)",
        "rclone",
        &[
            "lsf",
            ":http:",
            "--http-url",
            "URL",
            "--http-no-head",
            "--retries",
            "1",
            "--low-level-retries",
            "1",
        ],
        "harmless-page",
    )
};
const DIG: Tool =
    Tool { resolves: true, ..tool("dig", "dig", &["+tries=1", "+time=2", "NAME"], "93.184.215.1") };
const DIG_TCP: Tool = Tool {
    resolves: true,
    ..tool("dig +tcp", "dig", &["+tcp", "+tries=1", "+time=2", "NAME"], "93.184.215.1")
};
const DIG_AAAA: Tool = Tool {
    resolves: true,
    ..tool("dig +dnssec", "dig", &["+dnssec", "+tries=1", "+time=2", "NAME", "AAAA"], "2606:2800:21f::1")
};
/// Made here, of the source below.
const MUSL: Tool = tool("musl", "musl-gcc", &["NAME", "PORT"], "harmless-page");

/// What a program of the C library musl does: looks a name up, connects, asks for a page.
const MUSL_SOURCE: &str = r#"
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *one;
    int error = argc < 3 ? -1 : getaddrinfo(argv[1], argv[2], &hints, &found);
    if (error) { fprintf(stderr, "%s\n", gai_strerror(error)); return 1; }
    for (one = found; one; one = one->ai_next) {
        static const char ask[] = "GET / HTTP/1.0\r\n\r\n";
        char page[1000];
        ssize_t length, all = 0;
        int fd = socket(one->ai_family, one->ai_socktype, one->ai_protocol);
        if (fd < 0 || connect(fd, one->ai_addr, one->ai_addrlen)) { perror("connect"); close(fd); continue; }
        if (write(fd, ask, strlen(ask)) < 0) { perror("write"); return 1; }
        while ((length = read(fd, page + all, sizeof page - 1 - all)) > 0) all += length;
        page[all] = 0;
        puts(page);
        return 0;
    }
    return 2;
}
"#;

impl Tool {
    /// What is to be run: the tool, or what it makes.
    fn executable(self, dir: &Path) -> Result<String> {
        if self.program != "musl-gcc" {
            return Ok(self.program.to_owned());
        }
        let (source, program) = (dir.join("client.c"), dir.join("client"));
        fs::write(&source, MUSL_SOURCE)?;
        let mut compiler = Command::new(self.program);
        compiler.arg("-static").arg("-o").arg(&program).arg(&source);
        let made = finish(compiler, None)?;
        ensure!(made.status.success(), "{made:?}");
        Ok(program.display().to_string())
    }

    fn run(self, agent: &Agent<'_>, resolv_conf: &str, name: &str) -> Result<Finished> {
        let own = agent.policy_file().with_file_name("own");
        fs::create_dir_all(&own)?;
        let file = own.join("resolv.conf");
        fs::write(&file, resolv_conf)?;
        let url = format!("http://{name}:{WEB_PORT}/");
        let told = |arg: &&str| {
            arg.replace("URL", &url)
                .replace("NAME", name)
                .replace("PORT", &WEB_PORT.to_string())
                .replace("DIR", &own.display().to_string())
        };
        let inner = agent.command()?;
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&file).arg(inner.get_program());
        command.args(inner.get_args()).arg(self.executable(&own)?).args(self.args.iter().map(told));
        command.envs(self.env.iter().map(|(key, value)| (key, told(value))));
        agent.place(&mut command);
        finish(command, None)
    }
}

fn policy() -> String {
    format!("version = 1\nname = \"tools\"\n[[egress.allow]]\ndomain = {ALLOWED:?}\nports = [{WEB_PORT}]\n")
}

fn web(lab: &Lab) -> Result<Web> {
    Web::start(&lab.server, &Family::ALL.map(|family| (family.named(1), WEB_PORT).into()))
}

#[rstest]
fn tools_reach_the_names_they_may(
    #[values(CURL, GIT, PIP, NPM, GO, DIG, DIG_TCP, DIG_AAAA, MUSL)] tool: Tool,
) -> Result<()> {
    if !is_installed(tool.program) {
        skip!("tools_reach_the_names_they_may", "{}: {} is not installed", tool.name, tool.program);
        return Ok(());
    }
    let lab = Lab::new()?;
    // Those of `programs_reach_the_names_they_may` ask by IPv4, too.
    let at = SocketAddr::from((Family::V6.allowed(), DNS_PORT));
    let addresses = vec![Family::V4.named(1), Family::V6.named(1)];
    let resolver =
        Resolver::of_zone(&lab.server, &[at], &[(ALLOWED, addresses.clone()), (DENIED, addresses)])?;
    let web = web(&lab)?;
    let conf = format!("nameserver {}\noptions attempts:1\n", at.ip());
    let agent = Agent::with_text(&lab, &policy())?;

    let said = tool.run(&agent, &conf, DENIED)?;
    ensure!(!said.stdout.contains(tool.says) && !said.stderr.contains(tool.says), "{said:?}");
    ensure!(!said.status.success(), "it does not say that it failed: {said:?}");
    ensure!(resolver.asked_for(b"\x04leak") == 0 && web.answered() == 0, "asked: {:?}", resolver.asked());

    let said = tool.run(&agent, &conf, ALLOWED)?;
    ensure!(said.status.success(), "{said:?}");
    ensure!(said.stdout.contains(tool.says) || said.stderr.contains(tool.says), "{said:?}");
    ensure!(resolver.asked_for(b"\x03api\x07example\x03com") > 0, "the twin");
    ensure!(tool.resolves || web.answered() > 0, "the twin");
    Ok(())
}

/// A name with addresses of both families, of which one answers: the other does not stand in the way.
#[rstest]
fn eyeballs_are_happy(#[values(Family::V4, Family::V6)] alive: Family) -> Result<()> {
    if !is_installed(CURL.program) {
        skip!("eyeballs_are_happy", "{} is not installed", CURL.program);
        return Ok(());
    }
    let lab = Lab::new()?;
    let at = SocketAddr::from((Family::V4.allowed(), DNS_PORT));
    let address = |family: Family| family.named(if family == alive { 1 } else { 200 });
    let zone = [(ALLOWED, Family::ALL.map(address).to_vec())];
    let _resolver = Resolver::of_zone(&lab.server, &[at], &zone)?;
    let web = web(&lab)?;
    let agent = Agent::with_text(&lab, &policy())?;
    let said = CURL.run(&agent, &format!("nameserver {}\n", at.ip()), ALLOWED)?;
    ensure!(said.status.success() && said.stdout.contains(CURL.says) && web.answered() == 1, "{said:?}");
    Ok(())
}

/// What resolv.conf asks of the C library: several resolvers, one query at a time, TCP, EDNS.
#[rstest]
fn options_of_the_c_library_work(
    #[values(
        "single-request",
        "single-request-reopen",
        "use-vc",
        "edns0",
        "trust-ad edns0",
        "rotate",
        "no-aaaa",
        "ndots:15"
    )]
    options: &str,
) -> Result<()> {
    const PYTHON: Tool = tool(
        "python3",
        "python3",
        &["-c", "import urllib.request, sys; print(urllib.request.urlopen(sys.argv[1]).read())", "URL"],
        "harmless-page",
    );
    if !is_installed(PYTHON.program) {
        skip!("options_of_the_c_library_work", "{} is not installed", PYTHON.program);
        return Ok(());
    }
    let lab = Lab::new()?;
    let at: Vec<SocketAddr> = Family::ALL.map(|family| (family.allowed(), DNS_PORT).into()).to_vec();
    let addresses = Family::ALL.map(|family| family.named(1)).to_vec();
    let resolver = Resolver::of_zone(&lab.server, &at, &[(ALLOWED, addresses)])?;
    let web = web(&lab)?;
    let agent = Agent::with_text(&lab, &policy())?;
    let nameservers: String = at.iter().map(|at| format!("nameserver {}\n", at.ip())).collect();
    let conf = format!("{nameservers}search corp.example\noptions {options} attempts:1\n");
    let said = PYTHON.run(&agent, &conf, ALLOWED)?;
    ensure!(said.status.success() && said.stdout.contains(PYTHON.says) && web.answered() == 1, "{said:?}");
    ensure!(resolver.asked_for(b"\x03api\x07example\x03com") > 0, "the resolver was not asked");
    let said = PYTHON.run(&agent, &conf, DENIED)?;
    ensure!(!said.status.success() && resolver.asked_for(b"leak") == 0, "{said:?} {:?}", resolver.asked());
    Ok(())
}
