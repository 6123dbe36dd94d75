//! All code that talks to the kernel about eBPF.
//!
//! [`Kernel`] is the one handle: it loads the object, installs policies, attaches agents and reads what the
//! programs report.

pub mod links;
pub mod object;
pub mod pins;
pub mod ring;
mod sys;
pub mod verify;

pub use object::{Kernel, KernelError};
pub use pins::clear_pins;
pub use ring::Ring;
