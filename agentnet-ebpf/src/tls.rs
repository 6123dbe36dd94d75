//! What TLS clients say in the clear: records, and the ClientHello with the name of the server (RFC 8446, RFC 6066).
//!
//! Bytes are read where they were copied to, which the process cannot reach. Every loop is a function of its own, with
//! its state in the memory of a map: the verifier walks it a few times instead of as often as it runs.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{HELLO_BYTES, HELLO_CHANGED, HELLO_HALF, Hello, KEY_END, Scratch},
    name::{LABEL_END, NameHash},
    verdict::Reason,
};
use aya_ebpf::helpers::generated::bpf_loop;

use crate::tables::reason;

/// Bytes of a record before its fragment (RFC 8446, 5.1).
pub const RECORD_HEAD: u32 = 5;
/// Most bytes of a fragment: those of TLS 1.2, which may be expanded by 2048 (RFC 5246, 6.2.3).
const MOST_FRAGMENT: u32 = (1 << 14) + 2048;
/// Content types (RFC 8446, B.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;
/// SSL 3.0 and all of TLS: the first byte of versions.
const MAJOR: u8 = 3;
/// Handshake type of a ClientHello (RFC 8446, 4).
const CLIENT_HELLO: u8 = 1;
/// Bytes of a handshake message before its body.
const MESSAGE_HEAD: u32 = 4;
/// The longest ClientHello that anybody reads has less than three times this (`CLIENT_HELLO_MAX_LENGTH` of OpenSSL).
const LONG_HELLO: u8 = 2;
/// Most extensions of a ClientHello; there are some 60 in the registry.
const MOST_EXTENSIONS: u32 = 128;
/// Longest name in dots (RFC 1035, 2.3.4).
const MOST_NAME: u32 = 253;
/// Most bytes of a label (RFC 1035, 2.3.4).
const MOST_LABEL: u32 = 63;

/// Extensions (IANA, "TLS ExtensionType Values"), and the draft's that came before the last.
const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
const ENCRYPTED_HELLO: u16 = 0xfe0d;
const ENCRYPTED_NAME: u16 = 0xffce;

/// [`Scratch::flags`]: it has a server name.
pub const NAMED: u32 = 1;
/// It has another one, or may have, that is not in the clear.
pub const ENCRYPTED: u32 = 2;
/// It offers early data.
pub const EARLY: u32 = 4;

/// What became of a loop.
mod found {
    /// It goes on, or is cut off.
    pub const OPEN: u32 = 0;
    /// It came to its end.
    pub const WHOLE: u32 = 1;
    /// What it reads is not as it has to be.
    pub const BROKEN: u32 = 2;
}

/// What is to be done about the next record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nothing can be said before `bytes` are there.
    Wait,
    /// `bytes` of a record may leave.
    Record,
    /// The same, and what the client says behind it may be encrypted.
    Change,
    /// A ClientHello in `bytes`: `message` bytes of it begin at `at`.
    Hello,
    /// What follows is encrypted.
    Over,
    /// It may not leave, for `reason`.
    Refuse,
}

/// The next record of a connection. Every field always has a value: what a variant of an enum leaves undefined, LLVM may
/// hand on and the verifier refuses to see read.
#[derive(Clone, Copy)]
pub struct Next {
    /// What is to be done.
    pub what: What,
    /// See [`What::Refuse`].
    pub reason: Reason,
    /// Bytes, those of all records that the ClientHello is in.
    pub bytes: u32,
    /// Where the ClientHello begins.
    pub at: u32,
    /// Its bytes.
    pub message: u32,
}

impl Next {
    #[inline(always)]
    const fn new(what: What, bytes: u32) -> Self {
        Self { what, reason: Reason::TlsMalformed, bytes, at: 0, message: 0 }
    }

    #[inline(always)]
    const fn refuse(reason: Reason) -> Self {
        Self { reason, ..Self::new(What::Refuse, 0) }
    }

    #[inline(always)]
    const fn hello(bytes: u32, at: u32, message: u32) -> Self {
        Self { at, message, ..Self::new(What::Hello, bytes) }
    }
}

/// A byte that was copied. Places beyond the room for it are others than meant, which a check of lengths must exclude.
#[inline(always)]
fn byte(hello: &Hello, at: u32) -> u8 {
    // SAFETY: within the array, as the mask sees to; volatile, or the compiler would drop the mask where it can
    // prove what the verifier cannot.
    unsafe { (&raw const hello.bytes).cast::<u8>().add(at as usize & (HELLO_BYTES - 1)).read_volatile() }
}

/// A 16-bit number.
#[inline(always)]
fn word(hello: &Hello, at: u32) -> u32 {
    u32::from(byte(hello, at)) << 8 | u32::from(byte(hello, at + 1))
}

