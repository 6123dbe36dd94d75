//! agentnet: an eBPF egress and exfiltration monitor for hosts that run AI agents.
//!
//! The library behind the one binary. `policy` turns a TOML file into what the kernel reads, `kernel` holds
//! all code that talks to it, `agent` makes and confines the governed process tree, `engine` owns the
//! state of a running agentnet, `alert` turns kernel records into what people and machines read, `store`
//! keeps that.

pub mod act;
pub mod agent;
pub mod alert;
pub mod cli;
pub mod config;
pub mod control;
pub mod detect;
pub mod engine;
pub mod exit;
pub mod kernel;
pub mod policy;
pub mod programs;
pub mod replay;
pub mod store;
