//! DNS messages (RFC 1035): queries that may leave, and the questions of answers.
//!
//! A query has to be of the plainest kind, because every freedom in it carries data: one question of a known type in
//! class IN, a name of lower-case letters, digits, hyphens and underscores, no other records but EDNS with a cookie or
//! zeros, and nothing behind its end.

use core::ffi::{c_long, c_void};

use agentnet_common::{
    abi::{KEY_END, QUERY_BYTES, Scratch},
    name::{KEY_BYTES, LABEL_END, NameHash},
    verdict::Reason,
};
use aya_ebpf::helpers::generated::bpf_loop;

use crate::tables::reason;

/// Bytes of a header (RFC 1035, 4.1.1).
pub const HEADER: usize = 12;
/// Longest name on the wire without the root (RFC 1035, 2.3.4).
const NAME: u32 = 254;
/// Most bytes of a label (RFC 1035, 2.3.4).
const LABEL: u8 = 63;
/// Class IN.
const IN: u16 = 1;
/// The pseudo-record of EDNS (RFC 6891, 6.1).
const OPT: u16 = 41;
/// Bytes of that record without its options.
const OPT_HEAD: usize = 11;
/// EDNS options that are read: a cookie and padding, and room for one that is refused.
const OPTIONS: usize = 3;
/// EDNS cookies (RFC 7873, 4).
const COOKIE: u16 = 10;
/// EDNS padding (RFC 7830).
const PADDING: u16 = 12;
/// Most padding of a query: RFC 8467 pads to multiples of 128.
const MOST_PADDING: usize = 128;

/// A byte of the message; 0 beyond the room for it, which a check of the length must exclude.
#[inline(always)]
fn byte(scratch: &Scratch, at: usize) -> u8 {
    // SAFETY: within the array, as the mask sees to; volatile, or the compiler would drop the mask where it can
    // prove what the verifier cannot.
    unsafe { (&raw const scratch.message).cast::<u8>().add(at & (QUERY_BYTES - 1)).read_volatile() }
}

/// A 16-bit number of the message.
#[inline(always)]
fn word(scratch: &Scratch, at: usize) -> u16 {
    u16::from(byte(scratch, at)) << 8 | u16::from(byte(scratch, at + 1))
}

/// Identifier of the message.
#[inline(always)]
pub fn id(scratch: &Scratch) -> u16 {
    word(scratch, 0)
}

/// Flags of the message (RFC 1035, 4.1.1; RFC 4035, 3.1.6 and 3.2).
#[inline(always)]
pub fn flags(scratch: &Scratch) -> u16 {
    word(scratch, 2)
}

/// How many records of the section with this index, from 0: questions, answers, authorities, additional.
#[inline(always)]
pub fn count(scratch: &Scratch, section: usize) -> u16 {
    word(scratch, 4 + 2 * section)
}

/// The question of a message, whose name is in the scratch.
#[derive(Clone, Copy)]
pub struct Question {
    /// Its type.
    pub kind: u16,
    /// Where the message goes on.
    pub end: usize,
}

/// What became of a name.
mod name {
    /// It goes on, or is cut off.
    pub const OPEN: u32 = 0;
    /// It ended with the root.
    pub const WHOLE: u32 = 1;
    /// It has upper-case letters.
    pub const CASE: u32 = 2;
    /// It has a byte or a length that no host name has.
    pub const BROKEN: u32 = 3;
}

/// Takes one byte of a name; 1 when there is nothing more to take.
///
/// A loop of its own, with its state in the map's memory: the verifier walks it a few times instead of 255.
extern "C" fn take(index: u32, scratch: *mut c_void) -> c_long {
    let scratch = scratch.cast::<*mut Scratch>();
    // SAFETY (of the block): `bpf_loop` hands through what it was given; fields of the scratch, which is this run's
    // alone, and elements of its arrays below their lengths, as the masks see to.
    unsafe {
        let scratch = *scratch;
        let at = HEADER + index as usize;
        let byte = (&raw const (*scratch).message).cast::<u8>().add(at & (QUERY_BYTES - 1)).read_volatile();
        let left = (&raw const (*scratch).left).read_volatile();
        let out = if left == 0 {
            if byte == 0 {
                (&raw mut (*scratch).name_len).write_volatile(index);
                (&raw mut (*scratch).found).write_volatile(name::WHOLE);
                return 1;
            }
            if byte > LABEL {
                (&raw mut (*scratch).found).write_volatile(name::BROKEN);
                return 1;
            }
            (&raw mut (*scratch).left).write_volatile(byte.into());
            byte | LABEL_END
        } else {
            if byte.is_ascii_uppercase() {
                (&raw mut (*scratch).found).write_volatile(name::CASE);
                return 1;
            }
            if !byte.is_ascii_lowercase() && !byte.is_ascii_digit() && byte != b'-' && byte != b'_' {
                (&raw mut (*scratch).found).write_volatile(name::BROKEN);
                return 1;
            }
            (&raw mut (*scratch).left).write_volatile(left - 1);
            byte
        };
        let hash = NameHash((&raw const (*scratch).hash).read_volatile());
        (&raw mut (*scratch).hash).write_volatile(hash.with(out).0);
        let place = (KEY_END - 1).wrapping_sub(index as usize) & 511;
        (&raw mut (*scratch).key).cast::<u8>().add(place).write_volatile(out);
    }
    0
}