/// A 24-bit number.
#[inline(always)]
fn triple(hello: &Hello, at: u32) -> u32 {
    u32::from(byte(hello, at)) << 16 | word(hello, at + 1)
}

/// Reads the next record of a connection that has yet to say a name (`first`) or has said one; `have` bytes of it are
/// there, which begin at `hello.judged`.
#[inline(always)]
pub fn next(hello: &mut Hello, scratch: &mut Scratch, first: bool, have: u32) -> Next {
    let start = hello.judged;
    // At once: who waits for an answer to three bytes of something else waits for ever.
    if first && byte(hello, start) != HANDSHAKE {
        return Next::refuse(Reason::TlsNot);
    }
    if have < RECORD_HEAD {
        return Next::new(What::Wait, RECORD_HEAD);
    }
    let kind = byte(hello, start);
    let len = word(hello, start + 3);
    if byte(hello, start + 1) != MAJOR {
        return Next::refuse(if first { Reason::TlsNot } else { Reason::TlsMalformed });
    }
    if len == 0 || len > MOST_FRAGMENT {
        return Next::refuse(Reason::TlsMalformed);
    }
    let record = RECORD_HEAD + len;
    match kind {
        APPLICATION_DATA => Next::new(What::Over, 0),
        CHANGE_CIPHER_SPEC | ALERT | HANDSHAKE if have < record => Next::new(What::Wait, record),
        CHANGE_CIPHER_SPEC => Next::new(What::Change, record),
        ALERT => Next::new(What::Record, record),
        HANDSHAKE => handshake(hello, scratch, first, have, record),
        _ => Next::refuse(Reason::TlsMalformed),
    }
}

/// A record with a handshake message, all of it there.
#[inline(always)]
fn handshake(hello: &mut Hello, scratch: &mut Scratch, first: bool, have: u32, record: u32) -> Next {
    let at = hello.judged + RECORD_HEAD;
    let len = record - RECORD_HEAD;
    // Behind a change of cipher it may as well be encrypted, and begin with any bytes: what is too long for a hello is none.
    // The version in it does not matter, not all servers look at it.
    let is_hello = byte(hello, at) == CLIENT_HELLO
        && (hello.stage != HELLO_CHANGED || len < 2 || byte(hello, at + 1) <= LONG_HELLO);
    if !is_hello {
        return match (first, hello.stage) {
            (true, _) => Next::refuse(Reason::TlsMalformed),
            (false, HELLO_CHANGED) => Next::new(What::Over, 0),
            (false, _) => Next::new(What::Record, record),
        };
    }
    if len >= MESSAGE_HEAD && MESSAGE_HEAD + triple(hello, at + 1) == len {
        return Next::hello(record, at, len);
    }
    // In several records, or more than a ClientHello in one, which nobody sends.
    if hello.judged + have > HELLO_HALF as u32 {
        return Next::refuse(Reason::TlsMalformed);
    }
    let mut places = Places { hello, scratch };
    scratch.at = 0;
    scratch.left = 0;
    scratch.end = 0;
    scratch.said_len = 0;
    scratch.found = found::OPEN;
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(have, put_together as *mut _, (&raw mut places).cast(), 0) };
    // SAFETY (of the block): fields of the scratch.
    let (found, end, left, at, bytes) = unsafe {
        (
            (&raw const scratch.found).read_volatile(),
            (&raw const scratch.end).read_volatile(),
            (&raw const scratch.left).read_volatile(),
            (&raw const scratch.at).read_volatile(),
            (&raw const scratch.flags).read_volatile(),
        )
    };
    match found {
        found::WHOLE => Next::hello(bytes, HELLO_HALF as u32, end),
        found::OPEN => {
            Next::new(What::Wait, have + if left != 0 { left } else { RECORD_HEAD.wrapping_sub(at) })
        }
        _ => Next::refuse(Reason::TlsMalformed),
    }
}

/// Where a loop reads and writes.
#[repr(C)]
struct Places {
    hello: *mut Hello,
    scratch: *mut Scratch,
}

