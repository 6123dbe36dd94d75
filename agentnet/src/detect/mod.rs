//! Covert channels and leaks in what is allowed, found with evidence.
//!
//! [`event`] says what is looked at, [`bank`] owns all state and hands each [`event::Event`] to the detectors of
//! [`registry::REGISTRY`], which answer with [`finding::Finding`]s. What a workload told whom is counted once, in
//! its [`ledger`]. Nothing here touches the system, the network or a clock: what happens depends on the events
//! and their times alone, so that the kernel's samples, a capture and a list of names have the same result.

mod about;
pub mod action;
pub mod app;
pub mod bank;
pub mod decode;
pub mod destination;
pub mod dga;
pub mod dissect;
pub mod dns;
pub mod dns_anomaly;
pub mod dns_answer;
pub mod dns_budget;
pub mod dns_query;
pub mod domains;
pub mod event;
pub mod evidence;
pub mod finding;
pub mod fusion;
pub mod http;
pub mod icmp;
pub mod kept;
pub mod ledger;
pub mod live;
pub mod lm;
pub mod name;
pub mod places;
pub mod quic;
pub mod registry;
pub mod said;
pub mod scene;
pub mod secret;
pub mod secrets;
pub mod stream;
pub mod tls;
pub mod url;
pub mod workload;

pub use registry::{Detector, REGISTRY};

#[cfg(test)]
mod tests;
