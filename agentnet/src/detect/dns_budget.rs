//! D1: how much that is new a workload told a registrable domain in the names it looked up.
//!
//! Paxson et al., "Practical Comprehensive Bounds on Surreptitious Communication Over DNS" (USENIX Security
//! 2013) bound what a client can tell a domain; Ozery et al. (NDSS 2024) count new labels as they come. Here a
//! label costs what a language model makes of it the first time, a new name of known labels what choosing
//! them costs, and a name of before nothing.

use super::{
    domains::BaseKind,
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    ledger::{Account, Entry, Lane, Span},
    lm::{Bits, Case, HOSTS},
    registry::Detector,
    scene::{DnsScene, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct DnsBudget;

/// Told within 10 minutes.
const ALERT_10_MINUTES: u32 = 250;
/// Told within a day.
const ALERT_DAY: u32 = 512;
/// Stopped within a day.
pub(super) const BLOCK_DAY: u32 = 1024;
/// The same for all names below a suffix of one owner: each of its domains may be another one's.
const OWNER: u32 = 4;
/// The same for all domains together that are not often visited, in labels that say as much as codes do.
const MANY: u32 = 8;
/// What stands for all of them in the ledger.
const ALL: &[u8] = b"*";
/// Information of a label that is no name.
const CODED: Bits = Bits::bytes(7);
/// What the most visited domains may be told more: an attacker seldom owns one.
const POPULAR: u32 = 8;
/// What services may be told more that ask for hashes all day.
const INFRASTRUCTURE: u32 = 20;

/// What the owner of the smallest delegated block of addresses learns of a name: the last byte of an IPv4
/// address, the lower 96 bits of an IPv6 address.
const REVERSE_V4: Bits = Bits::of(8);
const REVERSE_V6: Bits = Bits::of(96);

impl Detector for DnsBudget {
    fn id(&self) -> &'static str {
        "dns_budget"
    }

    fn weight(&self) -> f32 {
        0.7
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        if !dns.view.is_query || dns.view.name.is_empty() {
            return;
        }
        let now = scene.now();
        if let Some(account) = scene.ledger.get(Lane::DnsQuery, dns.key) {
            dns.told_before.set(account.sums.of(Span::Day, now).in_bytes());
        }
        let (entry, coded) = news(scene, dns, Lane::DnsQuery, dns.key);
        if entry.items == 0 {
            return;
        }
        if coded.bits > Bits::default() && factor(dns) == 1 {
            let account = *scene.ledger.enter(Lane::DnsOwner, ALL, coded, now);
            judge_all(scene, dns, &account);
        }
        let account = *scene.ledger.enter(Lane::DnsQuery, dns.key, entry, now);
        judge(scene, dns, &account, factor(dns), dns.key);
        // The owner's account counts only what is longer than a name for a service needs to be.
        let Some(owner) = dns.base.icann() else { return };
        let account = *scene.ledger.enter(Lane::DnsOwner, owner, entry, now);
        judge(scene, dns, &account, factor(dns) * OWNER, owner);
    }
}

/// What a domain may be told more than others.
fn factor(dns: &DnsScene<'_>) -> u32 {
    match dns.base.kind {
        _ if dns.infrastructure => INFRASTRUCTURE,
        BaseKind::Local | BaseKind::Reverse => POPULAR,
        _ if dns.popular => POPULAR,
        _ => 1,
    }
}

/// What of a name is new to `base`, and what of that is in labels that say as much as codes do.
fn news(scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>, lane: Lane, base: &[u8]) -> (Entry, Entry) {
    let mut entry = Entry { bits: Bits::default(), characters: 0, items: 0 };
    let mut coded = entry;
    let lower = dns.base.sub_of(dns.view.name.lower());
    if lower.is_empty() || !scene.ledger.is_new(lane, base, dns.view.name.lower()) {
        return (entry, coded);
    }
    entry.items = 1;
    if dns.base.kind == BaseKind::Reverse {
        entry.bits = if lower.len() > 15 { REVERSE_V6 } else { REVERSE_V4 };
        entry.characters = u32::try_from(lower.len()).unwrap_or(u32::MAX);
        return (entry, coded);
    }
    let known = scene.ledger.get(lane, base).map_or(0, |account| account.items);
    // Choosing one of the labels known so far, and no more than the label says anyway.
    let chosen = Bits::of(u32::BITS - known.leading_zeros());
    for (at, label) in lower.split(|&byte| byte == b'.').enumerate() {
        let said = dns.said.get(at).copied().unwrap_or_else(|| HOSTS.token(label, Case::Folded));
        if scene.ledger.is_new(lane, base, label) {
            entry.bits = entry.bits.plus(said);
            if said >= CODED {
                coded = Entry { bits: coded.bits.plus(said), characters: coded.characters, items: 1 };
            }
            entry.characters =
                entry.characters.saturating_add(u32::try_from(label.len()).unwrap_or(u32::MAX));
        } else {
            entry.bits = entry.bits.plus(chosen.min(said));
        }
    }
    (entry, coded)
}

/// Whether what all domains together were told that are not often visited is too much: a leak may be spread over many
/// of them.
fn judge_all(scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>, account: &Account) {
    let now = scene.now();
    let told = |span| account.sums.of(span, now).in_bytes();
    let spans = [(Span::Minutes10, ALERT_10_MINUTES * MANY), (Span::Day, ALERT_DAY * MANY)];
    let Some((span, limit)) = spans.into_iter().find(|&(span, limit)| told(span) >= limit) else { return };
    let information = told(span);
    scene.findings.add(ALL, &[], (Strength::Alert, 0.8), || Statement {
        subject: "many domains".to_owned(),
        reason: format!(
            "told many domains {information} bytes in labels that are no words within {}, where {limit} is the limit; \
             the last one was {}",
            window(span),
            dns.base.display(),
        ),
        advice: "a leak can be spread over many domains: look at the process and at what it looked up",
        evidence: Evidence::DnsBudget(evidence::DnsBudget {
            domain: dns.base.display(),
            query: dns.view.name.display(),
            information_bytes: information,
            limit_bytes: limit,
            window_seconds: span.seconds(),
            names: account.items,
            characters: account.characters,
            popular: false,
            bytes_before_block: information,
        }),
    });
}

fn judge(scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>, account: &Account, factor: u32, base: &[u8]) {
    let now = scene.now();
    let told = |span| account.sums.of(span, now).in_bytes();
    let (day, minutes) = (told(Span::Day), told(Span::Minutes10));
    let (strength, span, limit) = if day >= BLOCK_DAY * factor {
        (Strength::Block, Span::Day, BLOCK_DAY * factor)
    } else if minutes >= ALERT_10_MINUTES * factor {
        (Strength::Alert, Span::Minutes10, ALERT_10_MINUTES * factor)
    } else if day >= ALERT_DAY * factor {
        (Strength::Alert, Span::Day, ALERT_DAY * factor)
    } else {
        return;
    };
    let information = told(span);
    let score = match strength {
        Strength::Block => 1.0,
        _ => 0.8,
    };
    let before = dns.told_before.get();
    scene.findings.add(base, &[], (strength, score), || {
        let domain = if base == dns.key { dns.base.display() } else { super::name::display(base) };
        Statement {
            reason: format!(
                "told {domain} {information} bytes that were new in the names it looked up within {}, \
                 {} names since the first, where {limit} is the limit{}",
                window(span),
                account.items,
                if dns.popular { " for a domain that is often visited" } else { "" },
            ),
            advice: "if the domain is nobody you know, block it and look at the process; names of ordinary \
                     services repeat",
            evidence: Evidence::DnsBudget(evidence::DnsBudget {
                domain: domain.clone(),
                query: dns.view.name.display(),
                information_bytes: information,
                limit_bytes: limit,
                window_seconds: span.seconds(),
                names: account.items,
                characters: account.characters,
                popular: dns.popular,
                bytes_before_block: before,
            }),
            subject: domain,
        }
    });
}

fn window(span: Span) -> &'static str {
    match span {
        Span::Minutes2 => "2 minutes",
        Span::Minutes10 => "10 minutes",
        Span::Hour => "an hour",
        Span::Day => "a day",
    }
}
