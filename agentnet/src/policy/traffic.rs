//! Sets of ports, and of what rules speak about: protocols with their ports.

use std::fmt;

use agentnet_common::{
    abi::PortRule,
    addr::protocols::{ICMP, TCP, UDP},
    verdict::RuleId,
};

use super::spoken::Spoken;

/// A set of ports: ranges in order, neither overlapping nor adjacent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Every port.
    pub fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    /// The ports of some ranges (first and last, included), in any order, overlapping or not.
    pub fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The ranges, first and last port included, in order.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// Whether there is no port in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= port);
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|&(_, last)| port <= last)
    }

    /// The ports that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// The ports that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(first, last) in &self.0 {
            // The first port not yet dealt with; `None` when there is none up to 65535.
            let mut next = Some(first);
            let reaching = other.0.partition_point(|&(_, other_last)| other_last < first);
            for &(cut_first, cut_last) in other.0.iter().skip(reaching).take_while(|&&(cut, _)| cut <= last) {
                let Some(from) = next else { break };
                if from < cut_first {
                    left.push((from, cut_first - 1));
                }
                next = cut_last.checked_add(1);
            }
            if let Some(from) = next.filter(|&from| from <= last) {
                left.push((from, last));
            }
        }
        Self(left)
    }
}

impl fmt::Display for PortSet {
    /// `5432, 8000-8099`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// A set of what can be sent: ports over TCP, ports over UDP, ICMP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traffic {
    tcp: PortSet,
    udp: PortSet,
    icmp: bool,
}

impl Traffic {
    /// `ports` over each of `protocols` (a set of [`agentnet_common::addr::protocols`]) that has ports.
    pub fn new(protocols: u8, ports: &PortSet) -> Self {
        let over = |protocol| if protocols & protocol != 0 { ports.clone() } else { PortSet::default() };
        Self { tcp: over(TCP), udp: over(UDP), icmp: protocols & ICMP != 0 }
    }

    /// What entries of a ruleset allow.
    pub fn of(entries: impl IntoIterator<Item = PortRule>) -> Self {
        let sets = entries
            .into_iter()
            .map(|entry| Self::new(entry.protocols, &PortSet::of([(entry.first, entry.last)])));
        Self::union_of(&sets.collect::<Vec<_>>())
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_empty() && self.udp.is_empty() && !self.icmp
    }

    /// Whether `port` over `protocol` (of [`agentnet_common::addr::protocols`]) is in it.
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        match protocol {
            TCP => self.tcp.contains(port),
            UDP => self.udp.contains(port),
            ICMP => self.icmp,
            _ => false,
        }
    }

    /// The same with these ports over UDP.
    #[must_use]
    pub fn with_udp(self, ports: &PortSet) -> Self {
        Self::union_of(&[self, Self::new(UDP, ports)])
    }

    /// What is in any of some sets.
    pub fn union_of(sets: &[Self]) -> Self {
        let ports =
            |of: fn(&Self) -> &PortSet| PortSet::of(sets.iter().flat_map(|set| of(set).0.iter().copied()));
        Self { tcp: ports(|set| &set.tcp), udp: ports(|set| &set.udp), icmp: sets.iter().any(|set| set.icmp) }
    }

    /// What is in this and not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp.minus(&other.tcp),
            udp: self.udp.minus(&other.udp),
            icmp: self.icmp && !other.icmp,
        }
    }

    /// The ports over TCP.
    pub const fn tcp(&self) -> &PortSet {
        &self.tcp
    }

    /// The fewest entries of a ruleset that allow this, by rule `rule`, and say what TCP connections have to speak.
    pub fn entries(&self, rule: RuleId, spoken: &Spoken) -> Vec<PortRule> {
        let entry =
            |(first, last), protocols, speaks| PortRule { first, last, rule: rule.0, protocols, speaks };
        let mut entries = Vec::new();
        // Ranges that an entry of TCP stands for as well: only such a one that asks for nothing does.
        let mut shared = Vec::new();
        for (speaks, ports) in spoken.parts(&self.tcp) {
            for range in ports.ranges() {
                let both = speaks == 0 && self.udp.ranges().contains(range);
                entries.push(entry(*range, if both { TCP | UDP } else { TCP }, speaks));
                shared.extend(both.then_some(*range));
            }
        }
        let only_udp = self.udp.ranges().iter().filter(|range| !shared.contains(range));
        entries.extend(only_udp.map(|&range| entry(range, UDP, 0)));
        if self.icmp {
            match entries.iter_mut().find(|entry| entry.speaks == 0) {
                // Ports do not matter to ICMP: it takes no entry of its own.
                Some(entry) => entry.protocols |= ICMP,
                None => entries.push(entry((0, u16::MAX), ICMP, 0)),
            }
        }
        entries
    }
}

