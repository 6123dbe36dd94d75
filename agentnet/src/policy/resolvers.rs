//! Who is asked for names, and what is tried behind them: `resolv.conf`, read as clients read it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use resolv_conf::Config;
use serde::{Deserialize, Serialize};

use super::name::Name;

/// What stands for the host's own in `[dns]`.
pub const SYSTEM: &str = "system";

/// Most resolvers, and most search domains: of a file or of a list in a policy. glibc asks three and tries any
/// number of domains; Kubernetes writes three and up to 32.
pub const MOST: usize = 8;

/// Who is asked for names, and what is tried behind them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolution {
    /// Addresses of resolvers. Those of the link (`fe80::/10`) without the interface they are at.
    pub servers: Vec<IpAddr>,
    /// Domains that clients try behind a name.
    pub search: Vec<Name>,
}

impl Resolution {
    /// What the bytes of a `resolv.conf` say, on a host of this name: any bytes. What cannot be understood is left
    /// out, line by line, as clients do, and so is what goes beyond [`MOST`].
    ///
    /// Without resolvers it is the local machine, and without search list the host's own domain is tried (resolv.conf(5)).
    pub fn parse(bytes: &[u8], host_name: Option<&str>) -> Self {
        let (config, _) = Config::parse_with_errors(bytes);
        let mut found = Self::default();
        for server in config.get_nameservers_or_local() {
            found.add_server(IpAddr::from(server));
        }
        let domain = host_name.and_then(|name| name.split_once('.')).map(|(_, domain)| domain.to_owned());
        let mut search = config.get_last_search_or_domain().peekable();
        let domain = if search.peek().is_none() { domain } else { None };
        for suffix in search.chain(&domain) {
            // The root, ".", adds nothing.
            if let Ok(suffix) = Name::parse(suffix) {
                found.add_suffix(suffix);
            }
        }
        found
    }

    /// Adds a resolver, unless it is there or there are enough.
    pub fn add_server(&mut self, ip: IpAddr) {
        // A client that asks 0.0.0.0 or :: asks this host.
        let ip = match ip.to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        if is_unicast(ip) && self.servers.len() < MOST && !self.servers.contains(&ip) {
            self.servers.push(ip);
        }
    }

    /// Adds a search domain, unless it is there or there are enough.
    pub fn add_suffix(&mut self, suffix: Name) {
        if self.search.len() < MOST && !self.search.contains(&suffix) {
            self.search.push(suffix);
        }
    }
}

/// Whether one host can have this address.
pub const fn is_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("nameserver 192.0.2.53\n", &["192.0.2.53"], &[])]
    #[case::several(
        "# generated\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions ndots:5 edns0\nsearch a.example B.Example.\n",
        &["192.0.2.53", "2001:db8::53"],
        &["a.example", "b.example"]
    )]
    #[case::kubernetes(
        "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        &["10.96.0.10"],
        &["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    )]
    #[case::the_stub_as_it_is("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n", &["127.0.0.53"], &[])]
    #[case::link_local("nameserver fe80::1%eth0\n", &["fe80::1"], &[])]
    #[case::mapped("nameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1\n", &["192.0.2.1"], &[])]
    #[case::this_host("nameserver 0.0.0.0\n", &["127.0.0.1"], &[])]
    #[case::no_resolver("search x.example\n", &["127.0.0.1", "::1"], &["x.example"])]
    #[case::nonsense("nameserver\nnameserver nobody\nfoo bar\nnameserver 192.0.2.1 extra\nnameserver 192.0.2.2", &["192.0.2.1", "192.0.2.2"], &[])]
    #[case::not_one_host("nameserver 224.0.0.1\nnameserver ff02::1\nnameserver 192.0.2.2\n", &["192.0.2.2"], &[])]
    #[case::the_last_counts("domain a.example\nsearch b.example c.example\ndomain d.example\n", &["127.0.0.1", "::1"], &["d.example"])]
    #[case::odd_domains("nameserver 192.0.2.1\nsearch a..b *.x bücher.example 10.0.0.1\n", &["192.0.2.1"], &["xn--bcher-kva.example"])]
    fn files_are_read_as_clients_read_them(
        #[case] text: &str,
        #[case] servers: &[&str],
        #[case] search: &[&str],
    ) {
        let found = Resolution::parse(text.as_bytes(), None);
        assert_eq!(found.servers, servers.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>());
        assert_eq!(found.search.iter().map(Name::as_str).collect::<Vec<_>>(), search);
    }

    #[test]
    fn without_search_list_it_is_the_domain_of_the_host() {
        let search = |text: &str, name| Resolution::parse(text.as_bytes(), Some(name)).search;
        assert_eq!(search("", "build7.corp.example"), [Name::parse("corp.example").unwrap()]);
        assert_eq!(search("search x.example", "build7.corp.example"), [Name::parse("x.example").unwrap()]);
        assert!(search("", "build7").is_empty());
        assert!(search("", "build7.").is_empty());
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let lines: String = (0..100).map(|host| format!("nameserver 192.0.2.{host}\n")).collect();
        let names: Vec<_> = (0..100).map(|at| format!("d{at}.example")).collect();
        let found = Resolution::parse(format!("{lines}search {}\n", names.join(" ")).as_bytes(), None);
        assert_eq!((found.servers.len(), found.search.len()), (MOST, MOST));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let found = Resolution::parse(&bytes, None);
            prop_assert!((1..=MOST).contains(&found.servers.len()) && found.search.len() <= MOST);
        }

        #[test]
        fn any_mixture_of_pieces_is_read(pieces in prop::collection::vec(prop::sample::select(&[
            "nameserver", "search", "domain", "options", "sortlist", " ", "\t", "\n", "\r", "1.2.3.4", "::1", "%", "fe80::1%e",
            "a.b", ".", "ndots:", ":", ",", "#", ";", "\0", "é", "/", "4294967296", "lookup", "family",
        ][..]), 0..60)) {
            let found = Resolution::parse(pieces.concat().as_bytes(), Some("a.b"));
            let json = serde_json::to_string(&found).unwrap();
            prop_assert_eq!(serde_json::from_str::<Resolution>(&json).unwrap(), found);
        }
    }
}
