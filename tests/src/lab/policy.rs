//! Policies of the tests, as text.

use std::{fmt::Write as _, net::IpAddr};

use super::net::{ALLOWED_PORT, Family};

/// A policy that allows one host and one port of it, in both families, and whatever is added.
#[derive(Clone, Debug)]
pub struct Policy {
    mode: &'static str,
    loopback: &'static str,
    listen: &'static str,
    unix: &'static str,
    unix_allow: Vec<String>,
    rules: String,
}

impl Policy {
    /// Allows nothing.
    pub fn closed() -> Self {
        Self {
            mode: "enforce",
            loopback: "own",
            listen: "loopback",
            unix: "deny",
            unix_allow: Vec::new(),
            rules: String::new(),
        }
    }

    /// Allows the lab's allowed host on [`ALLOWED_PORT`], TCP and UDP.
    pub fn standard() -> Self {
        Self::closed().allow_hosts(&[ALLOWED_PORT], &["tcp", "udp"])
    }

    /// Allows more ports and protocols of the allowed host.
    #[must_use]
    pub fn allow_hosts(self, ports: &[u16], protocols: &[&str]) -> Self {
        Family::ALL
            .into_iter()
            .fold(self, |policy, family| policy.allow(&family.allowed().to_string(), ports, protocols))
    }

    /// Allows an address or a network.
    #[must_use]
    pub fn allow(mut self, place: &str, ports: &[u16], protocols: &[&str]) -> Self {
        let cidr = Self::network(place);
        let _ = write!(self.rules, "\n[[egress.allow]]\ncidr = {cidr:?}\nprotocols = {protocols:?}\n");
        // ICMP has none.
        if !ports.is_empty() {
            let _ = writeln!(self.rules, "ports = {ports:?}");
        }
        self
    }

    /// Allows a name on these ports of TCP.
    #[must_use]
    pub fn allow_name(mut self, name: &str, ports: &[u16]) -> Self {
        let _ = write!(self.rules, "\n[[egress.allow]]\ndomain = {name:?}\nports = {ports:?}\n");
        self
    }

    /// Denies a name.
    #[must_use]
    pub fn deny_name(mut self, name: &str) -> Self {
        let _ = write!(self.rules, "\n[[egress.deny]]\ndomain = {name:?}\n");
        self
    }

    /// Denies an address or a network.
    #[must_use]
    pub fn deny(mut self, place: &str) -> Self {
        let cidr = Self::network(place);
        let _ = write!(self.rules, "\n[[egress.deny]]\ncidr = {cidr:?}\n");
        self
    }

    /// `[local] loopback`.
    #[must_use]
    pub fn loopback(mut self, who: &'static str) -> Self {
        self.loopback = who;
        self
    }

    /// `[local] unix`.
    #[must_use]
    pub fn unix(mut self, which: &'static str) -> Self {
        self.unix = which;
        self
    }

    /// A name of `[local] unix_allow`.
    #[must_use]
    pub fn allow_unix(mut self, name: &str) -> Self {
        self.unix_allow.push(name.to_owned());
        self
    }

    /// `[local] listen`.
    #[must_use]
    pub fn listen(mut self, who: &'static str) -> Self {
        self.listen = who;
        self
    }

    /// Only reports.
    #[must_use]
    pub fn audit(mut self) -> Self {
        self.mode = "audit";
        self
    }

    /// An address alone as the network that holds just it.
    fn network(place: &str) -> String {
        match place.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) => format!("{ip}/32"),
            Ok(IpAddr::V6(ip)) => format!("{ip}/128"),
            Err(_) => place.to_owned(),
        }
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "version = 1\nname = \"lab\"\nmode = {:?}\n{}\n[local]\nloopback = {:?}\nlisten = {:?}\nunix = {:?}\n",
            self.mode, self.rules, self.loopback, self.listen, self.unix
        );
        if !self.unix_allow.is_empty() {
            let _ = writeln!(text, "unix_allow = {:?}", self.unix_allow);
        }
        text
    }
}
