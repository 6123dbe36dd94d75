//! `tls_clients`: ordinary TLS clients get through to the names that opened an address, and to no other ones.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use agentnet_common::verdict::{DNS_PORT, Reason};
use agentnet_tests::{
    eventually::{DEADLINE, eventually},
    lab::{
        Lab,
        child::finish,
        net::Family,
        policy::Policy,
        resolver::{A, AAAA, Resolver, query},
        watched::Watched,
    },
    probe::script::Step,
    skip,
};
use anyhow::{Result, ensure};
use rstest::rstest;
use tempfile::TempDir;

const NAME: &str = "api.example.com";
const EVIL: &str = "key.evil.example";
/// A port on which the default is TLS.
const PORT: u16 = 8443;

/// A TLS server that says hello over HTTP, with a certificate that nobody has signed.
struct Server {
    child: Child,
    _files: TempDir,
}

impl Server {
    fn start(lab: &Lab, at: SocketAddr, options: &[&str]) -> Result<Self> {
        let files = TempDir::new()?;
        let (key, certificate) = (files.path().join("key.pem"), files.path().join("cert.pem"));
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=lab", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        let made = finish(make, None)?;
        ensure!(made.status.success(), "{made:?}");
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-quiet", "-accept", &at.to_string(), "-key"]);
        command.arg(&key).arg("-cert").arg(&certificate).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        lab.server.attach(&mut command);
        let child = command.spawn()?;
        eventually(DEADLINE, "the server listens", || {
            let listens = lab.server.run(|| Ok(std::net::TcpStream::connect(at)?));
            listens.map(drop).map_err(|error| error.to_string())
        })?;
        Ok(Self { child, _files: files })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that hangs has not got through.
fn client(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["20", program]);
    command
}

fn url(name: &str) -> String {
    format!("https://{name}:{PORT}/")
}

fn curl(at: SocketAddr, name: &str, options: &[&str]) -> Command {
    let mut command = client("curl");
    let place = match at {
        SocketAddr::V4(at) => at.ip().to_string(),
        SocketAddr::V6(at) => format!("[{}]", at.ip()),
    };
    command.args(["-sS", "-i", "-k", "--max-time", "20", "--resolve", &format!("{name}:{PORT}:{place}")]);
    command.args(options).arg(url(name));
    command
}

fn python(at: SocketAddr, name: &str) -> Command {
    let program = "import socket,ssl,sys\n\
         c=ssl._create_unverified_context()\n\
         s=c.wrap_socket(socket.create_connection((sys.argv[1],int(sys.argv[2])),20),server_hostname=sys.argv[3])\n\
         s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\n\
         print(s.recv(100))";
    let mut command = client("python3");
    command.args(["-c", program, &at.ip().to_string(), &at.port().to_string(), name]);
    command
}

fn node(at: SocketAddr, name: &str) -> Command {
    let program = "const [,h,p,n]=process.argv;\
         const s=require('tls').connect({host:h,port:+p,servername:n,rejectUnauthorized:false},\
         ()=>s.write('GET / HTTP/1.0\\r\\n\\r\\n'));\
         s.on('data',d=>{console.log(String(d).slice(0,20));process.exit(0)});\
         s.on('error',e=>{console.error(e.code);process.exit(1)})";
    let mut command = client("node");
    command.args(["-e", program, &at.ip().to_string(), &at.port().to_string(), name]);
    command
}

fn s_client(at: SocketAddr, name: &str, options: &[&str]) -> Command {
    let mut command = client("openssl");
    command.args(["s_client", "-connect", &at.to_string(), "-servername", name, "-ign_eof", "-quiet"]);
    command.args(options);
    command
}

fn is_here(program: &str) -> bool {
    let there = |dir: std::path::PathBuf| Path::new(&dir).join(program).exists();
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(there))
}

/// Each of them, with a server that takes what it is offered and one that wants another key first (HelloRetryRequest).
#[rstest]
fn clients_get_through_by_the_right_name(
    #[values(Family::V4, Family::V6)] family: Family,
    #[values(&[][..], &["-groups", "P-521"][..])] options: &[&str],
) -> Result<()> {
    if !is_here("openssl") {
        skip!("openssl", "not installed");
        return Ok(());
    }
    let lab = Lab::new()?;
    let at = SocketAddr::from((family.named(1), PORT));
    let ask = SocketAddr::from((family.allowed(), DNS_PORT));
    let _resolver = Resolver::of_zone(&lab.server, &[ask], &[(NAME, vec![family.named(1)])])?;
    let _server = Server::start(&lab, at, options)?;
    let policy = Policy::standard().allow_hosts(&[DNS_PORT], &["udp"]).allow_name(NAME, &[PORT]);
    let watched = Watched::new(&lab, &policy)?;
    let kind = if family == Family::V4 { A } else { AAAA };
    let came = watched.script(&[Step::Ask { to: ask, message: query(7, NAME, kind) }])?;
    ensure!(came[0].is_ok(), "{came:?}");
    let request = b"GET / HTTP/1.0\r\n\r\n";
    type Make<'a> = &'a dyn Fn(&str) -> Command;
    let clients: [(&str, Make<'_>, Option<&[u8]>); 6] = [
        ("curl", &|name| curl(at, name, &[]), None),
        ("curl", &|name| curl(at, name, &["--tls-max", "1.2"]), None),
        ("python3", &|name| python(at, name), None),
        ("node", &|name| node(at, name), None),
        ("openssl", &|name| s_client(at, name, &["-tls1_3"]), Some(request)),
        ("openssl", &|name| s_client(at, name, &["-tls1_2"]), Some(request)),
    ];
    let mut refused = 0;
    for (program, client, input) in clients {
        if !is_here(program) {
            skip!(program, "not installed");
            continue;
        }
        let right = watched.finish(client(NAME), input)?;
        ensure!(right.status.success() && right.stdout.contains("HTTP/1.0 200"), "{program}: {right:?}");
        let wrong = watched.finish(client(EVIL), input)?;
        ensure!(!wrong.status.success() && !wrong.stdout.contains("HTTP/"), "{program}: {wrong:?}");
        refused += 1;
    }
    let denied = watched.counters()?.denied;
    ensure!(denied[Reason::TlsName as usize] == refused, "{refused}: {denied:?}");
    lab.fence()?;
    ensure!(lab.sniffer.carrying(EVIL.as_bytes()) == 0 && lab.sniffer.carrying(NAME.as_bytes()) > 0);
    Ok(())
}