/// Takes a byte of records that hold one handshake message; 1 when that is whole, or never will be.
extern "C" fn put_together(index: u32, places: *mut c_void) -> c_long {
    // SAFETY (of the block): `bpf_loop` hands through what it was given; fields of the scratch, which is this run's
    // alone, and of the storage, elements of whose array are taken as the masks see to.
    unsafe {
        let Places { hello, scratch } = *places.cast::<Places>();
        let byte = byte(&*hello, (*hello).judged.wrapping_add(index));
        let left = &raw mut (*scratch).left;
        let found = &raw mut (*scratch).found;
        let at = &raw mut (*scratch).at;
        if left.read_volatile() == 0 {
            let place = at.read_volatile();
            let right = match place {
                0 => byte == HANDSHAKE,
                1 => byte == MAJOR,
                _ => true,
            };
            if place == 3 {
                (&raw mut (*scratch).flags).write_volatile(byte.into());
            }
            if place == 4 {
                let len = (&raw const (*scratch).flags).read_volatile() << 8 | u32::from(byte);
                left.write_volatile(len);
                at.write_volatile(0);
                if len == 0 || len > MOST_FRAGMENT {
                    found.write_volatile(found::BROKEN);
                    return 1;
                }
            } else {
                at.write_volatile(place + 1);
            }
            if !right {
                found.write_volatile(found::BROKEN);
                return 1;
            }
            return 0;
        }
        let rest = left.read_volatile() - 1;
        left.write_volatile(rest);
        let end = (&raw const (*scratch).end).read_volatile();
        (&raw mut (*hello).bytes)
            .cast::<u8>()
            .add(HELLO_HALF + (end as usize & (HELLO_HALF - 1)))
            .write_volatile(byte);
        let end = end + 1;
        (&raw mut (*scratch).end).write_volatile(end);
        let whole = &raw mut (*scratch).said_len;
        if end == MESSAGE_HEAD {
            let len = MESSAGE_HEAD + triple(&*hello, HELLO_HALF as u32 + 1);
            whole.write_volatile(len);
            if len > HELLO_HALF as u32 {
                found.write_volatile(found::BROKEN);
                return 1;
            }
        }
        if end >= MESSAGE_HEAD && end == whole.read_volatile() {
            // Nothing may stand behind it in its last record.
            found.write_volatile(if rest == 0 { found::WHOLE } else { found::BROKEN });
            (&raw mut (*scratch).flags).write_volatile(index + 1);
            return 1;
        }
    }
    0
}

/// Set in the word that says what a ClientHello is; the rest is [`Scratch::flags`]. Else the word is the reason why not.
const READ: u64 = 1 << 16;

/// Reads a ClientHello of `len` bytes at `at`: where its name is and what else it has goes to the scratch.
///
/// # Errors
/// Why it may not leave, whatever its name is.
#[inline(always)]
pub fn client_hello(hello: &mut Hello, scratch: &mut Scratch, at: u32, len: u32) -> Result<u32, Reason> {
    let word = an_client_hello(hello, scratch, at, len);
    if word & READ != 0 {
        return Ok(word as u16 as u32);
    }
    // SAFETY: the code of a reason.
    Err(unsafe { reason(word) })
}

/// [`client_hello`], a function of its own to the kernel as well, see [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_client_hello(hello: *mut Hello, scratch: *mut Scratch, at: u32, len: u32) -> u64 {
    // SAFETY: null, or the caller's.
    let (Some(hello), Some(scratch)) = (unsafe { hello.as_mut() }, unsafe { scratch.as_mut() }) else {
        return Reason::TlsMalformed as u64;
    };
    match read_hello(hello, scratch, at, len) {
        Ok(flags) => READ | u64::from(flags),
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn read_hello(hello: &mut Hello, scratch: &mut Scratch, at: u32, len: u32) -> Result<u32, Reason> {
    let malformed = Err(Reason::TlsMalformed);
    let end = at + len;
    // Version and random.
    let mut at = at + MESSAGE_HEAD;
    if byte(hello, at) != MAJOR {
        return malformed;
    }
    at += 2 + 32;
    let session = u32::from(byte(hello, at));
    at += 1 + session;
    let suites = word(hello, at);
    at += 2 + suites;
    let compressions = u32::from(byte(hello, at));
    at += 1 + compressions;
    if session > 32 || suites < 2 || suites % 2 != 0 || compressions == 0 || at > end {
        return malformed;
    }
    scratch.flags = 0;
    scratch.said_len = 0;
    if at == end {
        return Ok(0);
    }
    if at + 2 > end || at + 2 + word(hello, at) != end {
        return malformed;
    }
    scratch.at = at + 2;
    scratch.end = end;
    scratch.found = found::OPEN;
    let scratch: *mut Scratch = scratch;
    let mut places = Places { hello, scratch };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(MOST_EXTENSIONS, take_extension as *mut _, (&raw mut places).cast(), 0) };
    // SAFETY: fields of the scratch.
    let (found, flags) = unsafe {
        ((&raw const (*scratch).found).read_volatile(), (&raw const (*scratch).flags).read_volatile())
    };
    if found == found::WHOLE { Ok(flags) } else { malformed }
}

