//! Which policy an agent gets.

use std::{net::IpAddr, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::slots::Slots;
use crate::{control::protocol::PolicySource, policy::Policy};

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
}

impl Selection {
    /// The policy that is asked for, read and parsed anew: what a client made of it is not believed. With a
    /// `directory`, a policy that is asked for by its name comes from there.
    ///
    /// # Errors
    /// Everything that is wrong with it, as people read it.
    pub(super) fn of(
        source: Option<&PolicySource>,
        directory: Option<&Path>,
        local: &[IpAddr],
        slots: &Slots,
    ) -> Result<Self, String> {
        match (source, directory) {
            (None, _) => Self::again(&Origin::Nothing, None, Path::new(""), local, slots),
            (Some(PolicySource { name: Some(name), .. }), Some(directory)) => {
                Self::again(&Origin::Named(name.clone()), None, directory, local, slots)
            }
            (Some(PolicySource { file, text, .. }), _) => {
                Self::again(&Origin::Text(file.clone()), Some(text), Path::new(""), local, slots)
            }
        }
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
        // Without rules, addresses make no difference.
        let local = if *origin == Origin::Nothing { &[] } else { local };
        let policy = match origin {
            Origin::Nothing => Policy::audit(),
            Origin::Named(name) => Policy::load_from(directory, name, local).map_err(told)?,
            Origin::Text(file) => {
                let text = text.ok_or_else(|| format!("the text of {file} was not kept"))?;
                match slots.known(file, text, local) {
                    Some(policy) => return Ok(Self { policy, origin: origin.clone() }),
                    None => Policy::from_text(file, text, local).map_err(told)?,
                }
            }
        };
        // One of them is enough, in the kernel and here.
        let known = slots.known(policy.file(), policy.text(), local);
        Ok(Self { policy: known.unwrap_or_else(|| Arc::new(policy)), origin: origin.clone() })
    }
}
