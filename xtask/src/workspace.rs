//! Where things are, and the cargo that builds the host side.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;

/// Directory of the kernel crate, below the root.
pub(crate) const EBPF_DIR: &str = "agentnet-ebpf";
/// Package of the end-to-end tests, the only one whose tests need root.
pub(crate) const E2E_PACKAGE: &str = "agentnet-tests";

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// The host side's cargo, run at the root: the one that built this program.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.current_dir(root()).arg(subcommand);
    // What `cargo run` says about xtask must not be taken for settings of what is built next.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// What `cargo metadata` says about the workspace, as far as it is needed.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn metadata() -> Result<Metadata> {
    let json = command::output(cargo("metadata").args(["--no-deps", "--format-version", "1"]))?;
    serde_json::from_str(&json).context("cannot read what `cargo metadata` printed")
}

/// The directory cargo writes to, `target` unless it was configured otherwise.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// The integration test programs of the end-to-end package, and those of all others.
pub(crate) fn test_programs() -> Result<(Vec<String>, Vec<String>)> {
    let (end_to_end, others): (Vec<_>, Vec<_>) =
        metadata()?.packages.into_iter().partition(|package| package.name == E2E_PACKAGE);
    Ok((targets(end_to_end, "test"), targets(others, "test")))
}

/// The programs of the end-to-end package: the demo, the benchmark, and what they start.
pub(crate) fn lab_programs() -> Result<Vec<String>> {
    let packages = metadata()?.packages.into_iter().filter(|package| package.name == E2E_PACKAGE);
    Ok(targets(packages, "bin"))
}

/// The names of all targets of a kind.
fn targets(packages: impl IntoIterator<Item = Package>, kind: &str) -> Vec<String> {
    let targets = packages.into_iter().flat_map(|package| package.targets);
    targets.filter(|target| target.kind.iter().any(|one| one == kind)).map(|target| target.name).collect()
}

/// The target triple of the host, as the compiler behind [`cargo`] names it.
pub(crate) fn host_triple() -> Result<String> {
    let version = command::output(Command::new(rustc()).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("`rustc -vV` names no host")
}

/// The compiler beside [`cargo`].
pub(crate) fn rustc() -> PathBuf {
    if let Some(rustc) = env::var_os("RUSTC") {
        return rustc.into();
    }
    let beside = env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    beside.filter(|path| command::is_executable(path)).unwrap_or_else(|| "rustc".into())
}