/// Takes one extension; 1 when there is none left, or one is malformed.
extern "C" fn take_extension(_index: u32, places: *mut c_void) -> c_long {
    // SAFETY (of the block): as in `put_together`.
    unsafe {
        let Places { hello, scratch } = *places.cast::<Places>();
        let hello = &*hello;
        let at = (&raw const (*scratch).at).read_volatile();
        let end = (&raw const (*scratch).end).read_volatile();
        let found = &raw mut (*scratch).found;
        if at == end {
            found.write_volatile(found::WHOLE);
            return 1;
        }
        let (kind, size) = (word(hello, at) as u16, word(hello, at + 2));
        let body = at + 4;
        // Also where less than its head is left.
        if body + size > end {
            found.write_volatile(found::BROKEN);
            return 1;
        }
        let flags = &raw mut (*scratch).flags;
        let had = flags.read_volatile();
        let has = match kind {
            SERVER_NAME => {
                // A list of one name, of the only type there is.
                let len = word(hello, body + 3);
                let single = size > 5 && word(hello, body) + 2 == size && len + 5 == size;
                if !single || byte(hello, body + 2) != 0 || had & NAMED != 0 {
                    found.write_volatile(found::BROKEN);
                    return 1;
                }
                (&raw mut (*scratch).said_at).write_volatile(body + 5);
                (&raw mut (*scratch).said_len).write_volatile(len);
                NAMED
            }
            ENCRYPTED_HELLO | ENCRYPTED_NAME => ENCRYPTED,
            EARLY_DATA => EARLY,
            _ => 0,
        };
        flags.write_volatile(had | has);
        (&raw mut (*scratch).at).write_volatile(body + size);
    }
    0
}

/// Makes the scratch's key, length and hash of the name that the ClientHello says. Whether it is a host name: letters
/// of either case, digits, hyphens and underscores, in labels.
#[inline(always)]
pub fn said(hello: &mut Hello, scratch: &mut Scratch) -> bool {
    an_said(hello, scratch) != 0
}

/// [`said`], likewise: 1 if so, else 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_said(hello: *mut Hello, scratch: *mut Scratch) -> u64 {
    if hello.is_null() || scratch.is_null() {
        return 0;
    }
    let mut places = Places { hello, scratch };
    // SAFETY (of the block): the callbacks have the signature that the helper wants, and the context is of the type they
    // take; fields of the scratch.
    unsafe {
        let len = (&raw const (*scratch).said_len).read_volatile();
        if len == 0 || len > MOST_NAME {
            return 0;
        }
        (&raw mut (*scratch).left).write_volatile(0);
        (&raw mut (*scratch).found).write_volatile(found::OPEN);
        bpf_loop(len, take_character as *mut _, (&raw mut places).cast(), 0);
        let left = (&raw const (*scratch).left).read_volatile();
        if (&raw const (*scratch).found).read_volatile() != found::OPEN || left == 0 || left > MOST_LABEL {
            return 0;
        }
        (&raw mut (*scratch).key).cast::<u8>().add(KEY_END - 1).write_volatile(left as u8 | LABEL_END);
        (&raw mut (*scratch).name_len).write_volatile(len + 1);
        (&raw mut (*scratch).hash).write_volatile(NameHash::EMPTY.0);
        bpf_loop(len + 1, hash_byte as *mut _, (&raw mut places).cast(), 0);
    }
    1
}

/// Takes one character of the name, from the last on; 1 when it is none of a host name.
extern "C" fn take_character(index: u32, places: *mut c_void) -> c_long {
    // SAFETY (of the block): as in `put_together`.
    unsafe {
        let Places { hello, scratch } = *places.cast::<Places>();
        let len = (&raw const (*scratch).said_len).read_volatile();
        let first = (&raw const (*scratch).said_at).read_volatile();
        let character = byte(&*hello, first.wrapping_add(len).wrapping_sub(1).wrapping_sub(index));
        let left = &raw mut (*scratch).left;
        let label = left.read_volatile();
        let out = match character.to_ascii_lowercase() {
            b'.' if label != 0 && label <= MOST_LABEL => {
                left.write_volatile(0);
                label as u8 | LABEL_END
            }
            character @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => {
                left.write_volatile(label + 1);
                character
            }
            _ => {
                (&raw mut (*scratch).found).write_volatile(found::BROKEN);
                return 1;
            }
        };
        let place = (KEY_END as u32).wrapping_sub(len + 1).wrapping_add(index) as usize & 511;
        (&raw mut (*scratch).key).cast::<u8>().add(place).write_volatile(out);
    }
    0
}

/// Hashes one byte of the key, from its end on.
extern "C" fn hash_byte(index: u32, places: *mut c_void) -> c_long {
    // SAFETY (of the block): as in `put_together`.
    unsafe {
        let Places { scratch, .. } = *places.cast::<Places>();
        let place = (KEY_END as u32 - 1).wrapping_sub(index) as usize & 511;
        let byte = (&raw const (*scratch).key).cast::<u8>().add(place).read_volatile();
        let hash = NameHash((&raw const (*scratch).hash).read_volatile());
        (&raw mut (*scratch).hash).write_volatile(hash.with(byte).0);
    }
    0
}
