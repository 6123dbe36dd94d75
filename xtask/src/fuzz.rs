//! `cargo xtask fuzz`: every parser of hostile bytes, fed what a coverage-guided fuzzer thinks of.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    command::{live, output},
    workspace::{self, root},
};

/// Where what finds new paths is kept, below the target directory.
const CORPUS: &str = "fuzz/corpus";
/// Where what breaks a parser is kept.
const CRASHES: &str = "fuzz/crashes";

/// What libFuzzer wants of the compiler (the flags of cargo-fuzz, which stable compilers know as well). No sanitizer:
/// the parsers have no unsafe code, and a panic ends the run.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The target; every one by default
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let target_dir = workspace::target_dir()?.join("fuzz");
    let triple = workspace::host_triple()?;
    let cargo = || {
        let mut cargo = workspace::cargo("build");
        // Named, so that build scripts and macros are built without coverage.
        cargo.args(["--release", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--target", &triple]);
        cargo.arg("--target-dir").arg(&target_dir);
        cargo
    };
    live(cargo().arg("--bins").env("RUSTFLAGS", COVERAGE))?;
    let programs = target_dir.join(&triple).join("release");
    let (corpus, crashes) = (workspace::target_dir()?.join(CORPUS), workspace::target_dir()?.join(CRASHES));
    let names = output(Command::new(programs.join("seeds")).arg(&corpus))?;
    let names: Vec<&str> =
        names.lines().filter(|name| args.target.as_deref().is_none_or(|one| one == *name)).collect();
    if names.is_empty() {
        bail!("there is no such target; the files in fuzz/fuzz_targets are named as they are");
    }
    let mut broken = Vec::new();
    for name in names {
        let found = crashes.join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let mut fuzzer = Command::new(programs.join(name));
        fuzzer.current_dir(root()).arg(corpus.join(name)).stdin(Stdio::null());
        fuzzer.arg(format!("-max_total_time={}", args.seconds));
        fuzzer.arg(format!("-artifact_prefix={}/", found.display()));
        // A parser that takes ten seconds or half a gigabyte for an input is broken too.
        fuzzer.args([
            "-timeout=10",
            "-rss_limit_mb=1024",
            "-max_len=65536",
            "-print_final_stats=1",
            "-verbosity=0",
        ]);
        let ended = fuzzer.status().with_context(|| format!("cannot start the fuzzer of {name}"))?;
        eprintln!("    {name}: {}", if ended.success() { "nothing found" } else { "BROKEN" });
        if !ended.success() {
            broken.push(name);
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!("broken: {}; what breaks them is in {}", broken.join(", "), crashes.display())
}
