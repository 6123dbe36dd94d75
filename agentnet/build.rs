//! Embeds the kernel object that `cargo xtask build` made.
//!
//! `AGENTNET_EBPF_OBJECT` names it and `AGENTNET_EBPF_SHA256` must match. Without them an empty stub takes
//! its place, so that `cargo check`, clippy, the unit tests and the documentation need no eBPF toolchain;
//! the library refuses to load a stub.

use std::{env, error::Error, fs, path::PathBuf};

use sha2::{Digest as _, Sha256};

const OBJECT: &str = "AGENTNET_EBPF_OBJECT";
const SHA256: &str = "AGENTNET_EBPF_SHA256";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed={SHA256}");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?).join("agentnet.bpf.o");
    let Some(path) = env::var_os(OBJECT).map(PathBuf::from) else {
        fs::write(out, [])?;
        println!("cargo::rustc-env={SHA256}=stub");
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", path.display());
    let object = fs::read(&path).map_err(|error| format!("{OBJECT}={}: {error}", path.display()))?;
    let actual: String = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = env::var(SHA256).map_err(|_| format!("{OBJECT} is set, {SHA256} is not: set it to {actual} if you trust the object"))?;
    if expected != actual {
        return Err(format!("{}: SHA-256 is {actual}, {SHA256} says {expected}", path.display()).into());
    }
    fs::write(out, object)?;
    println!("cargo::rustc-env={SHA256}={actual}");
    Ok(())
}
