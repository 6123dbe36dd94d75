//! The addresses of this host, as the calling thread's network namespace has them.

use std::{collections::BTreeSet, io, net::IpAddr};

/// Every address of every interface, loopback included, sorted and without repeats.
///
/// What the kernel counts as local beyond them is not here: the rest of `127.0.0.0/8`, and networks an
/// administrator added to the local routing table.
///
/// # Errors
///
/// If the kernel cannot be asked.
pub fn local_addresses() -> io::Result<Vec<IpAddr>> {
    let mut found = BTreeSet::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            found.insert(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found.insert(IpAddr::V6(v6.ip()));
        }
    }
    Ok(found.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    #[test]
    fn loopback_is_an_address_of_this_host() {
        let addresses = super::local_addresses().expect("getifaddrs");
        assert!(addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{addresses:?}");
        assert!(addresses.is_sorted(), "{addresses:?}");
    }
}
