//! All code that talks to the kernel about eBPF.
//!
//! [`Kernel`] is the one handle: it loads the object, installs policies, attaches agents and reads what the
//! programs report.

pub mod acts;
pub mod addrs;
mod error;
pub mod features;
pub mod held;
pub mod inherit;
pub mod interfaces;
pub mod links;
pub mod marks;
pub mod mountinfo;
pub mod mounts;
pub mod object;
pub mod opened;
pub mod pins;
pub mod ring;
pub mod sockdiag;
mod sys;
mod tables;
pub mod tcx;
pub mod unix;
pub mod verify;

pub use error::KernelError;
pub use object::Kernel;
pub use pins::clear_pins;
pub use ring::Ring;
pub use tables::First;
