//! What alerts need to know about the policy.

use agentnet_common::{
    addr::Endpoint,
    verdict::{Reason, RuleId},
};

use super::text::one_line;
use crate::policy::compile::RuleInfo;

/// A rule and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// One line that says what the rule does, such as `10.20.0.0/16 tcp 5432, 8000-8099`.
    pub text: String,
    /// The file it is written in, or the name of a built-in policy.
    pub file: String,
    /// Line of the file, from 1.
    pub line: u32,
}

impl From<&RuleInfo> for RuleRef {
    fn from(rule: &RuleInfo) -> Self {
        Self { text: rule.text.clone(), file: rule.file.clone(), line: rule.line }
    }
}

impl std::fmt::Display for RuleRef {
    /// The rule and its place, in one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ({}:{})", one_line(&self.text), self.file, self.line)
    }
}

/// Why the policy refuses an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// The rule that denies it, if one does.
    pub rule: Option<RuleRef>,
    /// An allow rule for the address that leaves out the port or the protocol.
    pub near: Option<RuleRef>,
    /// The special-purpose network it is in, in words such as `link-local (169.254.0.0/16)`.
    pub special: Option<String>,
    /// TOML that would allow it, ready to be added to the policy.
    pub suggestion: Option<String>,
}

/// A policy that can say which rule decided.
pub trait Explain: Send + Sync {
    /// The policy's name.
    fn name(&self) -> &str;

    /// The rule with this identifier; `None` for the reserved ones, which no file holds.
    fn rule(&self, id: RuleId) -> Option<RuleRef>;

    /// Why `endpoint` was refused for `reason`, as far as the policy can tell.
    fn explain(&self, endpoint: &Endpoint, reason: Reason) -> Option<Explained>;

    /// Why `name` may not be asked for. Its suggestion is about the name that was meant, where a resolver has put a
    /// search domain behind it.
    fn explain_name(&self, name: &str) -> Option<Explained>;

    /// The rule that allows `endpoint` to an agent that has resolved `name` to its address.
    fn rule_of_name(&self, name: &str, endpoint: &Endpoint) -> Option<RuleId>;

    /// What was done by hand that has `endpoint` refused for `reason`, as a clause.
    fn refused_by_hand(&self, endpoint: &Endpoint, reason: Reason) -> Option<String>;

    /// What has `name` refused whatever the policy says of it, as a clause.
    fn refused_name(&self, name: &str) -> Option<String>;

    /// What was done by hand that allows `endpoint`, as a clause.
    fn allowed_by_hand(&self, endpoint: &Endpoint) -> Option<String>;
}

/// What a reserved rule identifier stands for; `None` for a rule of the policy file.
pub const fn reserved_rule(id: RuleId) -> Option<&'static str> {
    match id {
        RuleId::OWN_LISTENER => Some("[local] loopback: a listener of the same agent"),
        RuleId::ANY_LISTENER => Some("[local] loopback = \"any\""),
        RuleId::REPLY => Some("[local] listen: a reply to a peer that was let in"),
        RuleId::RESOLVER => Some("[dns] resolvers: queries for allowed names"),
        RuleId::NOTHING_SENT => Some("nothing is sent: only a route is asked for"),
        RuleId::GRANT => Some("allowed by hand"),
        _ => None,
    }
}