/// Reads the name behind the header into the scratch's key, and hashes it.
#[inline(always)]
fn name(scratch: &mut Scratch, len: usize) -> Result<(), Reason> {
    scratch.left = 0;
    scratch.found = name::OPEN;
    scratch.hash = NameHash::EMPTY.0;
    let most = (len - HEADER).min(NAME as usize + 1) as u32;
    let mut place: *mut Scratch = scratch;
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(most, take as *mut _, (&raw mut place).cast(), 0) };
    // SAFETY: a field of the scratch.
    match unsafe { (&raw const (*place).found).read_volatile() } {
        // The root alone is no name of anybody's.
        name::WHOLE if scratch.name_len != 0 => Ok(()),
        name::CASE => Err(Reason::DnsCase),
        _ => Err(Reason::DnsMalformed),
    }
}

#[inline(always)]
fn read_question(scratch: &mut Scratch, len: usize) -> Result<Question, Reason> {
    if len < HEADER || count(scratch, 0) != 1 {
        return Err(Reason::DnsMalformed);
    }
    name(scratch, len)?;
    let at = HEADER + scratch.name_len as usize + 1;
    if at + 4 > len {
        return Err(Reason::DnsMalformed);
    }
    if word(scratch, at + 2) != IN {
        return Err(Reason::DnsType);
    }
    Ok(Question { kind: word(scratch, at), end: at + 4 })
}

/// The key of the name in the scratch, its length in bits before it.
#[inline(always)]
pub fn key(scratch: &Scratch) -> *const u8 {
    let len = scratch.name_len as usize & 0xff;
    let start = (KEY_END - 4 - len.min(NAME as usize)) & 511;
    // SAFETY: within the array: KEY_BYTES and four more fit behind every start.
    unsafe { (&raw const scratch.key).cast::<u8>().add(start) }
}

/// Zeros, a multiple of eight bytes from the beginning of the scratch: nothing is ever written behind the ends of keys.
#[inline(always)]
pub fn zeros<T>(scratch: &Scratch) -> *const T {
    const START: usize = KEY_END.next_multiple_of(8);
    const {
        assert!(START + size_of::<T>() <= KEY_END + KEY_BYTES && core::mem::offset_of!(Scratch, key) % 8 == 0)
    };
    // SAFETY: within the array.
    unsafe { (&raw const scratch.key).cast::<u8>().add(START).cast() }
}

/// Writes the length of the key before it.
#[inline(always)]
pub fn close_key(scratch: &mut Scratch) {
    let bits = scratch.name_len * 8;
    let start = key(scratch).cast_mut();
    // SAFETY: as for `key`.
    unsafe { start.cast::<u32>().write_unaligned(bits) };
}

const _: () = assert!(KEY_END + KEY_BYTES <= 1024 && KEY_END >= NAME as usize + 4);

/// Types that a query may ask for (IANA, "Resource Record (RR) TYPEs"): A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, LOC, SRV,
/// NAPTR, DS, SSHFP, DNSKEY, TLSA, CAA. Not HTTPS and SVCB, whose answers bring ECH and HTTP/3, nor those that only
/// tunnels and zone transfers ask for.
const fn is_known(kind: u16) -> bool {
    matches!(kind, 1 | 2 | 5 | 6 | 12 | 15 | 16 | 28 | 29 | 33 | 35 | 43 | 44 | 48 | 52 | 257)
}

/// Set in the word that says what was read; the rest is the question's type, and where the message goes on from bit 32.
/// Else the word is the reason why not.
const READ: u64 = 1 << 16;

const fn encode(read: Result<Question, Reason>) -> u64 {
    match read {
        Ok(question) => READ | question.kind as u64 | (question.end as u64) << 32,
        Err(reason) => reason as u64,
    }
}

const fn decode(word: u64) -> Result<Question, Reason> {
    if word & READ != 0 {
        return Ok(Question { kind: word as u16, end: (word >> 32) as usize });
    }
    // SAFETY: the code of a reason.
    Err(unsafe { reason(word) })
}

