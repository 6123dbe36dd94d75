//! Policy slots in the kernel: agents whose policies are the same share one.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use agentnet_common::abi::SLOTS;

use crate::{
    kernel::{Kernel, KernelError},
    policy::{Policy, host::Host},
};

/// Which slots hold what.
#[derive(Debug, Default)]
pub(super) struct Slots {
    filled: BTreeMap<u32, Slot>,
    /// How many agents hold a slot of which nothing else is known.
    reserved: BTreeMap<u32, u32>,
}

#[derive(Debug)]
struct Slot {
    policy: Arc<Policy>,
    users: u32,
}

/// Why a policy has no slot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// There are too many policies.
    #[error("agents of this engine have {SLOTS} different policies already; let some of them share one")]
    Full,
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl Slots {
    /// The slot that the first policy gets.
    pub(super) const FIRST: u32 = 0;

    /// No slots but [`Slots::FIRST`], which holds `policy`.
    pub(super) fn holding(policy: Arc<Policy>) -> Self {
        Self { filled: BTreeMap::from([(Self::FIRST, Slot { policy, users: 0 })]), reserved: BTreeMap::new() }
    }

    /// The policy that is written in `file` as `text`, if an agent has it; what it extends is in `directory`.
    pub(super) fn known(&self, directory: &Path, file: &str, text: &str, host: &Host) -> Option<Arc<Policy>> {
        let mut policies = self.filled.values().map(|slot| &slot.policy);
        policies.find(|policy| policy.is_of(directory, file, text, host)).cloned()
    }

    /// A slot that holds `policy`, for one more agent.
    ///
    /// # Errors
    /// If none is free, or the kernel refuses the policy.
    pub(super) fn lease(&mut self, kernel: &mut Kernel, policy: &Arc<Policy>) -> Result<u32, SlotError> {
        let same = |slot: &&mut Slot| Arc::ptr_eq(&slot.policy, policy);
        if let Some((&index, slot)) = self.filled.iter_mut().find(|(_, slot)| same(slot)) {
            slot.users += 1;
            return Ok(index);
        }
        let is_free = |index: &u32| !self.filled.contains_key(index) && !self.reserved.contains_key(index);
        let index = (0..SLOTS).find(is_free).ok_or(SlotError::Full)?;
        kernel.install(index, &policy.compiled)?;
        self.filled.insert(index, Slot { policy: Arc::clone(policy), users: 1 });
        Ok(index)
    }

    /// One agent less has the slot.
    pub(super) fn release(&mut self, kernel: &mut Kernel, index: u32) {
        let filled = self.filled.get_mut(&index).map(|slot| &mut slot.users);
        let Some(users) = filled.or_else(|| self.reserved.get_mut(&index)) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        self.filled.remove(&index);
        self.reserved.remove(&index);
        if let Err(error) = kernel.uninstall(index) {
            // It is filled anew before the next agent gets it.
            tracing::warn!(%error, slot = index, "a policy slot was not freed");
        }
    }

    /// Leaves a slot as it is, for one more agent whose policy is known to the kernel alone.
    pub(super) fn reserve(&mut self, index: u32) {
        *self.reserved.entry(index).or_default() += 1;
    }
}
