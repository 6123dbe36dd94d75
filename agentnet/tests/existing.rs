//! What becomes of the sockets that an agent has when its policy begins: real programs, real sockets, in network
//! namespaces and cgroups of the tests' own. Needs root, and a build with the kernel programs.
#![expect(clippy::expect_used, reason = "the helpers of a test fail it")]

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use agentnet::{
    agent::{
        AgentName,
        cgroup::{Cgroup, Hierarchy},
    },
    engine::existing::{self, Existing, Occasion, Question, Report},
    kernel::{Kernel, KernelError, clear_pins, marks::Marks, mounts},
    policy::{Policy, compile::Compiled},
};
use agentnet_common::{
    abi::AgentCfg,
    verdict::{Reason, RuleId, Verdict},
};
use rustix::thread::UnshareFlags;

/// The agent's end and the other host's.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const ALLOWED: u16 = 4001;
const DENIED: u16 = 4002;

const AGENT: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// A policy that allows one port of the other host.
fn policy(local: &str) -> Compiled {
    let text = format!(
        "version = 1\nname = \"t\"\n[[egress.allow]]\ncidr = \"{THERE}/32\"\nports = [{ALLOWED}]\nprotocols = \
         [\"tcp\", \"udp\"]\n[local]\n{local}\n"
    );
    Policy::from_text("t.toml", &text, &[]).expect("a policy").compiled
}

/// A network namespace for this thread, joined to one of another host by a pair of interfaces.
struct Net {
    far: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is needed");
    assert!(status.success(), "ip {arguments}");
}

/// This thread's namespace, as a path that others can use.
fn own_namespace() -> PathBuf {
    let task = fs::read_link("/proc/thread-self").expect("it is always there");
    Path::new("/proc").join(task).join("ns/net")
}

fn unshare() {
    // SAFETY: the thread's file descriptors stay shared, only its network namespace changes.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.expect("a namespace takes root");
}

impl Net {
    fn new() -> Self {
        unshare();
        let (far, work) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            unshare();
            ready.send(own_namespace()).expect("somebody waits");
            work.into_iter().for_each(|job| job());
        });
        let namespace = is_ready.recv().expect("the other host");
        let net = Self { far };
        ip("link set lo up");
        ip(&format!("link add here type veth peer name there netns {}", namespace.display()));
        ip(&format!("addr add {HERE}/24 dev here"));
        ip("link set here up");
        net.there(|| {
            ip(&format!("addr add {THERE}/24 dev there"));
            ip("link set there up");
            ip("link set lo up");
        });
        net
    }

    /// Does something on the other host.
    fn there<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || done.send(job()).expect("somebody waits");
        self.far.send(Box::new(job)).expect("the other host is there");
        result.recv().expect("the other host did it")
    }

    fn listen(&self, port: u16) -> TcpListener {
        self.there(move || TcpListener::bind((THERE, port)).expect("a free port"))
    }
}

/// Runs `body` in a thread of its own: what it does to the thread ends with it.
fn alone<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// An agent's cgroup. Sockets are made in it by moving this process there and back, one test at a time.
struct Agent {
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    home: Cgroup,
    pins: PathBuf,
    kernel: Option<Kernel>,
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Agent {
    fn new(test: &str) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let hierarchy = Hierarchy::find().expect("cgroup v2 is mounted");
        let pid = std::process::id();
        let name = format!("agentnet-test-{test}-{pid}").parse().expect("a name");
        let cgroup = Cgroup::create(hierarchy.top().path(), &name).expect("root may");
        let pins = mounts::ensure_bpffs().expect("root may").join(name);
        let home = hierarchy.of(pid.cast_signed()).expect("own cgroup");
        Self { cgroup, hierarchy, home, pins, kernel: None, _turn: turn }
    }

    fn place(&self, cgroup: &Cgroup) {
        cgroup.place(&self.hierarchy, std::process::id().cast_signed()).expect("root may");
    }

