//! Instructions of the probing programs (RFC 9669). Each does for real what agentnet's own programs do: that
//! a helper exists says little, that the verifier lets this kind of program use it says all.

use std::os::fd::{AsRawFd as _, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

/// One instruction.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Opcodes, RFC 9669 appendix A.
const ADD_IMM: u8 = 0x07;
const JEQ_IMM: u8 = 0x15;
const LOAD_IMM64: u8 = 0x18;
const STORE_W: u8 = 0x62;
const LOAD_DW: u8 = 0x79;
const STORE_DW: u8 = 0x7a;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const MOV_IMM: u8 = 0xb7;
const MOV: u8 = 0xbf;

/// The source register says that the immediate is the descriptor of a map.
const PSEUDO_MAP_FD: u8 = 1;

/// The frame pointer.
const FP: u8 = 10;
/// Keeps the context over calls.
const CTX: u8 = 6;

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    let registers = if cfg!(target_endian = "little") { src << 4 | dst } else { dst << 4 | src };
    Insn { code, registers, offset, immediate }
}

const fn mov(dst: u8, src: u8) -> Insn {
    insn(MOV, dst, src, 0, 0)
}

const fn set(dst: u8, value: i32) -> Insn {
    insn(MOV_IMM, dst, 0, 0, value)
}

const fn call(helper: i32) -> Insn {
    insn(CALL, 0, 0, 0, helper)
}

/// `dst` = the address `offset` bytes from the frame pointer.
const fn stack(dst: u8, offset: i32) -> [Insn; 2] {
    [mov(dst, FP), insn(ADD_IMM, dst, 0, 0, offset)]
}

/// `dst` = a map.
fn map(dst: u8, map: &OwnedFd) -> [Insn; 2] {
    [insn(LOAD_IMM64, dst, PSEUDO_MAP_FD, 0, map.as_raw_fd()), insn(0, 0, 0, 0, 0)]
}

/// Jumps over `body` if `register` is 0.
fn unless_zero(register: u8, body: Vec<Insn>) -> Vec<Insn> {
    let length = i16::try_from(body.len()).unwrap_or(i16::MAX);
    std::iter::once(insn(JEQ_IMM, register, 0, length, 0)).chain(body).collect()
}

/// Where a program finds its socket.
#[derive(Clone, Copy)]
pub(super) enum Socket {
    /// At this offset of the context, possibly null, possibly not a whole socket.
    Any(i16),
    /// At this offset of the context, possibly null.
    Whole(i16),
    /// It is the context.
    Context,
}

/// The maps that the probing programs use; what could not be made is missing.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) cgroup_storage: Option<OwnedFd>,
    pub(super) socket_storage: Option<OwnedFd>,
    /// An array of tries with [`TRIE_KEY_BYTES`] of key.
    pub(super) tries: Option<OwnedFd>,
    pub(super) ring: Option<OwnedFd>,
}

/// Key of the tries, the largest there is: 4 bytes for the length of the prefix and 256 of data.
pub(super) const TRIE_KEY_BYTES: u32 = 260;

/// One thing that a program of agentnet does.
#[derive(Clone, Copy)]
pub(super) enum Use {
    /// Reads who is governed, by the cgroup the program is attached to.
    CgroupStorage,
    /// Remembers something with a socket.
    SocketStorage(Socket),
    /// Looks up a TCP listener.
    TcpLookup,
    /// Looks up a UDP socket.
    UdpLookup,
    /// Looks up in a trie within an array.
    Tries,
    /// Writes to a ring buffer.
    Ring,
    /// Takes the pid, user and name of the current process.
    Process,
    /// Reads memory of the kernel: where a hook is told too little.
    KernelMemory,
    /// Reads the clock.
    Clock,
    /// Asks for the socket's cookie.
    Cookie,
    /// Reads the packet.
    Packet,
    /// Chooses the errno that the system call returns.
    ReturnValue,
    /// Asks to be told of a connection's end.
    StateCallback,
}

