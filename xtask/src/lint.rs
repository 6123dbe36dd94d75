//! `cargo xtask lint`: everything that can be said about the sources without running agentnet.

mod cross;
pub(crate) mod deny;

use std::{ffi::OsStr, fs, io::Read, os::unix::ffi::OsStrExt, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    build::ebpf_cargo,
    command::{self, live, succeeds, which},
    progress::Steps,
    setup,
    toolchain::{self, DEBIAN_CLIPPY, EBPF_BIN, Ebpf, Vendor},
    workspace::{self, EBPF_DIR, root},
};

/// How a check ended, where it did not fail.
enum Outcome {
    Passed,
    /// It could not be made here, and why.
    Skipped(String),
}

use Outcome::{Passed, Skipped};

type Check = fn() -> Result<Outcome>;

const CHECKS: &[(&str, Check)] = &[
    ("formatting", formatting),
    ("Cargo.lock is current", lock_files),
    ("clippy of the host side", clippy),
    ("clippy of the kernel programs", clippy_ebpf),
    ("documentation", documentation),
    ("user side on aarch64", cross::check),
    ("dependencies: bans, licences, sources", deny::check),
    ("dependencies: advisories", deny::check_advisories),
    ("no built file in the repository", committed_files),
];

pub(crate) fn run() -> Result<()> {
    setup::ensure_lint_tools()?;
    let mut steps = Steps::new("lint", CHECKS.len());
    let mut failed = Vec::new();
    let mut skipped = Vec::new();
    for (name, check) in CHECKS {
        let step = steps.start(name);
        match check() {
            Ok(Passed) => step.done("passed"),
            Ok(Skipped(reason)) => {
                step.done(format_args!("skipped: {reason}"));
                skipped.push(*name);
            }
            Err(error) => {
                eprintln!("    {error:#}");
                step.done("FAILED");
                failed.push(*name);
            }
        }
    }
    let passed = CHECKS.len() - failed.len() - skipped.len();
    println!("lint: {passed} passed, {} failed, {} skipped", failed.len(), skipped.len());
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join("; ")) }
}

fn formatting() -> Result<Outcome> {
    live(workspace::cargo("fmt").args(["--all", "--", "--check"]))?;
    live(workspace::cargo("fmt").args([
        "--all",
        "--manifest-path",
        &format!("{EBPF_DIR}/Cargo.toml"),
        "--",
        "--check",
    ]))?;
    Ok(Passed)
}

fn lock_files() -> Result<Outcome> {
    for manifest in ["Cargo.toml", &format!("{EBPF_DIR}/Cargo.toml")] {
        command::output(workspace::cargo("metadata").args([
            "--locked",
            "--format-version",
            "1",
            "--manifest-path",
            manifest,
        ]))?;
    }
    Ok(Passed)
}

fn clippy() -> Result<Outcome> {
    live(workspace::cargo("clippy").args([
        "--locked",
        "--workspace",
        "--all-targets",
        "--keep-going",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Passed)
}

/// With clippy where the compiler of the kernel programs has it, else with the compiler's own warnings denied.
fn clippy_ebpf() -> Result<Outcome> {
    let Some(Ebpf::Compiled(compiler)) = toolchain::detect()? else {
        return Ok(Skipped("no eBPF toolchain here; `cargo xtask setup` gets one".to_owned()));
    };
    let has_clippy = match compiler.vendor {
        Vendor::Nightly => succeeds(toolchain::nightly("cargo").args(["clippy", "--version"])),
        Vendor::Debian => Path::new(DEBIAN_CLIPPY).exists(),
    };
    // A directory of its own: the object of `build` must not be linked again with other flags.
    let target_dir = workspace::target_dir()?.join("ebpf-lint");
    let mut cargo = ebpf_cargo(&compiler, if has_clippy { "clippy" } else { "rustc" }, &target_dir)?;
    cargo.args(["--release", "--bin", EBPF_BIN]);
    live(cargo.args(["--", "-D", "warnings"]))?;
    Ok(Passed)
}

fn documentation() -> Result<Outcome> {
    live(
        workspace::cargo("doc")
            .args(["--locked", "--workspace", "--no-deps", "--document-private-items", "--keep-going"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    Ok(Passed)
}

/// Files above this size are data or built, not written.
const MAX_BYTES: u64 = 1 << 20;

/// Compiled code is made from the sources, never kept beside them: nobody can review it.
fn committed_files() -> Result<Outcome> {
    if which("git").is_none() || !root().join(".git").exists() {
        return Ok(Skipped("not a git checkout".to_owned()));
    }
    let listing = command::output(Command::new("git").args(["ls-files", "-z"]).current_dir(root()))?;
    let mut wrong = Vec::new();
    for name in listing.split('\0').filter(|name| !name.is_empty()) {
        let path = root().join(OsStr::from_bytes(name.as_bytes()));
        // Deleted, or a submodule: nothing to read.
        let Ok(mut file) = fs::File::open(&path) else { continue };
        if !file.metadata()?.is_file() {
            continue;
        }
        let mut start = Vec::new();
        file.by_ref().take(8).read_to_end(&mut start).with_context(|| format!("cannot read {name}"))?;
        if let Some(kind) = built_kind(name, &start, file.metadata()?.len()) {
            wrong.push(format!("{name} ({kind})"));
        }
    }
    if wrong.is_empty() { Ok(Passed) } else { bail!("committed: {}", wrong.join(", ")) }
}

/// What is wrong with a file, by its name, its first bytes and its size.
fn built_kind(name: &str, start: &[u8], len: u64) -> Option<&'static str> {
    const EXTENSIONS: &[&str] = &["o", "a", "so", "rlib", "rmeta", "bc", "ll", "profraw"];
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    if start.starts_with(b"\x7fELF") {
        Some("an ELF file")
    } else if start.starts_with(b"!<arch>\n") {
        Some("an archive of objects")
    } else if start.starts_with(b"BC\xc0\xde") {
        Some("LLVM bitcode")
    } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension)) {
        Some("a compiler's output")
    } else if len > MAX_BYTES {
        Some("larger than 1 MiB")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_files_are_known_by_content_and_by_name() {
        assert_eq!(built_kind("a/agentnet", b"\x7fELF\x02\x01", 10), Some("an ELF file"));
        assert_eq!(built_kind("x.o", b"", 0), Some("a compiler's output"));
        assert_eq!(built_kind("data.txt", b"data", 2 << 20), Some("larger than 1 MiB"));
        assert_eq!(built_kind("src/main.rs", b"//! main", 100), None);
    }
}
