//! `dns_host`: where names come from on a host besides a resolver's address: Docker's resolver behind its NAT, and the Unix
//! doors of systemd-resolved, the buses and nscd.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use agentnet_common::verdict::DNS_PORT;
use agentnet_tests::{
    lab::{
        Lab,
        container::configure,
        door::Listener,
        mounts::{cover, with_own_mounts},
        net::{ALLOWED_PORT, Family},
        policy::Policy,
        resolver::{A, Record, Resolver, answer, framed, query, wire_name},
        server::Transport,
        watched::{Watched, script_ungoverned},
    },
    probe::{
        dns::Attack,
        script::{Came, Step},
    },
};
use anyhow::{Context as _, Result, ensure};
use rstest::rstest;

const NAME: &str = "api.example.com";
const OTHER: &str = "leak.example.net";

/// Where containers ask, and where the engine of Docker really listens; what NAT makes one of the other (`rebuildDNS` and
/// `setupResolver` in libnetwork).
const EMBEDDED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
const BEHIND: u16 = 35_353;
const RULES: &str = "table ip docker { \
    chain output { type nat hook output priority -100; \
        ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:35353; \
        ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:35353; }; \
    chain postrouting { type nat hook postrouting priority 100; \
        ip saddr 127.0.0.11 udp sport 35353 snat to :53; \
        ip saddr 127.0.0.11 tcp sport 35353 snat to :53; }; }";

fn connect(to: SocketAddr) -> Step {
    Step::Connect { to, text: "by name".to_owned() }
}

fn refused(came: &Came) -> bool {
    came.errno == libc::EPERM
}

/// What is asked at port 53 leaves by another: it is judged all the same, and what comes back opens what it says. Nobody but
/// Docker answers, and its real port is no way round.
#[test]
fn dockers_resolver_is_asked_through_its_nat() -> Result<()> {
    let lab = Lab::new()?;
    if !configure("dockers_resolver_is_asked_through_its_nat", &lab.agent, &["nft", RULES])? {
        return Ok(());
    }
    let at = SocketAddr::from((EMBEDDED, BEHIND));
    let zone = [(NAME, vec![Family::V4.named(1)]), (OTHER, vec![Family::V4.named(2)])];
    let resolver = Resolver::of_zone(&lab.agent, &[at], &zone)?;
    let to = SocketAddr::from((EMBEDDED, DNS_PORT));
    // It is the rules that lead there.
    let came = script_ungoverned(&lab, &[Step::Ask { to, message: query(1, OTHER, A) }])?;
    ensure!(came[0].is_ok() && resolver.asked_for(&wire_name(OTHER)) == 1, "{came:?}");

    let watched = Watched::new(&lab, &Policy::closed().allow_name(NAME, &[ALLOWED_PORT]).resolver(EMBEDDED))?;
    let one = SocketAddr::from((Family::V4.named(1), ALLOWED_PORT));
    let good = query(7, NAME, A);
    let forged = answer(&good, &[Record::address(Family::V4.named(2), 60)], 0).unwrap_or_default();
    let came = watched.script(&[
        connect(one),
        // Refused, by every way there.
        Step::Ask { to, message: query(2, OTHER, A) },
        Step::Stream { to, parts: vec![framed(&query(3, OTHER, A))], expect: 2 },
        Step::Ask { to: at, message: query(4, OTHER, A) },
        Step::Ask { to: at, message: query(5, NAME, A) },
        Step::Touch { to: at },
        // Answered, and open.
        Step::Ask { to, message: good },
        connect(one),
        Step::Stream { to, parts: vec![framed(&query(8, NAME, A))], expect: 40 },
        // An answer of its own making.
        Step::Renew,
        Step::Tell { to, message: query(9, NAME, A) },
        Step::Attack(Attack::Forge { from: (EMBEDDED, 9999).into(), hide: None, message: forged }),
        connect((Family::V4.named(2), ALLOWED_PORT).into()),
    ])?;
    ensure!(refused(&came[0]), "before: {:?}", came[0]);
    ensure!(refused(&came[1]) && came[2].errno == libc::EACCES, "{:?}", &came[1..3]);
    ensure!(came[3..6].iter().all(refused), "the port behind: {:?}", &came[3..6]);
    ensure!(came[6..9].iter().all(Came::is_ok), "{:?}", &came[6..9]);
    ensure!(came[11].is_ok() && refused(&came[12]), "{:?}", &came[11..]);
    ensure!(resolver.asked_for(&wire_name(OTHER)) == 1, "{:?}", resolver.asked());
    ensure!(resolver.asked_for(&wire_name(NAME)) == 3, "{:?}", resolver.asked());
    ensure!(lab.servers.tally((Family::V4.named(2), ALLOWED_PORT).into(), Transport::Tcp).connections == 0);
    Ok(())
}

/// Sockets where a host's services look names up, or do anything else that they are asked for.
const DOORS: [&str; 7] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/dbus/system_bus_socket",
    "/run/nscd/socket",
    "/run/systemd/private",
    "/run/docker.sock",
    "/run/user/1000/bus",
];

/// Each is closed, by the name that programs know it by as well, and open where the policy names it.
#[rstest]
fn doors_of_the_host_are_closed(#[values(false, true)] named: bool) -> Result<()> {
    with_own_mounts(|| {
        cover(Path::new("/run"), c"mode=755")?;
        let listeners = DOORS
            .iter()
            .map(|door| {
                fs::create_dir_all(Path::new(door).parent().context("a directory")?)?;
                Listener::at(Path::new(door))
            })
            .collect::<Result<Vec<_>>>()?;
        let lab = Lab::new()?;
        let policy = DOORS.iter().fold(Policy::closed(), |policy, door| {
            if named { policy.allow_unix(door).allow_unix(&format!("/var{door}")) } else { policy }
        });
        let watched = Watched::new(&lab, &policy)?;
        // `/var/run` is a link to `/run` on every system with systemd.
        let link = fs::read_link("/var/run").is_ok();
        let steps: Vec<Step> = DOORS
            .iter()
            .flat_map(|door| [(*door).to_owned(), format!("/var{door}")])
            .filter(|door| link || door.starts_with("/run"))
            .map(|door| Step::Unix {
                kind: libc::SOCK_STREAM,
                send: false,
                name: door.into_bytes(),
                text: OTHER.to_owned(),
            })
            .collect();
        let came = watched.script(&steps)?;
        for (step, came) in steps.iter().zip(&came) {
            ensure!(came.is_ok() == named && (named || refused(came)), "{step:?}: {came:?}");
        }
        let times = if named { steps.len() / DOORS.len() } else { 0 };
        for (door, listener) in DOORS.iter().zip(&listeners) {
            ensure!(listener.arrived()? == vec![OTHER; times], "{door}");
        }
        Ok(())
    })
}
