//! Memory to work in that is too large for a stack.
//!
//! A run may be interrupted by another one on its CPU, or preempted in the middle: each takes a place of its own and
//! gives it back. Where all are taken, whoever needs one has to refuse.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg};

use agentnet_common::abi::{SCRATCHES, Scratch};

use crate::maps::SCRATCH;

/// Runs `work` with a place that is nobody else's until it returns; `None` if there is none.
#[inline(always)]
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> Option<T> {
    let place = take()?;
    // SAFETY: a map value that outlives the run, and that nobody else has until it is given back.
    let result = work(unsafe { &mut *place });
    // SAFETY: as above.
    unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(&raw mut (*place).busy, 0) };
    Some(result)
}

#[inline(always)]
fn take() -> Option<*mut Scratch> {
    for index in 0..SCRATCHES {
        let Some(place) = SCRATCH.get_ptr_mut(index) else { continue };
        // SAFETY: a map value that outlives the run, aligned.
        let (_, taken) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                &raw mut (*place).busy,
                0,
                1,
            )
        };
        if taken {
            return Some(place);
        }
    }
    None
}
