//! Values of which the verifier is to know nothing.
//!
//! A constant that differs by the way it came about is followed by the verifier down every branch that asks for it, so
//! that the rest of a program is walked once for each way. Where ways meet, what they decided is made opaque: the rest
//! is then walked once for each answer. `unknown` is any value that the verifier does not know.

use agentnet_common::{addr::Addr, verdict::Scope};

/// The same value.
#[inline(always)]
pub fn word(value: u32, unknown: u32) -> u32 {
    let mut value = u64::from(value);
    // SAFETY: takes the same value out that it has put in.
    unsafe {
        core::arch::asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) value, in(reg) u64::from(unknown),
            options(pure, nomem, nostack));
    }
    value as u32
}

/// The same answer.
#[inline(always)]
pub fn flag(value: bool, unknown: u32) -> bool {
    word(value.into(), unknown) != 0
}

/// The same address: what tells the families apart.
#[inline(always)]
pub fn family(addr: Addr, unknown: u32) -> Addr {
    let [a, b, c, d] = addr.words;
    Addr { words: [word(a, unknown), word(b, unknown), word(c, unknown), d] }
}

/// The same place.
#[inline(always)]
pub fn scope(scope: Scope, unknown: u32) -> Scope {
    let code = match scope {
        Scope::Remote => 0,
        Scope::OwnListener => 1,
        Scope::ForeignListener => 2,
    };
    match word(code, unknown) {
        0 => Scope::Remote,
        1 => Scope::OwnListener,
        _ => Scope::ForeignListener,
    }
}
