use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use agentnet_common::{
    abi::{AgentCfg, CFG_BLOCKS, CFG_GRANTS, Grant, LOCAL_OWN, MODE_QUARANTINE, is_block},
    verdict::{self, Acts, Reason, RuleId, Scope, Verdict, decide, judge},
};
use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::policy::Policy;

const AGENT: u32 = 3;

fn act(id: u32, what: What, expiry: u64) -> Act {
    let since = Timestamp::UNIX_EPOCH;
    Act { id, what, agent: None, by: None, detection: None, reason: None, since, until: None, expiry }
}

/// The kernel's tables: a trie that finds the longest match alone, and a hash.
struct Tables {
    nodes: BTreeMap<Net, u64>,
    grants: BTreeMap<Endpoint, Grant>,
    now: u64,
}

impl Acts for Tables {
    fn is_blocked(&self, _agent: u32, addr: &Addr) -> bool {
        let matching = self.nodes.iter().filter(|(net, _)| net.contains(Net::of(*addr, 128)));
        let longest = matching.max_by_key(|(net, _)| net.prefix());
        longest.is_some_and(|(_, value)| is_block(*value, self.now))
    }

    fn is_granted(&self, _agent: u32, endpoint: &Endpoint, is_local: bool) -> bool {
        self.grants.get(endpoint).is_some_and(|grant| grant.holds(self.now, is_local))
    }
}

/// The verdict as a person would find it, from the acts as they were done.
fn scan(
    acts: &[Act],
    now: u64,
    policy: &Policy,
    cfg: &AgentCfg,
    endpoint: &Endpoint,
    (scope, reply): (Scope, bool),
) -> Verdict {
    let ip = IpAddr::from(endpoint.addr);
    let holds = |act: &&Act| act.expiry == 0 || now < act.expiry;
    if cfg.is_quarantined() {
        return Verdict::Deny(Reason::Quarantined);
    }
    for act in acts.iter().filter(holds) {
        let What::Block { net } = act.what else { continue };
        let net: ipnet::IpNet = net.to_string().parse().unwrap();
        if net.contains(&ip) {
            return Verdict::Deny(Reason::Blocked);
        }
    }
    if reply {
        return Verdict::Allow(RuleId::REPLY);
    }
    let verdict = decide(&policy.compiled, cfg, endpoint, scope);
    for act in acts.iter().filter(holds) {
        let What::Allow(allowed) = &act.what else { continue };
        let fits = allowed.addresses.contains(&ip)
            && allowed.port == endpoint.port
            && allowed.protocol.number() == endpoint.protocol;
        if matches!(verdict, Verdict::Deny(_)) && fits && (scope == Scope::Remote || allowed.local) {
            return Verdict::Allow(RuleId::GRANT);
        }
    }
    verdict
}

/// Addresses near each other and near the borders of families and networks.
fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u32..16).prop_map(|low| Ipv4Addr::from_bits(0x0a00_0000 | low).into()),
        (0_u32..4).prop_map(|low| Ipv4Addr::from_bits(0x7f00_0000 | low).into()),
        (0_u32..4).prop_map(|low| Ipv4Addr::from_bits(0xc000_0200 | low).into()),
        (0_u128..16).prop_map(|low| Ipv6Addr::from_bits(0x2001_0db8 << 96 | low).into()),
        (0_u128..4).prop_map(|low| Ipv6Addr::from_bits(low).into()),
        // Beside the space in which IPv4 is mapped.
        (0_u128..2).prop_map(|low| Ipv6Addr::from_bits(0xfffe << 32 | low).into()),
    ]
}

fn network() -> impl Strategy<Value = Net> {
    (ip(), 0_u8..=128).prop_map(|(ip, prefix)| match ip {
        IpAddr::V4(ip) => Net::v4(ip, prefix % 33),
        IpAddr::V6(ip) => Net::from(ipnet::IpNet::from(ipnet::Ipv6Net::new(ip, prefix).unwrap().trunc())),
    })
}

