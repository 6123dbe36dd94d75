//! Tests of the policy front end as a whole.

mod diagnostics;
mod explain;
mod files;
mod robustness;
mod scan;
mod verdict;
