//! Stack depth, read off the instructions: the verifier only tells it in its log.

use std::collections::HashMap;

use aya_obj::{Object, ParseError, generated::bpf_insn};

/// The frame pointer.
const R10: u8 = 10;
/// `rX = rY`, 64-bit (`BPF_ALU64 | BPF_MOV | BPF_X`).
const MOV64_X: u8 = 0xbf;
/// `rX += imm`, 64-bit (`BPF_ALU64 | BPF_ADD | BPF_K`).
const ADD64_K: u8 = 0x07;
/// Classes `LDX`, `ST` and `STX` have 1 to 3 in the low three bits.
const CLASS: u8 = 0x07;

/// Deepest frame of each function by name, in bytes. The object's programs call nothing but aya-ebpf's
/// memset and memcpy, which need no frame.
pub(super) fn depths(object: &[u8]) -> Result<HashMap<String, u32>, ParseError> {
    let object = Object::parse(object)?;
    Ok(object
        .functions
        .values()
        .map(|function| (function.name.clone(), depth(&function.instructions)))
        .collect())
}

fn depth(instructions: &[bpf_insn]) -> u32 {
    // Registers that hold the frame pointer at the moment; straight-line knowledge is enough, because LLVM
    // derives stack addresses anew (`rX = r10; rX += -n`) where it needs them.
    let mut frame = [false; 16];
    frame[usize::from(R10)] = true;
    let mut deepest = 0;
    for instruction in instructions {
        let (dst, src) = (usize::from(instruction.dst_reg() & 15), usize::from(instruction.src_reg() & 15));
        match instruction.code {
            MOV64_X => frame[dst] = frame[src],
            ADD64_K if frame[dst] => {
                deepest = deepest.max(reach(instruction.imm));
                frame[dst] = false;
            }
            code => match code & CLASS {
                1 if frame[src] => deepest = deepest.max(reach(instruction.off.into())),
                2 | 3 if frame[dst] => deepest = deepest.max(reach(instruction.off.into())),
                _ => {}
            },
        }
    }
    deepest
}

const fn reach(offset: i32) -> u32 {
    if offset < 0 { offset.unsigned_abs() } else { 0 }
}