fn expiry() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), 1_u64..20]
}

fn some_acts() -> impl Strategy<Value = Vec<Act>> {
    let block = (network(), expiry()).prop_map(|(net, expiry)| (What::Block { net }, expiry));
    let allow = (ip(), 1_u64..20, any::<bool>(), 1_u16..3).prop_map(|(ip, expiry, local, port)| {
        let (target, addresses) = (ip.to_string(), vec![ip]);
        (What::Allow(Allowed { target, addresses, port, protocol: Transport::Tcp, local }), expiry)
    });
    // Of one place there is one grant, as the ledger has it.
    let distinct = |acts: Vec<(What, u64)>| {
        let mut seen = std::collections::BTreeSet::new();
        let mut kept = Vec::new();
        for (id, (what, expiry)) in (1..).zip(acts) {
            if seen.insert(match &what {
                What::Allow(allowed) => format!("{} {}", allowed.target, allowed.port),
                other => other.to_string(),
            }) {
                kept.push(act(id, what, expiry));
            }
        }
        kept
    };
    prop::collection::vec(prop_oneof![block, allow], 0..8).prop_map(distinct)
}

fn policy() -> Policy {
    let text = "version = 1\nname = \"t\"\n[[egress.allow]]\ncidr = \"10.0.0.0/29\"\nports = [1]\n\
                [[egress.allow]]\ncidr = \"2001:db8::/125\"\nports = [2]\n";
    Policy::from_text("t.toml", text, &["192.0.2.1".parse().unwrap()]).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// What the kernel looks up, what the user side scans and what a person would say are the same verdict.
    #[test]
    fn the_verdict_is_that_of_a_plain_scan(
        acts in some_acts(), ip in ip(), port in 1_u16..3, tcp: bool, now in 1_u64..20,
        scope in prop_oneof![Just(Scope::Remote), Just(Scope::OwnListener), Just(Scope::ForeignListener)],
        reply: bool, quarantined in prop::bool::weighted(0.1),
    ) {
        let policy = policy();
        let mut cfg = policy.compiled.agent_cfg(AGENT, 0, 1);
        let tables = Tables { nodes: nodes(&acts), grants: grants(&acts), now };
        cfg.flags |= if tables.nodes.is_empty() { 0 } else { CFG_BLOCKS };
        cfg.flags |= if tables.grants.is_empty() { 0 } else { CFG_GRANTS };
        cfg.mode = if quarantined { MODE_QUARANTINE } else { cfg.mode };
        let protocol = if tcp { Transport::Tcp } else { Transport::Udp };
        let endpoint = Endpoint::new(Addr::from(ip), port, protocol.number());
        let expected = scan(&acts, now, &policy, &cfg, &endpoint, (scope, reply));
        prop_assert_eq!(judge(&policy.compiled, &tables, &cfg, &endpoint, scope, reply), expected);
        let in_force = InForce::new(acts.clone(), now);
        prop_assert_eq!(judge(&policy.compiled, &in_force, &cfg, &endpoint, scope, reply), expected);
        let blocked = matches!(expected, Verdict::Deny(Reason::Blocked));
        prop_assert_eq!(verdict::is_blocked(&tables, &cfg, &endpoint.addr), blocked);
    }

    /// Whether the kernel asks for a link-layer address follows from the grants for it.
    #[test]
    fn an_address_is_reachable_as_long_as_anything_at_it_is_granted(
        acts in some_acts(), ip in ip(), now in 1_u64..20,
    ) {
        let tables = Tables { nodes: nodes(&acts), grants: grants(&acts), now };
        let any = acts.iter().any(|act| {
            !act.is_over(now) && act.allows().is_some_and(|allowed| allowed.addresses.contains(&ip))
        });
        let address = Endpoint::new(Addr::from(ip), 0, 0);
        prop_assert_eq!(tables.is_granted(AGENT, &address, false), any);
    }
}

