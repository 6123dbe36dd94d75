//! What the verifier thinks of every program: its first review.

use serde::{Deserialize, Serialize};

use super::{
    KernelError,
    links::HOOKS,
    object::load_for_inspection,
};

/// One program as the kernel holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgramReport {
    /// Its name.
    pub name: String,
    /// What it guards.
    pub door: String,
    /// Instructions the verifier walked through, its budget being a million.
    pub verified_instructions: u32,
    /// Instructions of the program, eight bytes each.
    pub instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
}

/// Loads every program and reports on each; nothing is attached.
///
/// # Errors
/// When the object or one of its programs cannot be loaded.
pub fn verify_all() -> Result<Vec<ProgramReport>, KernelError> {
    let object = load_for_inspection()?;
    HOOKS
        .iter()
        .map(|hook| {
            let missing = || KernelError::NoProgram { program: hook.program };
            let info = object.program(hook.program).ok_or_else(missing)?.info().map_err(|source| {
                KernelError::Load { program: hook.program, source: Box::new(source) }
            })?;
            Ok(ProgramReport {
                name: hook.program.to_owned(),
                door: hook.door.to_owned(),
                verified_instructions: info.verified_instruction_count().unwrap_or(0),
                instructions: info.size_translated().unwrap_or(0) / 8,
                jited_bytes: info.size_jitted(),
            })
        })
        .collect()
}
