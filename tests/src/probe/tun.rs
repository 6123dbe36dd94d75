//! Network devices of the agent's own: what is written to one comes from no socket.

use std::{fs::File, io::Write as _};

use super::{Failure, Operation, Step as _, Trace, raw};
use crate::{lab::net::TUN_INTERFACE, sys};

/// What this file offers.
pub const OPERATIONS: &[Operation] = &[
    // Nothing arrives unless the host routes what the device gives it, which the lab does only where asked to.
    Operation::new("tun-send", Trace::Nothing, "a packet written to a TUN device", |args| {
        let device = attach()?;
        // A device that nobody has brought up takes nothing: the attachment is what counts.
        Ok((&device).write(&raw::foreign_packet(args)).unwrap_or(0))
    })
    .privileged(),
];

/// Takes the lab's device, or makes one where there is none, for as long as the descriptor is open.
fn attach() -> Result<File, Failure> {
    let device = sys::tun_open().step("open")?;
    sys::tun_attach(&device, TUN_INTERFACE).step("TUNSETIFF")?;
    Ok(device)
}
