//! Which policy an agent gets.

use std::{net::IpAddr, path::Path, sync::Arc};

use agentnet_common::abi::{AgentCfg, MODE_AUDIT};
use serde::{Deserialize, Serialize};

use super::slots::Slots;
use crate::{
    control::protocol::PolicySource,
    policy::{Policy, is_path},
};

/// Where an agent's policy comes from, and with it what a reload reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// There is none: everything is reported.
    Nothing,
    /// The directory of policies, or those that are built in.
    Named(String),
    /// The text that came with the request, of this file.
    Text(String),
}

/// A policy and where it comes from.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) policy: Arc<Policy>,
    pub(super) origin: Origin,
    /// Whether it is only to report, whatever the policy says.
    pub(super) audit: bool,
}

impl Selection {
    /// Whether nothing will be refused.
    pub(super) fn is_audit(&self) -> bool {
        self.audit || self.policy.compiled.mode == MODE_AUDIT
    }

    /// The agent `id` under it, in `slot`.
    pub(super) fn cfg(&self, id: u32, slot: u32, generation: u32) -> AgentCfg {
        let mut cfg = self.policy.compiled.agent_cfg(id, slot, generation);
        if self.audit {
            cfg.mode = MODE_AUDIT;
        }
        cfg
    }

    /// The policy that is asked for, read and parsed anew: what a client made of it is not believed. With a
    /// `directory`, a policy that is asked for by its name comes from there.
    ///
    /// # Errors
    /// Everything that is wrong with it, as people read it.
    pub(super) fn of(
        source: Option<&PolicySource>,
        audit: bool,
        directory: Option<&Path>,
        local: &[IpAddr],
        slots: &Slots,
    ) -> Result<Self, String> {
        let nowhere = Path::new("");
        let policy = match (source, directory) {
            (None, _) => Self::again(&Origin::Nothing, None, nowhere, local, slots),
            // A path that calls itself a name would be a file that the daemon opens for somebody else.
            (Some(PolicySource { name: Some(name), .. }), Some(directory)) if !is_path(name) => {
                Self::again(&Origin::Named(name.clone()), None, directory, local, slots)
            }
            (Some(PolicySource { file, text, .. }), _) => {
                Self::again(&Origin::Text(file.clone()), Some(text), nowhere, local, slots)
            }
        };
        Ok(Self { audit, ..policy? })
    }

    /// The policy of an agent that has one from `origin`; `text` is what was kept of it.
    ///
    /// # Errors
    /// Everything that is wrong with it, as people read it.
    pub(super) fn again(
        origin: &Origin,
        text: Option<&str>,
        directory: &Path,
        local: &[IpAddr],
        slots: &Slots,
    ) -> Result<Self, String> {
        let told = |problems: crate::policy::diagnostic::Diagnostics| problems.render(false);
        let (file, text) = match origin {
            Origin::Nothing => ("<audit>".to_owned(), String::new()),
            Origin::Named(name) => Policy::look_up(directory, name).map_err(told)?,
            Origin::Text(file) => {
                let text = text.ok_or_else(|| format!("the text of {file} was not kept"))?;
                (file.clone(), text.to_owned())
            }
        };
        // Without rules, addresses make no difference.
        let local = if *origin == Origin::Nothing { &[] } else { local };
        // One of them is enough, in the kernel and here.
        let policy = match (slots.known(&file, &text, local), origin) {
            (Some(known), _) => known,
            (None, Origin::Nothing) => Arc::new(Policy::audit()),
            (None, _) => Arc::new(Policy::from_text(&file, &text, local).map_err(told)?),
        };
        Ok(Self { policy, origin: origin.clone(), audit: false })
    }
}
