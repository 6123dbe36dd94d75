//! Which policy an agent gets.

use std::{path::Path, sync::Arc};

use agentnet_common::abi::{AgentCfg, MODE_AUDIT};
use serde::{Deserialize, Serialize};

use super::slots::Slots;
use crate::{
    agent::resolv,
    control::protocol::PolicySource,
    policy::{DIRECTORY, Policy, host::Host, is_path, resolvers::Resolution},
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
    /// Whom the agent asks for names, where that is not what this host does.
    pub(super) own: Option<Resolution>,
    /// What is not as it should be with that.
    pub(super) note: Option<String>,
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
    /// `directory`, a policy that is asked for by its name comes from there. It is for an agent on `host` to which
    /// the process `pid` belongs.
    ///
    /// # Errors
    /// Everything that is wrong with it, as people read it.
    pub(super) fn of(
        source: Option<&PolicySource>,
        audit: bool,
        directory: Option<&Path>,
        host: &Host,
        slots: &Slots,
        pid: Option<i32>,
    ) -> Result<Self, String> {
        let found = pid.and_then(|pid| resolv::of_process(pid, host));
        let own = found.as_ref().map(|found| found.resolution.clone());
        let host = &host_of(host, own.as_ref());
        // What a policy extends is not the client's: it comes from the directory whatever the client sends.
        let extended = directory.unwrap_or(Path::new(DIRECTORY));
        let policy = match (source, directory) {
            (None, _) => Self::again(&Origin::Nothing, None, extended, host, slots),
            // A path that calls itself a name would be a file that the daemon opens for somebody else.
            (Some(PolicySource { name: Some(name), .. }), Some(directory)) if !is_path(name) => {
                Self::again(&Origin::Named(name.clone()), None, directory, host, slots)
            }
            (Some(PolicySource { file, text, .. }), _) => {
                Self::again(&Origin::Text(file.clone()), Some(text), extended, host, slots)
            }
        };
        let selection = policy?;
        let note = found.and_then(|found| found.note(&selection.policy.compiled.resolution));
        Ok(Self { audit, own, note, ..selection })
    }

    /// The policy of an agent that has one from `origin`; `text` is what was kept of it, `directory` has what is
    /// named.
    ///
    /// # Errors
    /// Everything that is wrong with it, as people read it.
    pub(super) fn again(
        origin: &Origin,
        text: Option<&str>,
        directory: &Path,
        host: &Host,
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
        // One of them is enough, in the kernel and here.
        let policy = match (slots.known(directory, &file, &text, host), origin) {
            (Some(known), _) => known,
            (None, Origin::Nothing) => Arc::new(Policy::audit(host)),
            (None, _) => Arc::new(Policy::read_from(directory, &file, &text, host).map_err(told)?),
        };
        Ok(Self { policy, origin: origin.clone(), audit: false, own: None, note: None })
    }
}

/// What a policy has to know where the agent asks others for names than `host` does.
pub(super) fn host_of(host: &Host, own: Option<&Resolution>) -> Host {
    let resolution = own.unwrap_or(&host.resolution).clone();
    Host { local: host.local.clone(), resolution }
}
