//! What names that an agent says are held to, where the kernel does not do so itself.

use agentnet_common::{
    abi::{SPEAKS_ECH, SPEAKS_HTTP, SPEAKS_TLS, SPEAKS_UNNAMED},
    addr::protocol,
    verdict::{self, RuleId, Verdict},
};

use super::{Policy, name::Name, validate::Effect};
use crate::detect::said::HeldTo;

impl Policy {
    /// What has to be said in what leaves by rule `id` to `port` over `protocol` (an IANA number): in QUIC, and in
    /// HTTP. `None` where nothing has to be, or the kernel judges it.
    pub fn held_to(&self, id: RuleId, number: u8, port: u16) -> Option<HeldTo> {
        let rule = self.valid.rules.get(usize::from(id.0)).filter(|rule| rule.effect == Effect::Allow)?;
        rule.name()?;
        let speaks = rule.spoken.at(port);
        match number {
            protocol::UDP if speaks & SPEAKS_TLS != 0 => Some(HeldTo::Quic {
                may_be_unnamed: speaks & SPEAKS_UNNAMED != 0,
                may_be_encrypted: speaks & SPEAKS_ECH != 0,
            }),
            protocol::TCP if speaks & SPEAKS_HTTP != 0 => Some(HeldTo::Http),
            _ => None,
        }
    }

    /// Whether a rule lets `name` be reached at `port` over `protocol` (an IANA number).
    pub fn allows_name(&self, name: &str, number: u8, port: u16) -> bool {
        let Ok(name) = Name::parse(name) else { return false };
        matches!(verdict::decide_name(&self.compiled, 0, &name.key(), number, port), Verdict::Allow(_))
    }
}
