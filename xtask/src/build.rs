//! `cargo xtask build`: the kernel programs, then the binary with them inside.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{self, live},
    progress::Steps,
    setup,
    toolchain::{
        Compiler, DEBIAN_CARGO, DEBIAN_CLIPPY, DEBIAN_RUSTC, EBPF_BIN, EBPF_TARGET, Ebpf, Object, Vendor,
        nightly,
    },
    workspace::{self, EBPF_DIR},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build everything the tests need instead, not optimised
    #[arg(long)]
    dev: bool,
}

/// The name of the product's binary.
pub(crate) const AGENTNET: &str = "agentnet";

/// Which programs of the host side to build, and how. The kernel programs are always optimised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// Everything, tests included, not optimised.
    Tests,
    /// agentnet, optimised.
    Agentnet,
    /// agentnet and the programs of the lab (the benchmark and what it starts), optimised.
    Lab,
}

impl Programs {
    /// What the step is called.
    fn title(self) -> &'static str {
        match self {
            Self::Tests => "agentnet and every test, not optimised",
            Self::Agentnet => "agentnet, optimised",
            Self::Lab => "agentnet and the benchmark, optimised",
        }
    }

    /// Their directory below the target directory.
    fn dir(self) -> &'static str {
        match self {
            Self::Tests => "debug",
            Self::Agentnet | Self::Lab => "release",
        }
    }

    /// The arguments of cargo that select them.
    fn arguments(self) -> Result<Vec<String>> {
        let bins = match self {
            Self::Tests => return Ok(vec!["--all-targets".to_owned()]),
            Self::Agentnet => Vec::new(),
            Self::Lab => workspace::lab_programs()?,
        };
        let bins = std::iter::once(AGENTNET.to_owned()).chain(bins).flat_map(|bin| ["--bin".to_owned(), bin]);
        Ok(std::iter::once("--release".to_owned()).chain(bins).collect())
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let programs = if args.dev { Programs::Tests } else { Programs::Agentnet };
    let mut steps = Steps::new("build", 2);
    let object = object(&mut steps)?;
    let dir = host(&mut steps, &object, programs)?;
    println!("{}", dir.join(AGENTNET).display());
    Ok(())
}

/// Compiles the kernel programs, installing first what that takes. One step.
pub(crate) fn object(steps: &mut Steps) -> Result<Object> {
    let ebpf = setup::ensure_ebpf()?;
    let step = steps.start(format_args!("kernel programs: {ebpf}"));
    let object = match &ebpf {
        Ebpf::Ready(object) => object.clone(),
        Ebpf::Compiled(compiler) => {
            let target_dir = workspace::target_dir()?.join("ebpf");
            live(ebpf_cargo(compiler, "build", &target_dir)?.arg("--release"))?;
            Object::at(&target_dir.join(EBPF_TARGET).join("release").join(EBPF_BIN))?
        }
    };
    step.done(format_args!("SHA-256 {}", object.sha256));
    Ok(object)
}

/// The cargo of the kernel crate, ready for the eBPF target.
pub(crate) fn ebpf_cargo(compiler: &Compiler, subcommand: &str, target_dir: &Path) -> Result<Command> {
    let mut cargo = match compiler.vendor {
        Vendor::Nightly => nightly("cargo"),
        // Called directly: cargo looks for subcommands in its own home first, where rustup puts those of
        // another compiler.
        Vendor::Debian if subcommand == "clippy" => Command::new(DEBIAN_CLIPPY),
        Vendor::Debian => Command::new(DEBIAN_CARGO),
    };
    command::without_rust_settings(&mut cargo);
    cargo.arg(subcommand).args(["--locked", "--target", EBPF_TARGET, "--target-dir"]).arg(target_dir);
    match compiler.vendor {
        // A stable compiler: the core library is prebuilt, but the target's features are still unstable.
        Vendor::Debian => {
            cargo.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
        Vendor::Nightly => {
            cargo.args(["-Z", "build-std=core"]);
        }
    }
    if let Some(dir) = compiler.linker.parent() {
        cargo.env("PATH", command::path_with(dir)?);
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"))
        .current_dir(workspace::root().join(EBPF_DIR));
    Ok(cargo)
}

/// Debug information becomes BTF, which maps and the verifier's messages need. It is part of the released
/// object and therefore names no directory of the machine it was built on.
fn rustflags() -> Vec<String> {
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
        // Else bpf-linker has LLVM call `memset` and `memcpy` for the smallest of arrays, which go byte by byte: they took
        // the verifier longer than half of all programs, and hooks tens of nanoseconds a run.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // Atomic operations that return a value, and 32-bit jumps.
        "-Ctarget-cpu=v3".to_owned(),
        format!("--remap-path-prefix={}=agentnet", workspace::root().display()),
    ];
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    if let Some(cargo_home) = cargo_home {
        flags.push(format!("--remap-path-prefix={}=cargo", cargo_home.display()));
    }
    flags
}

/// A cargo of the host side that puts `object` into the binary.
pub(crate) fn cargo_with(object: &Object, subcommand: &str) -> Command {
    let mut cargo = workspace::cargo(subcommand);
    cargo
        .arg("--locked")
        .env("AGENTNET_EBPF_OBJECT", &object.path)
        .env("AGENTNET_EBPF_SHA256", &object.sha256);
    cargo
}

/// Builds programs of the host side with the object inside and returns their directory. One step.
///
/// One cargo invocation over the whole workspace: cargo unites the features of what is built together, so
/// that each narrower selection would compile the dependencies once more. For the same reason everything that
/// is not optimised is built with the tests.
pub(crate) fn host(steps: &mut Steps, object: &Object, programs: Programs) -> Result<PathBuf> {
    let step = steps.start(programs.title());
    live(cargo_with(object, "build").arg("--workspace").args(programs.arguments()?))?;
    let dir = workspace::target_dir()?.join(programs.dir());
    step.done(dir.display());
    Ok(dir)
}
