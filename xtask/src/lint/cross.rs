//! The user side must compile for [`CROSS_TARGET`], whatever the host is.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, bail};

use super::Outcome;
use crate::{
    command::{self, live, which},
    progress::Steps,
    setup,
    toolchain::{CROSS_TARGET, DEBIAN_CARGO, DEBIAN_RUSTC, MIN_RUST, RUST_SRC, RUSTC_WEB, Rustc},
    workspace,
};

/// Type-checks agentnet for [`CROSS_TARGET`]: with the target's own standard library where the host's
/// toolchain has it, else with Debian's compiler, which checks the library's source along with ours.
pub(super) fn check() -> Result<Outcome> {
    let host = workspace::rustc();
    if has_target(&host)? {
        live(workspace::cargo("check").args([
            "--locked",
            "--package",
            "agentnet",
            "--target",
            CROSS_TARGET,
        ]))?;
        return Ok(Outcome::Passed);
    }
    let debian = Rustc::probe(&mut Command::new(DEBIAN_RUSTC)).map(|rustc| rustc.version);
    let Some(version) = debian.filter(|version| *version >= MIN_RUST) else {
        return Ok(Outcome::Skipped(format!(
            "{} has no standard library for {CROSS_TARGET}: rustup target add {CROSS_TARGET}",
            host.display()
        )));
    };
    if !has_library(version)
        && let Err(error) = install_library()
    {
        return Ok(Outcome::Skipped(format!("{error:#}")));
    }
    if !has_library(version) {
        return Ok(Outcome::Skipped(format!(
            "{} is not of the version of {DEBIAN_RUSTC}: apt-get install {} {}",
            RUST_SRC.name, RUSTC_WEB.name, RUST_SRC.name
        )));
    }
    let mut cargo = Command::new(DEBIAN_CARGO);
    command::without_rust_settings(&mut cargo);
    cargo
        .args(["check", "-Zbuild-std=std,panic_abort", "--locked", "--package", "agentnet"])
        .args(["--target", CROSS_TARGET, "--target-dir"])
        // Another compiler than that of the host side: neither is to throw away what the other built.
        .arg(workspace::target_dir()?.join("cross"))
        .env("RUSTC", DEBIAN_RUSTC)
        // For `-Zbuild-std`, which a stable compiler has as well.
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(workspace::root());
    live(&mut cargo)?;
    Ok(Outcome::Passed)
}

fn has_target(rustc: &Path) -> Result<bool> {
    let libdir =
        command::output(Command::new(rustc).args(["--print", "target-libdir", "--target", CROSS_TARGET]))?;
    Ok(Path::new(libdir.trim()).is_dir())
}

fn install_library() -> Result<()> {
    if which("apt-get").is_none() {
        bail!("no source of the standard library of {DEBIAN_RUSTC}, which Debian has in {}", RUST_SRC.name);
    }
    setup::install(&[&RUST_SRC], None, Steps::new("setup", 1).start("source of the standard library"))
}

/// Whether the source of the standard library of Debian's compiler is there, and of that version.
fn has_library((major, minor): (u32, u32)) -> bool {
    let Ok(sysroot) = command::output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"])) else {
        return false;
    };
    // A link to `/usr/src/rustc-1.96.0`: the package is not tied to the version of the compiler.
    fs::canonicalize(Path::new(sysroot.trim()).join("lib/rustlib/src/rust")).is_ok_and(|source| {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("rustc-{major}.{minor}.")) && source.join("library/Cargo.lock").exists()
    })
}
