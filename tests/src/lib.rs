//! The lab of the end-to-end tests: two network namespaces, servers that count what reaches them, a sniffer
//! that has the last word on what left the agent, the agent itself, and the check that nothing is left behind.
//!
//! [`probe`] is the other half: the program that plays the agent and tries to get bytes out. Every operation
//! it knows is first run without agentnet, where it must get through: an attack that fails by itself proves
//! nothing about a monitor.

pub mod bench;
pub mod demo;
pub mod dice;
pub mod eval;
pub mod eventually;
pub mod hostile;
pub mod lab;
pub mod oracle;
pub mod probe;
pub mod skip;
pub mod sys;