/// Without the flags, the tables are not asked: an agent that nobody acted on pays for none of it.
#[test]
fn tables_are_asked_only_for_agents_that_have_any() {
    struct Never;
    impl Acts for Never {
        fn is_blocked(&self, _agent: u32, _addr: &Addr) -> bool {
            panic!("asked")
        }
        fn is_granted(&self, _agent: u32, _endpoint: &Endpoint, _is_local: bool) -> bool {
            panic!("asked")
        }
    }
    let policy = policy();
    let cfg = AgentCfg { loopback: LOCAL_OWN, ..policy.compiled.agent_cfg(AGENT, 0, 1) };
    for ip in ["10.0.0.1", "203.0.113.9"] {
        let endpoint = Endpoint::new(Addr::from(ip.parse::<IpAddr>().unwrap()), 1, protocol::TCP);
        let decided = decide(&policy.compiled, &cfg, &endpoint, Scope::Remote);
        assert_eq!(judge(&policy.compiled, &Never, &cfg, &endpoint, Scope::Remote, false), decided);
    }
}

#[test]
fn a_block_of_one_address_that_ends_leaves_the_network_around_it_blocked() {
    let block = |id, text: &str, expiry| act(id, What::Block { net: net(text).unwrap() }, expiry);
    let acts = [block(1, "10.0.0.0/8", 0), block(2, "10.0.0.7", 5), block(3, "10.0.0.0/24", 9)];
    let nodes = nodes(&acts);
    assert_eq!(nodes.values().copied().collect::<Vec<_>>(), [0, 0, 0]);
    let nodes = super::nodes(&acts[1..]);
    assert_eq!(nodes.values().copied().collect::<Vec<_>>(), [9, 9]);
}

#[rstest]
#[case("203.0.113.7", "203.0.113.7/32")]
#[case("203.0.113.0/24", "203.0.113.0/24")]
#[case("2001:db8::/32", "2001:db8::/32")]
#[case("::ffff:10.0.0.1", "10.0.0.1/32")]
#[case("::ffff:10.0.0.0/104", "10.0.0.0/8")]
#[case("0.0.0.0/0", "0.0.0.0/0")]
fn addresses_to_block_are_read(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(net(text).unwrap().to_string(), expected);
}

#[rstest]
#[case("10.1.2.3/8", "10.0.0.0/8")]
#[case("example.com", "neither")]
#[case("10.0.0.0/33", "neither")]
#[case("", "neither")]
fn what_cannot_be_blocked_is_told(#[case] text: &str, #[case] words: &str) {
    let error = net(text).unwrap_err().to_string();
    assert!(error.contains(words), "{error}");
}

#[rstest]
#[case("203.0.113.7:443", Some(("203.0.113.7", 443)))]
#[case("[2001:db8::7]:443", Some(("2001:db8::7", 443)))]
#[case("[::ffff:10.0.0.1]:80", Some(("10.0.0.1", 80)))]
#[case("API.Example.com.:443", Some(("api.example.com", 443)))]
#[case("203.0.113.7", None)]
#[case("2001:db8::7", None)]
#[case("[2001:db8::7]", None)]
#[case("203.0.113.7:0", None)]
#[case("203.0.113.0/24:443", None)]
#[case("*.example.com:443", None)]
#[case("example.com:https", None)]
#[case("example.com", None)]
fn places_to_allow_are_read(#[case] text: &str, #[case] expected: Option<(&str, u16)>) {
    let read = text.parse::<Target>().ok().map(|target| (target.text(), target.port));
    assert_eq!(read, expected.map(|(host, port)| (host.to_owned(), port)));
}

