//! D16: bursts of names that do not exist and look generated, as malware looks for whoever commands it.
//!
//! One name proves nothing (a third of the most visited domains look generated to a model): many different
//! ones that nobody registered do.

use std::hash::Hasher as _;

use super::{
    domains::BaseKind,
    evidence::{self, Evidence},
    finding::{Statement, Strength},
    ledger::second,
    lm::{Case, HOSTS},
    registry::Detector,
    scene::{DnsScene, Scene},
};

/// See the module.
#[derive(Debug)]
pub struct NameBurst;

/// Different domains that do not exist, within 10 minutes.
const BURST: u32 = 20;
/// The same within a day.
const DAY: u32 = 100;
/// Mean information of a character, in sixteenths of a bit: words have 2 to 3 bits.
const CODED: u32 = 3 * 16 + 10;

const MINUTES: u32 = 600;
const DAY_SECONDS: u32 = 86_400;

/// Domains that do not exist, lately.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Hash, second, information of a character in sixteenths of a bit; newest last.
    entries: std::collections::VecDeque<(u32, u32, u16)>,
}

impl State {
    /// Most that are remembered.
    pub const MAX: usize = DAY as usize + 28;
    /// Bytes it takes at most.
    pub const BYTES: usize = 2 * Self::MAX * size_of::<(u32, u32, u16)>();

    /// Remembers one; whether it is new.
    fn add(&mut self, hash: u32, cost: u16, now: u32) -> bool {
        while self.entries.front().is_some_and(|entry| entry.1 + DAY_SECONDS < now)
            || self.entries.len() >= Self::MAX
        {
            self.entries.pop_front();
        }
        if self.entries.iter().any(|entry| entry.0 == hash) {
            return false;
        }
        self.entries.push_back((hash, now, cost));
        true
    }

    /// How many there were within `seconds`, and their mean information of a character.
    fn within(&self, seconds: u32, now: u32) -> (u32, u32) {
        let recent = self.entries.iter().filter(|entry| entry.1 + seconds > now);
        let (count, sum) = recent.fold((0, 0), |(count, sum), entry| (count + 1, sum + u32::from(entry.2)));
        (count, sum / count.max(1))
    }
}

impl Detector for NameBurst {
    fn id(&self) -> &'static str {
        "dga"
    }

    fn weight(&self) -> f32 {
        0.4
    }

    fn on_dns(&self, scene: &mut Scene<'_, '_>, dns: &DnsScene<'_>) {
        let missing = dns.view.answer.is_some_and(|answer| answer.is_nxdomain());
        if !missing || !matches!(dns.base.kind, BaseKind::Registered | BaseKind::Hosted) || dns.popular {
            return;
        }
        let Some(label) = dns.base.name.split(|&byte| byte == b'.').next().filter(|label| label.len() >= 5)
        else {
            return;
        };
        let cost = HOSTS.token(label, Case::Folded).0 / u32::try_from(label.len()).unwrap_or(u32::MAX).max(1);
        let hash = scene.findings.keys.hash(|hasher| hasher.write(dns.base.name));
        let [h0, h1, h2, h3, ..] = hash.to_le_bytes();
        let (now, state) = (second(scene.now()), &mut *scene.dga);
        let cost = u16::try_from(cost).unwrap_or(u16::MAX);
        if !state.add(u32::from_le_bytes([h0, h1, h2, h3]), cost, now) {
            return;
        }
        let found = [(BURST, MINUTES), (DAY, DAY_SECONDS)].into_iter().find_map(|(limit, seconds)| {
            let (count, mean) = state.within(seconds, now);
            (count >= limit && mean >= CODED).then_some((count, mean, seconds))
        });
        let Some((count, mean, seconds)) = found else { return };
        #[expect(clippy::cast_precision_loss, reason = "a few dozen sixteenths")]
        let bits = mean as f32 / 16.0;
        scene.findings.add(b"*dga", &[], (Strength::Alert, 0.9), || Statement {
            subject: "names that do not exist".to_owned(),
            reason: format!(
                "looked up {count} different domains within {} that nobody registered and that look generated",
                if seconds == MINUTES { "10 minutes" } else { "a day" },
            ),
            advice: "look at the process: malware searches this way for whoever commands it",
            evidence: Evidence::Dga(evidence::Dga {
                query: dns.view.name.display(),
                domains: count,
                window_seconds: seconds,
                bits_per_character: evidence::Thousandths::of(bits),
            }),
        });
    }
}