/// Reads the question of a message of `len` bytes, which the scratch holds.
///
/// # Errors
/// Why it is none that a plain query has.
#[inline(always)]
pub fn question(scratch: &mut Scratch, len: u32) -> Result<Question, Reason> {
    decode(an_question(scratch, len))
}

/// Reads a query of `len` bytes, which the scratch holds.
///
/// # Errors
/// Why it may not leave, whatever it asks for.
#[inline(always)]
pub fn query(scratch: &mut Scratch, len: u32) -> Result<Question, Reason> {
    decode(an_query(scratch, len))
}

/// [`question`], a function of its own to the kernel as well, see [`crate::tables::an_decide`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_question(scratch: *mut Scratch, len: u32) -> u64 {
    // SAFETY: null, or the caller's.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return Reason::DnsRoom as u64 };
    encode(read_question(scratch, len as usize))
}

/// [`query`], likewise.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn an_query(scratch: *mut Scratch, len: u32) -> u64 {
    // SAFETY: null, or the caller's.
    let Some(scratch) = (unsafe { scratch.as_mut() }) else { return Reason::DnsRoom as u64 };
    encode(read_query(scratch, len as usize))
}

#[inline(always)]
fn read_query(scratch: &mut Scratch, len: usize) -> Result<Question, Reason> {
    // Recursion desired, authentic data, checking disabled: nothing else is set in a query.
    if len < HEADER || flags(scratch) & !0x0130 != 0 {
        return Err(Reason::DnsMalformed);
    }
    if count(scratch, 1) != 0 || count(scratch, 2) != 0 || count(scratch, 3) > 1 {
        return Err(Reason::DnsMalformed);
    }
    let question = read_question(scratch, len)?;
    if !is_known(question.kind) {
        return Err(Reason::DnsType);
    }
    if count(scratch, 3) == 0 {
        return if question.end == len { Ok(question) } else { Err(Reason::DnsMalformed) };
    }
    edns(scratch, question.end, len)?;
    Ok(question)
}

/// The record of EDNS at `at`, which has to be the last of `len` bytes.
#[inline(always)]
fn edns(scratch: &mut Scratch, at: usize, len: usize) -> Result<(), Reason> {
    if at + OPT_HEAD > len || byte(scratch, at) != 0 || word(scratch, at + 1) != OPT {
        return Err(Reason::DnsMalformed);
    }
    // Version 0, and of the flags only DO (RFC 3225).
    if word(scratch, at + 5) != 0 || word(scratch, at + 7) & 0x7fff != 0 {
        return Err(Reason::DnsOption);
    }
    if at + OPT_HEAD + word(scratch, at + 9) as usize != len {
        return Err(Reason::DnsMalformed);
    }
    let state: *mut Scratch = scratch;
    let mut padding = (0, 0);
    // SAFETY (of the block): a field of the scratch, which is this run's alone.
    unsafe {
        (&raw mut (*state).at).write_volatile((at + OPT_HEAD) as u32);
        for _ in 0..OPTIONS {
            let at = (&raw const (*state).at).read_volatile() as usize & 0xffff;
            if at == len {
                break;
            }
            if at + 4 > len {
                return Err(Reason::DnsMalformed);
            }
            let (code, size) = (word(&*state, at), word(&*state, at + 2) as usize);
            match code {
                COOKIE if size == 8 || (16..=40).contains(&size) => {}
                PADDING if size <= MOST_PADDING && padding.1 == 0 => padding = (at + 4, size),
                _ => return Err(Reason::DnsOption),
            }
            (&raw mut (*state).at).write_volatile((at + 4 + size) as u32);
        }
        if (&raw const (*state).at).read_volatile() as usize != len {
            return Err(Reason::DnsOption);
        }
    }
    let mut zeros = Zeros { scratch, at: padding.0 as u32, all: 1 };
    // SAFETY: the callback has the signature that the helper wants, and the context is of the type it takes.
    unsafe { bpf_loop(padding.1 as u32, is_zero as *mut _, (&raw mut zeros).cast(), 0) };
    if zeros.all == 1 { Ok(()) } else { Err(Reason::DnsOption) }
}

/// A look at padding.
#[repr(C)]
struct Zeros {
    scratch: *const Scratch,
    at: u32,
    /// 1 as long as there were only zeros.
    all: u32,
}

/// Looks at one byte; 1 when it is none. A loop of its own, so that the verifier walks it once.
extern "C" fn is_zero(index: u32, zeros: *mut c_void) -> c_long {
    // SAFETY: `bpf_loop` hands through what it was given, which lives as long as the loop.
    let zeros = unsafe { &mut *zeros.cast::<Zeros>() };
    // SAFETY: as above.
    if byte(unsafe { &*zeros.scratch }, (zeros.at + index) as usize) != 0 {
        zeros.all = 0;
        return 1;
    }
    0
}
