//! What is done about a finding: what the policy says of its kind, applied to what the finding is worth.

use super::{
    finding::{Finding, Strength},
    registry::{DefaultAction, REGISTRY, row},
};
use crate::alert::model::Kind;

/// `[detect.KIND] action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Setting {
    /// What [`super::registry::Row::default`] says.
    #[default]
    Default,
    /// Nothing is told.
    Off,
    /// Everything is told and nothing blocked.
    Alert,
    /// Everything that is worth an alert is blocked.
    Block,
    /// The same, and the agent may send nothing any more.
    Quarantine,
}

/// What is done, least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing.
    #[default]
    Nothing,
    /// It is told.
    Alert,
    /// The destination is blocked, and it is told.
    Block,
    /// The agent may send nothing any more, and it is told.
    Quarantine,
}

impl Action {
    /// What a list of verdicts says.
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Nothing => "ok",
            Self::Alert => "alert",
            Self::Block | Self::Quarantine => "block",
        }
    }
}

/// What a policy says of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions(Vec<(Kind, Setting)>);

impl Actions {
    /// Sets what is done about a kind.
    pub fn set(&mut self, kind: Kind, setting: Setting) {
        self.0.retain(|(one, _)| *one != kind);
        self.0.push((kind, setting));
    }

    /// What is set for a kind.
    pub fn setting(&self, kind: Kind) -> Setting {
        self.0.iter().find(|(one, _)| *one == kind).map_or(Setting::Default, |(_, setting)| *setting)
    }

    /// What is done about a finding.
    pub fn of(&self, finding: &Finding) -> Action {
        self.decide(finding.kind, finding.strength)
    }

    /// What is done about a finding of this kind and strength.
    pub fn decide(&self, kind: Kind, strength: Strength) -> Action {
        let worth = match strength {
            Strength::Hint => return Action::Nothing,
            Strength::Alert => Action::Alert,
            Strength::Block => Action::Block,
        };
        match self.setting(kind) {
            Setting::Off => Action::Nothing,
            Setting::Alert => Action::Alert,
            Setting::Block => Action::Block,
            Setting::Quarantine => Action::Quarantine,
            Setting::Default => match row(kind).map(|row| row.default) {
                Some(DefaultAction::Graded) => worth,
                Some(DefaultAction::Alert) | None => Action::Alert,
            },
        }
    }
}

/// The kinds that a policy may have something to say of, in the order of the registry.
pub fn kinds() -> impl Iterator<Item = Kind> {
    REGISTRY.iter().map(|row| row.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_only_lowers_and_raises_what_is_worth_an_alert() {
        let mut actions = Actions::default();
        let tunnel = Kind::DnsTunnel;
        assert_eq!(actions.decide(tunnel, Strength::Block), Action::Block);
        assert_eq!(actions.decide(tunnel, Strength::Alert), Action::Alert);
        assert_eq!(actions.decide(Kind::Dga, Strength::Block), Action::Alert);
        for (setting, alert, block) in [
            (Setting::Off, Action::Nothing, Action::Nothing),
            (Setting::Alert, Action::Alert, Action::Alert),
            (Setting::Block, Action::Block, Action::Block),
            (Setting::Quarantine, Action::Quarantine, Action::Quarantine),
        ] {
            actions.set(tunnel, setting);
            assert_eq!(actions.decide(tunnel, Strength::Hint), Action::Nothing);
            assert_eq!(actions.decide(tunnel, Strength::Alert), alert);
            assert_eq!(actions.decide(tunnel, Strength::Block), block);
        }
    }
}