    /// What `body` makes is made in the agent's cgroup.
    fn inside<T>(&self, body: impl FnOnce() -> T) -> T {
        self.place(&self.cgroup);
        let made = body();
        self.place(&self.home);
        made
    }

    fn connect(&self, to: SocketAddr) -> TcpStream {
        self.inside(|| stream(TcpStream::connect(to).expect("nothing refuses it yet")))
    }

    /// Puts the agent under `policy`; `None` without kernel programs in this build.
    fn govern(&mut self, policy: &Compiled) -> Option<AgentCfg> {
        let mut kernel = match Kernel::load(&self.pins) {
            Err(KernelError::Stub) => {
                let name = self.cgroup.path().display();
                let _ = writeln!(io::stderr(), "SKIP {name}: this build has no kernel programs");
                return None;
            }
            loaded => loaded.expect("the programs load"),
        };
        let cfg = policy.agent_cfg(AGENT, 0, 1);
        kernel.install(0, policy).expect("a policy");
        kernel.attach(&name(), self.cgroup.path(), cfg).expect("the programs attach");
        self.kernel = Some(kernel);
        Some(cfg)
    }

    fn settle(&self, policy: &Compiled, cfg: AgentCfg, occasion: Occasion) -> Report {
        let marks = Marks::open(&self.pins).expect("the map is pinned");
        let acts = agentnet::act::InForce::default();
        let question = Question {
            tables: policy,
            is_known: true,
            acts: &acts,
            cfg,
            cgroup: &self.cgroup,
            marks: Some(&marks),
        };
        existing::settle(&question, occasion).expect("root may")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.place(&self.home);
        if let Some(mut kernel) = self.kernel.take() {
            kernel.detach(&name(), self.cgroup.path()).expect("root may");
        }
        let _ = clear_pins(&self.pins);
        self.cgroup.remove().expect("nobody is inside");
    }
}

/// What the agent is called; each has pins of its own.
fn name() -> AgentName {
    "a".parse().expect("a name")
}

const ATTACH: Occasion = Occasion::Attach { keep_established: false };

fn stream(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    stream(listener.accept().expect("a connection").0)
}

fn there(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(THERE, port))
}

/// Whether what is written at one end arrives at the other.
fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    from.write_all(b"ping").is_ok() && to.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

fn remotes(sockets: &[Existing]) -> Vec<SocketAddr> {
    let mut remotes: Vec<_> = sockets.iter().map(|socket| socket.remote).collect();
    remotes.sort();
    remotes
}

