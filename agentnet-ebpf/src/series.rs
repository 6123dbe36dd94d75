//! Flows like the one before: a client that connects to the same place over and over is reported once, and counted.
//!
//! Writing a record for another CPU to read costs more than the rest of connect(). Counting costs a tenth of it.

use core::ptr::null_mut;

use agentnet_common::{
    abi::{AgentCfg, SERIES_PLACES, Series},
    verdict::RuleId,
};

use crate::{emit::Facts, maps::SERIES};

/// Where a series with this process and endpoint is kept on this CPU; another one may be there.
///
/// A hook that interrupts this one on its CPU may change the place under it: then a report has a wrong number or
/// names another flow of an agent. No verdict looks at it.
#[inline(always)]
pub fn place(facts: &Facts) -> *mut Series {
    let [_, _, high, low] = facts.remote.addr.words;
    let mixed = (high ^ low).wrapping_mul(0x9e37_79b1) ^ u32::from(facts.remote.port) ^ facts.process.pid;
    SERIES.get_ptr_mut((mixed ^ mixed >> 16) & (SERIES_PLACES - 1)).unwrap_or(null_mut())
}

/// Whether the flow goes on with the series at `place`, which then counts it.
#[inline(always)]
pub fn goes_on(place: *mut Series, cfg: &AgentCfg, facts: &Facts, rule: RuleId) -> bool {
    // SAFETY: null, or a map value that outlives the run.
    let Some(series) = (unsafe { place.as_mut() }) else { return false };
    let first = &mut series.first;
    let same = first.header.agent == cfg.agent
        && series.generation == cfg.generation
        && first.rule == rule.0
        && first.hook == facts.hook as u8
        && first.process.pid == facts.process.pid
        && first.process.comm == facts.process.comm
        && first.endpoint.port == facts.remote.port
        && first.endpoint.protocol == facts.remote.protocol
        && first.endpoint.addr.words == facts.remote.addr.words
        && first.total < u32::MAX;
    if same {
        first.total += 1;
    }
    same
}
