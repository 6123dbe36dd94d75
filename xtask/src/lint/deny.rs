//! cargo-deny: what may come in with a dependency, `deny.toml`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::Outcome;
use crate::{
    cargo_install,
    command::{self, live, succeeds, which},
    progress::Steps,
    toolchain::{self, CARGO_DENY},
    workspace::{self, EBPF_DIR},
};

/// What can be said about the dependencies from the lock files alone.
pub(super) fn check() -> Result<Outcome> {
    check_both(&["bans", "licenses", "sources"])
}

/// What is known about the dependencies by now: needs the network.
pub(super) fn check_advisories() -> Result<Outcome> {
    let mut fetch = Command::new(ensure()?);
    if let Err(error) = command::output(fetch.args(["fetch", "db"]).current_dir(workspace::root())) {
        let error = format!("{error:#}");
        let last = error.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Ok(Outcome::Skipped(format!("no database of advisories: {}", last.trim())));
    }
    check_both(&["advisories"])
}

fn check_both(checks: &[&str]) -> Result<Outcome> {
    let program = ensure()?;
    for manifest in ["Cargo.toml".to_owned(), format!("{EBPF_DIR}/Cargo.toml")] {
        let mut deny = Command::new(&program);
        deny.args(["--locked", "--manifest-path", &manifest, "check", "--hide-inclusion-graph"]);
        live(deny.args(checks).current_dir(workspace::root()))?;
    }
    Ok(Outcome::Passed)
}

/// The program, built first where it is neither in `PATH` at this version nor in the cache.
pub(crate) fn ensure() -> Result<PathBuf> {
    let root = toolchain::cargo_deny_root()?;
    let cached = root.join("bin/cargo-deny");
    if succeeds(Command::new(&cached).arg("--version")) {
        return Ok(cached);
    }
    if let Some(installed) =
        which("cargo-deny").filter(|program| version(program).as_deref() == Some(CARGO_DENY))
    {
        return Ok(installed);
    }
    let step = Steps::new("setup", 1).start(format!("cargo-deny {CARGO_DENY}: checks the dependencies"));
    eprintln!("    will build it from its source in the cargo registry: about four minutes, once");
    cargo_install::into_cache(
        workspace::cargo("install").get_program(),
        "cargo-deny",
        CARGO_DENY,
        &root,
        |cargo| {
            cargo.env("RUSTC", workspace::rustc());
            // As released it is optimised as a whole: half as long again to build, for a second of work.
            cargo.envs([
                ("CARGO_PROFILE_RELEASE_LTO", "off"),
                ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
                ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
            ]);
        },
    )?;
    step.done(format_args!("installed in {}", root.display()));
    Ok(cached)
}

/// `0.20.2` of `cargo-deny 0.20.2`.
fn version(program: &Path) -> Option<String> {
    let text = command::output(Command::new(program).arg("--version")).ok()?;
    text.trim().strip_prefix("cargo-deny ").map(str::to_owned)
}
