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
    toolchain::{DEBIAN_CARGO, DEBIAN_RUSTC, EBPF_BIN, EBPF_TARGET, Ebpf, Object, nightly},
    workspace::{self, EBPF_DIR},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build without optimisations, as the tests do
    #[arg(long)]
    dev: bool,
}

/// How the host side is compiled. The kernel programs are always optimised.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    /// The arguments of cargo for it.
    pub(crate) fn args(self) -> &'static [&'static str] {
        match self {
            Self::Dev => &[],
            Self::Release => &["--release"],
        }
    }

    /// Its directory below the target directory.
    fn dir(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let profile = if args.dev { Profile::Dev } else { Profile::Release };
    let mut steps = Steps::new("build", 2);
    let object = object(&mut steps)?;
    let binary = binary(&mut steps, &object, profile)?;
    println!("{}", binary.display());
    Ok(())
}

/// Compiles the kernel programs, installing first what that takes. One step.
pub(crate) fn object(steps: &mut Steps) -> Result<Object> {
    let ebpf = setup::ensure_ebpf()?;
    let step = steps.start(match &ebpf {
        Ebpf::Object(object) => format!("kernel programs: {}", object.path.display()),
        Ebpf::Debian { .. } => format!("kernel programs, with {DEBIAN_RUSTC}"),
        Ebpf::Nightly { .. } => "kernel programs, with the rustup nightly".to_owned(),
    });
    let object = match &ebpf {
        Ebpf::Object(object) => object.clone(),
        Ebpf::Debian { .. } | Ebpf::Nightly { .. } => {
            let target_dir = workspace::target_dir()?.join("ebpf");
            live(ebpf_cargo(&ebpf, "build", &target_dir)?.arg("--release"))?;
            Object::at(&target_dir.join(EBPF_TARGET).join("release").join(EBPF_BIN))?
        }
    };
    step.done(format_args!("SHA-256 {}", object.sha256));
    Ok(object)
}

/// The cargo of the kernel crate, ready for the eBPF target.
pub(crate) fn ebpf_cargo(ebpf: &Ebpf, subcommand: &str, target_dir: &Path) -> Result<Command> {
    let (mut cargo, linker) = match ebpf {
        Ebpf::Nightly { linker } => (nightly("cargo"), Some(linker)),
        Ebpf::Debian { linker } => (Command::new(DEBIAN_CARGO), Some(linker)),
        Ebpf::Object(_) => (Command::new(DEBIAN_CARGO), None),
    };
    command::without_rust_settings(&mut cargo);
    cargo.arg(subcommand).args(["--locked", "--target", EBPF_TARGET, "--target-dir"]).arg(target_dir);
    match ebpf {
        // Stable compilers: the core library is prebuilt, but the eBPF target's features are still unstable.
        Ebpf::Debian { .. } | Ebpf::Object(_) => {
            cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
        }
        Ebpf::Nightly { .. } => {
            cargo.args(["-Z", "build-std=core"]);
        }
    }
    if let Some(dir) = linker.and_then(|linker| linker.parent()) {
        cargo.env("PATH", command::path_with(dir)?);
    }
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags().join("\x1f"))
        .current_dir(workspace::root().join(EBPF_DIR));
    Ok(cargo)
}

/// Debug information becomes BTF, which maps and the verifier's messages need; it names no directory of
/// this machine, so that the same sources give the same object everywhere.
fn rustflags() -> Vec<String> {
    let mut flags = vec![
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
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

/// Builds the agentnet binary with the object inside. One step.
pub(crate) fn binary(steps: &mut Steps, object: &Object, profile: Profile) -> Result<PathBuf> {
    let step = steps.start("agentnet");
    let binary = build_bin(object, profile, "agentnet", "agentnet")?;
    step.done(binary.display());
    Ok(binary)
}

/// Builds a binary of a package of the host side and returns its path.
pub(crate) fn build_bin(object: &Object, profile: Profile, package: &str, bin: &str) -> Result<PathBuf> {
    live(cargo_with(object, "build").args(profile.args()).args(["--package", package, "--bin", bin]))?;
    Ok(workspace::target_dir()?.join(profile.dir()).join(bin))
}
