//! Puts the kernel programs where the library embeds them: `$OUT_DIR/agentnet.bpf.o`.
//!
//! `cargo xtask build` compiles them and names the object in `AGENTNET_EBPF_OBJECT`, its SHA-256 in
//! `AGENTNET_EBPF_SHA256`; a packager can do the same with an object of a release. Without the variable the
//! file is an empty stub, `AGENTNET_EBPF_SHA256` is `stub` to the library, and the library refuses to load it:
//! checking, linting, documentation and unit tests need no eBPF toolchain.

use std::{env, fs, path::PathBuf, process::ExitCode};

use sha2::{Digest, Sha256};

/// Variable that names the object.
const OBJECT: &str = "AGENTNET_EBPF_OBJECT";
/// Variable with its SHA-256; also what the library is told.
const SHA256: &str = "AGENTNET_EBPF_SHA256";
/// `e_machine` of eBPF, little-endian (elf.h, `EM_BPF`), at its place in the ELF header.
const EM_BPF: [u8; 2] = 247_u16.to_le_bytes();
const E_MACHINE: std::ops::Range<usize> = 18..20;

fn main() -> ExitCode {
    for variable in [OBJECT, SHA256] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    match embed() {
        Ok(sha256) => {
            println!("cargo::rustc-env={SHA256}={sha256}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the object and returns its hash, `stub` where there is none.
fn embed() -> Result<String, String> {
    let (object, sha256) = match env::var_os(OBJECT).filter(|path| !path.is_empty()) {
        Some(path) => checked(&PathBuf::from(path))?,
        None => (Vec::new(), "stub".to_owned()),
    };
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    let path = PathBuf::from(out_dir).join("agentnet.bpf.o");
    fs::write(&path, object).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(sha256)
}

fn checked(path: &PathBuf) -> Result<(Vec<u8>, String), String> {
    println!("cargo::rerun-if-changed={}", path.display());
    let object =
        fs::read(path).map_err(|error| format!("{OBJECT}: cannot read {}: {error}", path.display()))?;
    if object.get(..4) != Some(b"\x7fELF".as_slice()) || object.get(E_MACHINE) != Some(EM_BPF.as_slice()) {
        return Err(format!("{OBJECT}: {} is no eBPF object", path.display()));
    }
    let actual: String = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = env::var(SHA256).map_err(|_| {
        format!("{OBJECT} is set without {SHA256}: set it to the SHA-256 that came with the object")
    })?;
    if !expected.eq_ignore_ascii_case(&actual) {
        return Err(format!(
            "{} is not the expected object: its SHA-256 is {actual}, {SHA256} says {expected}",
            path.display()
        ));
    }
    Ok((object, actual))
}