impl Use {
    /// Names of the helpers, for messages.
    pub(super) const fn helpers(self) -> &'static str {
        match self {
            Self::CgroupStorage => "bpf_get_local_storage",
            Self::SocketStorage(_) => "bpf_sk_storage_get",
            Self::TcpLookup => "bpf_sk_lookup_tcp",
            Self::UdpLookup => "bpf_sk_lookup_udp",
            Self::Tries => "lookup in a trie of an array of maps",
            Self::Ring => "bpf_ringbuf_output",
            Self::Process => "bpf_get_current_pid_tgid, _uid_gid or _comm",
            Self::KernelMemory => "bpf_probe_read_kernel",
            Self::Clock => "bpf_ktime_get_ns",
            Self::Cookie => "bpf_get_socket_cookie",
            Self::Packet => "bpf_skb_load_bytes",
            Self::ReturnValue => "bpf_set_retval",
            Self::StateCallback => "bpf_sock_ops_cb_flags_set",
        }
    }

    /// The instructions; `None` if the map they take is missing.
    fn emit(self, maps: &Maps) -> Option<Vec<Insn>> {
        let lookup = |helper| {
            // An all-zero `struct bpf_sock_tuple` of IPv4, which is 12 bytes long.
            let tuple = [insn(STORE_DW, FP, 0, -16, 0), insn(STORE_W, FP, 0, -8, 0), mov(1, CTX)];
            let rest = [set(3, 12), set(4, -1), set(5, 0), call(helper)];
            let release = unless_zero(0, vec![mov(1, 0), call(86)]);
            [tuple.as_slice(), &stack(2, -16), &rest, &release].concat()
        };
        // Helper numbers: `___BPF_FUNC_MAPPER`, include/uapi/linux/bpf.h.
        Some(match self {
            Self::CgroupStorage => [
                &map(1, maps.cgroup_storage.as_ref()?)[..],
                &[set(2, 0), call(81), insn(LOAD_DW, 1, 0, 0, 0)],
            ]
            .concat(),
            Self::SocketStorage(socket) => {
                let create = [set(3, 0), set(4, 1), call(107)];
                let get = [&map(1, maps.socket_storage.as_ref()?)[..], &create].concat();
                match socket {
                    Socket::Context => [vec![mov(2, CTX)], get].concat(),
                    Socket::Whole(offset) => {
                        [vec![insn(LOAD_DW, 2, CTX, offset, 0)], unless_zero(2, get)].concat()
                    }
                    Socket::Any(offset) => {
                        let whole = unless_zero(0, [vec![mov(2, 0)], get].concat());
                        let any = [vec![mov(1, 2), call(95)], whole].concat();
                        [vec![insn(LOAD_DW, 2, CTX, offset, 0)], unless_zero(2, any)].concat()
                    }
                }
            }
            Self::TcpLookup => lookup(84),
            Self::UdpLookup => lookup(85),
            Self::Tries => {
                let words = (-33..0).map(|word: i16| insn(STORE_DW, FP, 0, word * 8, 0)).collect::<Vec<_>>();
                let in_array = [&map(1, maps.tries.as_ref()?)[..], &stack(2, -8), &[call(1)]].concat();
                let in_trie = [&[mov(1, 0)][..], &stack(2, -33 * 8), &[call(1)]].concat();
                [words, in_array, unless_zero(0, in_trie)].concat()
            }
            Self::Ring => {
                let record = [insn(STORE_DW, FP, 0, -8, 0), set(3, 8), set(4, 0)];
                [&record[..], &map(1, maps.ring.as_ref()?), &stack(2, -8), &[call(130)]].concat()
            }
            Self::Process => [&[call(14), call(15)][..], &stack(1, -16), &[set(2, 16), call(16)]].concat(),
            Self::KernelMemory => [&stack(1, -8)[..], &[set(2, 8), mov(3, CTX), call(113)]].concat(),
            Self::Clock => vec![call(5)],
            Self::Cookie => vec![mov(1, CTX), call(46)],
            Self::Packet => [&[mov(1, CTX), set(2, 0), set(4, 8)][..], &stack(3, -8), &[call(26)]].concat(),
            Self::ReturnValue => vec![set(1, -libc::EPERM), call(187)],
            Self::StateCallback => vec![mov(1, CTX), set(2, 1 << 2), call(59)],
        })
    }
}

/// A program that does all of `uses` and returns 1, which lets through whatever it is asked about; `None` if
/// a map is missing.
pub(super) fn assemble(uses: &[Use], maps: &Maps) -> Option<Vec<Insn>> {
    let mut program = vec![mov(CTX, 1)];
    for one in uses {
        program.extend(one.emit(maps)?);
    }
    program.extend([set(0, 1), insn(EXIT, 0, 0, 0, 0)]);
    Some(program)
}
