//! Tests of the policy front end as a whole.

mod diagnostics;
mod diff;
mod draft;
mod explain;
mod extends;
mod files;
mod many;
mod robustness;
mod scan;
mod verdict;
mod without;
