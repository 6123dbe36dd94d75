//! Programs from the cargo registry, built into the project's cache.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::command::{self, quiet};

/// Builds `krate` at `version` with `cargo` into `root`, all or nothing: into a temporary directory, then a
/// rename. `settings` adds what is special about it.
pub(crate) fn into_cache(
    cargo: impl AsRef<Path>,
    krate: &str,
    version: &str,
    root: &Path,
    settings: impl FnOnce(&mut Command),
) -> Result<()> {
    let cache = root.parent().context("the cache has no parent directory")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let building = cache.join(format!(".{krate}-{}", std::process::id()));

    let mut cargo = Command::new(cargo.as_ref());
    command::without_rust_settings(&mut cargo);
    cargo
        .args(["install", krate, "--version", version, "--locked", "--root"])
        .arg(&building)
        // Not the repository: its cargo configuration is none of the program's business.
        .current_dir(cache);
    settings(&mut cargo);
    let outcome = quiet(&mut cargo).and_then(|()| {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("cannot replace {}", root.display()))?;
        }
        fs::rename(&building, root).with_context(|| format!("cannot move {krate} to {}", root.display()))
    });
    if building.exists() {
        fs::remove_dir_all(&building).with_context(|| format!("cannot remove {}", building.display()))?;
    }
    outcome
}