#[test]
fn allowed_connections_live_on_and_others_are_destroyed() {
    alone(|| {
        let net = Net::new();
        let (allowed, denied) = (net.listen(ALLOWED), net.listen(DENIED));
        let mut agent = Agent::new("split");
        let (mut good, mut bad) = (agent.connect(there(ALLOWED)), agent.connect(there(DENIED)));
        let (mut good_far, mut bad_far) = (accept(&allowed), accept(&denied));
        let udp = agent.inside(|| UdpSocket::bind((HERE, 0)).expect("a port"));
        udp.connect(there(DENIED)).expect("a route");
        // Made outside, and handed in: the maker's, not the agent's.
        let mut foreign = stream(TcpStream::connect(there(DENIED)).expect("a route"));
        let mut foreign_far = accept(&denied);

        let policy = policy("loopback = \"own\"");
        let Some(cfg) = agent.govern(&policy) else { return };
        // Nothing was settled yet, and nothing that is not allowed passes all the same.
        bad.write_all(b"leak").expect("it is queued");
        let report = agent.settle(&policy, cfg, ATTACH);

        assert_eq!(remotes(&report.kept), [there(ALLOWED)], "{report:?}");
        assert_eq!(remotes(&report.destroyed), [there(DENIED), there(DENIED)], "{report:?}");
        assert_eq!(report.spared, []);
        let own = std::process::id().cast_signed();
        for socket in report.destroyed.iter().chain(&report.kept) {
            let holder = socket.process.as_ref().expect("this process holds it");
            assert_eq!(holder.pid, own);
        }
        assert!(report.destroyed.iter().all(|s| s.verdict == Verdict::Deny(Reason::SpecialNetwork)));

        let mut byte = [0; 16];
        assert_eq!(bad.read(&mut byte).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
        // The far end is told by a reset that no agent sent, if at all: what counts is that nothing arrived.
        bad_far.set_nonblocking(true).expect("fcntl");
        assert!(matches!(bad_far.read(&mut byte), Err(error) if matches!(
            error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset)));
        assert!(udp.send(b"leak").is_err(), "told once");
        assert_eq!(udp.peer_addr().map_err(|e| e.kind()), Err(ErrorKind::NotConnected));
        assert!(passes(&mut good, &mut good_far) && passes(&mut good_far, &mut good));
        assert!(passes(&mut foreign, &mut foreign_far), "sockets from outside are not touched");
        let again = agent.settle(&policy, cfg, ATTACH);
        assert_eq!(again.destroyed, [], "it is settled");
    });
}

#[test]
fn what_is_to_be_kept_is_kept_until_the_policy_changes() {
    alone(|| {
        let net = Net::new();
        let denied = net.listen(DENIED);
        let mut agent = Agent::new("keep");
        let mut kept = agent.connect(there(DENIED));
        let mut far = accept(&denied);
        let policy = policy("loopback = \"own\"");
        let Some(cfg) = agent.govern(&policy) else { return };
        let report = agent.settle(&policy, cfg, Occasion::Attach { keep_established: true });
        assert_eq!(remotes(&report.spared), [there(DENIED)], "{report:?}");
        assert_eq!(report.destroyed, []);
        assert!(passes(&mut kept, &mut far) && passes(&mut far, &mut kept));
        // What is opened now is refused, where the connection that was open goes on.
        let refused = agent.inside(|| TcpStream::connect(there(DENIED)).map_err(|error| error.kind()));
        assert_eq!(refused.map(drop), Err(ErrorKind::PermissionDenied));

        let next = AgentCfg { generation: cfg.generation + 1, ..cfg };
        agent.kernel.as_mut().expect("governed").configure(agent.cgroup.path(), next).expect("it is written");
        let report = agent.settle(&policy, next, Occasion::Reload);
        assert_eq!(remotes(&report.destroyed), [there(DENIED)], "{report:?}");
        assert_eq!(kept.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
    });
}

#[test]
fn the_agents_own_listeners_are_known_as_its_own() {
    alone(|| {
        let _net = Net::new();
        let mut agent = Agent::new("own");
        let listener = agent.inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let own = listener.local_addr().expect("bound");
        let mut client = agent.connect(own);
        let mut server = agent.inside(|| accept(&listener));
        let foreign = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let elsewhere = foreign.local_addr().expect("bound");
        let mut stray = agent.connect(elsewhere);
        let _stray_far = accept(&foreign);

        let policy = policy("loopback = \"own\"\nlisten = \"deny\"");
        let Some(cfg) = agent.govern(&policy) else { return };
        let report = agent.settle(&policy, cfg, ATTACH);
        assert_eq!(remotes(&report.destroyed), [elsewhere], "{report:?}");
        assert_eq!(report.kept.len(), 2, "both ends of the agent's own connection: {report:?}");
        assert!(report.kept.iter().all(|s| s.verdict == Verdict::Allow(RuleId::OWN_LISTENER)), "{report:?}");
        assert_eq!((report.waiting, report.marked), (1, 3));
        assert_eq!(stray.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
        assert!(passes(&mut client, &mut server) && passes(&mut server, &mut client));

        let mut fresh = agent.connect(own);
        let mut fresh_far = agent.inside(|| accept(&listener));
        assert!(passes(&mut fresh, &mut fresh_far), "the listener is known for the agent's");
        let refused = agent.inside(|| TcpStream::connect(elsewhere).map_err(|error| error.kind()));
        assert_eq!(refused.map(drop), Err(ErrorKind::PermissionDenied));
    });
}

#[test]
fn whoever_came_in_is_answered_if_listen_lets_them() {
    for (listen, stays) in [("any", true), ("loopback", false)] {
        alone(|| {
            let net = Net::new();
            let mut agent = Agent::new("in");
            let listener = agent.inside(|| TcpListener::bind((HERE, 0)).expect("a port"));
            let address = listener.local_addr().expect("bound");
            let connect = move || TcpStream::connect(address).expect("a route");
            let mut client = stream(net.there(connect));
            let mut server = agent.inside(|| accept(&listener));
            let policy = policy(&format!("listen = \"{listen}\""));
            let Some(cfg) = agent.govern(&policy) else { return };
            let report = agent.settle(&policy, cfg, ATTACH);
            if stays {
                assert_eq!((report.kept.len(), report.destroyed.len()), (1, 0), "{report:?}");
                assert_eq!(report.kept[0].verdict, Verdict::Allow(RuleId::REPLY));
                assert!(passes(&mut client, &mut server) && passes(&mut server, &mut client));
                // A changed policy finds it by the mark, though nobody listens any more.
                drop(listener);
                let next = AgentCfg { generation: 2, ..cfg };
                let kernel = agent.kernel.as_mut().expect("governed");
                kernel.configure(agent.cgroup.path(), next).expect("it is written");
                let report = agent.settle(&policy, next, Occasion::Reload);
                assert_eq!((report.kept.len(), report.destroyed.len()), (1, 0), "{report:?}");
                assert!(passes(&mut server, &mut client));
            } else {
                assert_eq!((report.kept.len(), report.destroyed.len()), (0, 1), "{report:?}");
                assert_eq!(server.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionAborted));
            }
        });
    }
}

#[test]
fn what_a_process_left_behind_is_destroyed_with_its_queue() {
    alone(|| {
        let net = Net::new();
        let denied = net.listen(DENIED);
        let mut agent = Agent::new("orphan");
        let mut orphan = agent.connect(there(DENIED));
        let mut far = accept(&denied);
        orphan.set_nonblocking(true).expect("fcntl");
        let mut written = 0;
        while let Ok(bytes) = orphan.write(&[b'x'; 4096]) {
            written += bytes;
        }
        drop(orphan);
        let policy = policy("loopback = \"own\"");
        let Some(cfg) = agent.govern(&policy) else { return };
        let report = agent.settle(&policy, cfg, Occasion::Attach { keep_established: true });
        let [gone] = report.destroyed.as_slice() else { panic!("{report:?}") };
        assert_eq!((gone.remote, gone.process.as_ref()), (there(DENIED), None));
        assert!(gone.unsent > 0, "{gone:?}");
        let mut kernel = agent.kernel.take().expect("governed");
        kernel.detach(&name(), agent.cgroup.path()).expect("root may");
        // Nobody refuses anything any more, and yet the queue does not leave.
        far.set_nonblocking(true).expect("fcntl");
        let mut arrived = 0;
        let mut buffer = vec![0; 1 << 16];
        while let Ok(bytes) = far.read(&mut buffer) {
            assert_ne!(bytes, 0, "an orderly end");
            arrived += bytes;
        }
        assert!(arrived < written, "{arrived} of {written} bytes arrived");
    });
}

#[test]
fn an_audit_destroys_nothing() {
    alone(|| {
        let net = Net::new();
        let denied = net.listen(DENIED);
        let mut agent = Agent::new("audit");
        let mut open = agent.connect(there(DENIED));
        let mut far = accept(&denied);
        let mut policy = policy("loopback = \"own\"");
        policy.mode = agentnet_common::abi::MODE_AUDIT;
        let Some(cfg) = agent.govern(&policy) else { return };
        let report = agent.settle(&policy, cfg, ATTACH);
        assert_eq!((remotes(&report.spared), report.destroyed.len()), (vec![there(DENIED)], 0));
        assert!(passes(&mut open, &mut far));
    });
}
