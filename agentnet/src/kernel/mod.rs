//! All code that talks to the kernel about eBPF.
//!
//! [`Kernel`] is the one handle: it loads the object, installs policies, attaches agents and reads what the
//! programs report.

pub mod addrs;
pub mod features;
pub mod links;
pub mod marks;
pub mod mountinfo;
pub mod mounts;
pub mod object;
pub mod pins;
pub mod ring;
pub mod sockdiag;
mod sys;
pub mod verify;

pub use object::{Kernel, KernelError};
pub use pins::clear_pins;
pub use ring::Ring;