#[test]
fn an_act_keeps_its_form() {
    let by = By { uid: 0, user: Some("root".to_owned()), login: Some("alice".to_owned()), pid: 7 };
    let allowed = Allowed {
        target: "db.example.com".to_owned(),
        addresses: vec!["192.0.2.9".parse().unwrap()],
        port: 5432,
        protocol: Transport::Tcp,
        local: false,
    };
    let act = Act {
        agent: Some("demo".parse().unwrap()),
        by: Some(by),
        detection: None,
        reason: Some("restore of the backup".to_owned()),
        until: Some("2026-11-22T12:14:05.9Z".parse().unwrap()),
        ..act(4, What::Allow(allowed), 9)
    };
    let json = serde_json::to_string(&act).unwrap();
    assert_eq!(
        json,
        r#"{"id":4,"act":"allow","target":"db.example.com","addresses":["192.0.2.9"],"port":5432,"protocol":"tcp","agent":"demo","by":{"uid":0,"user":"root","login":"alice","pid":7},"reason":"restore of the backup","since":"1970-01-01T00:00:00Z","until":"2026-11-22T12:14:05.9Z","expiry":9}"#
    );
    assert_eq!(serde_json::from_str::<Act>(&json).unwrap(), act);
    assert_eq!(
        act.to_string(),
        "tcp db.example.com:5432 (192.0.2.9) is allowed by alice as root (uid 0, pid 7) until 2026-11-22T12:14:06Z \
         (restore of the backup)"
    );
}

#[test]
fn what_a_detector_did_says_so() {
    let name = "evil.example".to_owned();
    let act = Act {
        agent: Some("demo".parse().unwrap()),
        detection: Some("dns_tunnel".to_owned()),
        reason: Some("told it 600 bytes".to_owned()),
        until: Some("2026-11-22T12:14:05Z".parse().unwrap()),
        ..act(4, What::BlockName { name }, 9)
    };
    let json = serde_json::to_string(&act).unwrap();
    assert_eq!(
        json,
        r#"{"id":4,"act":"block_name","name":"evil.example","agent":"demo","by":null,"detection":"dns_tunnel","reason":"told it 600 bytes","since":"1970-01-01T00:00:00Z","until":"2026-11-22T12:14:05Z","expiry":9}"#
    );
    assert_eq!(serde_json::from_str::<Act>(&json).unwrap(), act);
    assert_eq!(
        act.to_string(),
        "evil.example is blocked with every name below it by detection (dns_tunnel) until 2026-11-22T12:14:05Z (told it \
         600 bytes)"
    );
}

#[rstest]
#[case("evil.example", Some("evil.example"))]
#[case("a.evil.example", Some("evil.example"))]
#[case("b.a.evil.example", Some("evil.example"))]
#[case("x.deep.evil.example", Some("deep.evil.example"))]
#[case("notevil.example", None)]
#[case("example", None)]
#[case("evil.example.com", None)]
fn a_blocked_name_holds_for_all_below_it(#[case] name: &str, #[case] expected: Option<&str>) {
    let blocked = ["evil.example", "deep.evil.example"];
    let acts = blocked.map(|name| act(1, What::BlockName { name: name.to_owned() }, 0)).to_vec();
    let acts = InForce::new(acts, 0);
    assert_eq!(acts.block_name(name).and_then(Act::blocks_name), expected);
}

#[rstest]
#[case("203.0.113.7", Some(Blocked::Net(net("203.0.113.7").unwrap())))]
#[case("Evil.Example.", Some(Blocked::Name("evil.example".to_owned())))]
#[case("*.evil.example", None)]
#[case("203.0.113.7/24", None)]
#[case("https://evil.example/", None)]
fn what_was_blocked_is_read(#[case] text: &str, #[case] expected: Option<Blocked>) {
    assert_eq!(blocked(text).ok(), expected);
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    assert_eq!(reason(" two\n lines \u{9}").unwrap().as_deref(), Some("two lines"));
    assert_eq!(reason(" ").unwrap(), None);
    assert!(reason(&"x".repeat(MAX_REASON + 1)).is_err());
}
