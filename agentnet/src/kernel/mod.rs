//! All code that talks to the kernel about eBPF.

pub mod addrs;
pub mod features;
pub mod mounts;
pub mod sockdiag;
