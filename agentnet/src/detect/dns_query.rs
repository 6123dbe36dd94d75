//! D2: one query that carries a key or a text, the way agents that were fooled leak (CVE-2025-55284).
//!
//! Labels that decode to text or a known format are certain. Labels that say much and decode to nothing count
//! only for a domain that is not often visited, and are told, not stopped.

use super::{
    decode::{self, Content, Encoding},
    domains::BaseKind,
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    lm::{Bits, Case, HOSTS},
    registry::Detector,
    scene::{DnsScene, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct DnsQuery;

/// Information of labels that decode to nothing, in bytes: longer than any hash that names something: SHA-1 in hexadecimal has 20.
const ALERT: u32 = 28;
/// Bytes of text that labels decode to.
const TEXT: usize = 12;
/// Characters that are worth an attempt: 12 bytes in base64.
const SHORTEST: usize = 16;

impl Detector for DnsQuery {
    fn id(&self) -> &'static str {
        "dns_query"
    }

    fn weight(&self) -> f32 {
        1.0
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        if !dns.view.is_query || matches!(dns.base.kind, BaseKind::Reverse | BaseKind::Single) {
            return;
        }
        let information = dns.information;
        if scene.is_known(dns) {
            return;
        }
        // What cannot hold twelve bytes in any encoding is most of all queries.
        if information.whole() < 48 || dns.sub.len() < SHORTEST {
            return;
        }
        if let Some(decoded) = decoded(dns.sub) {
            let strength = if dns.popular || dns.infrastructure { Strength::Alert } else { Strength::Block };
            return self.tell(scene, dns, (strength, 1.0), information, Some(&decoded));
        }
        let excused = dns.popular || dns.infrastructure || dns.base.kind == BaseKind::Local;
        // Who was told that much is told of by the budget.
        if information.in_bytes() < ALERT || excused || dns.told_before.get() > 10 * ALERT {
            return;
        }
        let labels = dns.sub.split(|&byte| byte == b'.');
        let information =
            labels.map(|label| HOSTS.compound(label, Case::Folded)).fold(Bits::default(), Bits::plus);
        if information.in_bytes() < ALERT {
            return;
        }
        let score = 0.7 + f32::from(u8::from(is_tool(scene))) * 0.2;
        self.tell(scene, dns, (Strength::Alert, score), information, None);
    }
}

/// Whether a program asks that looks a name up for whoever types it, and not to connect to it.
fn is_tool(scene: &Scene<'_, '_>) -> bool {
    const TOOLS: &[&str] =
        &["ping", "ping6", "dig", "nslookup", "host", "drill", "kdig", "getent", "traceroute"];
    scene.event.process.is_some_and(|process| TOOLS.contains(&process.comm.as_str()))
}

/// What the labels decode to: all of them together, the long ones together, each long one alone.
fn decoded(sub: &[u8]) -> Option<decode::Decoded> {
    let labels = || sub.split(|&byte| byte == b'.');
    let attempt = |token: &[u8]| {
        (token.len() >= SHORTEST).then(|| decode::decode(token, TEXT)).flatten().filter(|decoded| {
            // A word of small letters is a number in base32 and base64 as well: its text would be chance.
            decoded.content != Content::Text
                || decoded.encodings.first() == Some(&Encoding::Hex)
                || decoded.bytes.len() >= TEXT + 2
        })
    };
    let joined: Vec<u8> = labels().flatten().copied().collect();
    if let Some(decoded) = attempt(&joined) {
        return Some(decoded);
    }
    let count = labels().count();
    if count < 2 {
        return None;
    }
    let long: Vec<u8> = labels().filter(|label| label.len() >= SHORTEST).flatten().copied().collect();
    attempt(&long).or_else(|| labels().find_map(attempt)).or_else(|| {
        // Counters and session numbers stand first or last.
        let without_first: Vec<u8> = labels().skip(1).flatten().copied().collect();
        let without_last: Vec<u8> = labels().take(count - 1).flatten().copied().collect();
        attempt(&without_first).or_else(|| attempt(&without_last))
    })
}

impl DnsQuery {
    fn tell(
        &self,
        scene: &mut Scene<'_, '_>,
        dns: &DnsScene<'_>,
        worth: (Strength, f32),
        information: Bits,
        decoded: Option<&decode::Decoded>,
    ) {
        let what: &[u8] = if decoded.is_some() { b"decoded" } else { b"" };
        scene.findings.add(dns.key, what, worth, || {
            let domain = dns.base.display();
            let reason = match decoded {
                Some(decoded) => format!(
                    "looked up a name below {domain} whose labels are {} bytes of {} in {}",
                    decoded.bytes.len(),
                    decoded.content.label(),
                    decoded.label(),
                ),
                None => format!(
                    "looked up a name below {domain} that says {} bytes, as a key or an encrypted message \
                     would, and the domain is not one that is often visited",
                    information.in_bytes(),
                ),
            };
            Statement {
                reason,
                advice: "look at what the process had read before; if it was a secret, replace it",
                evidence: Evidence::DnsQuery(evidence::DnsQuery {
                    query: match decoded {
                        Some(_) => redacted(dns),
                        None => dns.view.name.display(),
                    },
                    information_bytes: information.in_bytes(),
                    decoded: decoded.map(|decoded| evidence::Decoded {
                        encoding: decoded.label(),
                        content: decoded.content.label().into(),
                        bytes: decoded.bytes.len(),
                        sample: sample(&decoded.bytes),
                    }),
                    popular: dns.popular,
                    bytes_before_block: dns.told_before.get(),
                    domain: domain.clone(),
                }),
                subject: domain,
            }
        });
    }
}

/// The first characters of each label, and how many they were.
fn redacted(dns: &DnsScene<'_>) -> String {
    let labels = dns.sub.split(|&byte| byte == b'.').map(|label| match label.get(..6) {
        Some(start) if label.len() > 12 => format!("{}…({})", super::name::display(start), label.len()),
        _ => super::name::display(label),
    });
    let mut shown: Vec<String> = labels.collect();
    shown.push(dns.base.display());
    shown.join(".")
}

/// The first four characters of something that may be secret.
pub(super) fn sample(bytes: &[u8]) -> String {
    let start = String::from_utf8_lossy(bytes.get(..bytes.len().min(4)).unwrap_or_default());
    format!("{}…", crate::alert::text::clean(&start, 16))
}