impl fmt::Display for Traffic {
    /// `tcp 443, 8000-8099; udp; icmp`: without ports it is all of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = PortSet::all();
        let over = |word: &str, ports: &PortSet| match ports {
            ports if ports.is_empty() => None,
            ports if *ports == all => Some(word.to_owned()),
            ports => Some(format!("{word} {ports}")),
        };
        let icmp = self.icmp.then(|| "icmp".to_owned());
        let parts = [over("tcp", &self.tcp), over("udp", &self.udp), icmp];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ICMP, PortSet, RuleId, Spoken, TCP, Traffic, UDP};

    /// Ports near each other and near both ends, so that ranges touch, nest and overlap.
    fn port() -> impl Strategy<Value = u16> {
        prop_oneof![0_u16..12, u16::MAX - 5..=u16::MAX]
    }

    fn ports() -> impl Strategy<Value = PortSet> {
        prop::collection::vec((port(), port()), 0..5)
            .prop_map(|ranges| PortSet::of(ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b)))))
    }

    fn spoken() -> impl Strategy<Value = Spoken> {
        prop::option::of(0_u8..3).prop_map(|app| Spoken { app, ..Spoken::default() })
    }

    fn is_canonical(set: &PortSet) -> bool {
        set.0.iter().all(|(first, last)| first <= last)
            && set.0.windows(2).all(|pair| u32::from(pair[0].1) + 1 < u32::from(pair[1].0))
    }

    proptest! {
        #[test]
        fn sets_of_ports_are_sets(a in ports(), b in ports(), port in port()) {
            let (union, minus) = (PortSet::of(a.0.iter().chain(&b.0).copied()), a.minus(&b));
            prop_assert!(is_canonical(&a) && is_canonical(&union) && is_canonical(&minus));
            prop_assert_eq!(union.contains(port), a.contains(port) || b.contains(port));
            prop_assert_eq!(minus.contains(port), a.contains(port) && !b.contains(port));
        }

        #[test]
        fn entries_allow_what_is_in_the_set(tcp in ports(), udp in ports(), icmp: bool, port in port(), app in spoken()) {
            let traffic = Traffic { tcp, udp, icmp };
            let entries = traffic.entries(RuleId(7), &app);
            prop_assert!(entries.iter().all(|entry| entry.speaks == 0 || entry.protocols == TCP));
            let mut rules = agentnet_common::abi::Ruleset::default();
            for (slot, entry) in rules.rules.iter_mut().zip(entries.iter().copied()) {
                *slot = entry;
            }
            for (number, protocol) in [(6, TCP), (17, UDP), (1, ICMP), (58, ICMP)] {
                prop_assert_eq!(rules.find(number, port).is_some(), traffic.contains(protocol, port));
            }
            prop_assert_eq!(Traffic::of(entries), traffic);
        }
    }

    #[test]
    fn equal_ranges_of_several_protocols_take_one_entry() {
        let traffic = Traffic::new(TCP | UDP | ICMP, &PortSet::of([(53, 53)]));
        let entries = traffic.entries(RuleId(0), &Spoken::default());
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].protocols, TCP | UDP | ICMP);
    }
}
