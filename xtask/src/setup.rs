//! `cargo xtask setup`: installs what is missing, and nothing where nothing is.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    command::{self, display, quiet, succeeds, which},
    progress::{Step, Steps},
    toolchain::{
        self, BPF_LINKER, BPF_LINKER_LLVM, CLIPPY, CXX, DEBIAN_RUSTC, Ebpf, LLVM_DEV, Missing, NFTABLES,
        OPENDOAS, Package, RUSTFMT, Rustc, SUDO, cached_linker, linker_root, linker_runs,
    },
    workspace,
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also build cargo-deny, which `lint` uses where it is there (several minutes)
    #[arg(long)]
    with_deny: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let found = ensure_ebpf()?;
    eprintln!("kernel programs: {found}");
    if args.with_deny {
        ensure_deny()?;
    }
    eprintln!("set-up is complete; next: cargo xtask run");
    Ok(())
}

/// Makes sure that the kernel programs can be had, installing what that takes.
pub(crate) fn ensure_ebpf() -> Result<Ebpf> {
    if let Some(found) = toolchain::detect()? {
        return Ok(found);
    }
    if which("apt-get").is_none() {
        bail!("{}", toolchain::advice());
    }
    let mut steps = Steps::new("setup", 3);

    let compilers = Missing::probe()?.compilers();
    let step = steps.start("compilers of the kernel programs");
    install(&compilers, None, step).with_context(toolchain::advice)?;
    let missing = Missing::probe()?;
    let Some(rustc) = missing.rustc.filter(|_| missing.compilers().is_empty()) else {
        bail!(
            "{DEBIAN_RUSTC} is still not one that compiles for eBPF after the installation.\n{}",
            toolchain::advice()
        );
    };
    if !BPF_LINKER_LLVM.contains(&rustc.llvm) {
        bail!(
            "{DEBIAN_RUSTC} uses LLVM {}, which bpf-linker {BPF_LINKER} does not know; \
             a newer bpf-linker has to be named in xtask/src/toolchain.rs",
            rustc.llvm
        );
    }

    let mut needed = Vec::new();
    if missing.linker && !Path::new(&format!("/usr/lib/llvm-{}/bin/llvm-config", rustc.llvm)).exists() {
        needed.push(&LLVM_DEV);
    }
    if missing.linker && !has_cxx_library() {
        needed.push(&CXX);
    }
    let step = steps.start("libraries of their linker");
    install(&needed, Some(rustc), step).with_context(toolchain::advice)?;

    let step = steps.start(format!("bpf-linker {BPF_LINKER} for LLVM {}", rustc.llvm));
    build_linker(rustc.llvm, step)?;
    toolchain::detect()?.context("the toolchain is installed and yet not recognised")
}

/// Makes sure that `cargo fmt` and `cargo clippy` work.
pub(crate) fn ensure_lint_tools() -> Result<()> {
    let missing: Vec<&Package> = [("fmt", &RUSTFMT), ("clippy", &CLIPPY)]
        .into_iter()
        .filter_map(|(tool, package)| (!succeeds(workspace::cargo(tool).arg("--version"))).then_some(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let cargo = workspace::cargo("fmt").get_program().to_string_lossy().into_owned();
    if cargo != toolchain::DEBIAN_CARGO || which("apt-get").is_none() {
        bail!("`cargo fmt` or `cargo clippy` is missing beside {cargo}: rustup component add rustfmt clippy");
    }
    let step = Steps::new("setup", 1).start("formatter and linter");
    install(&missing, None, step)
}

/// Makes sure that what single tests need is there, where it can be had: without it they skip themselves by name.
/// Needs root only where something is missing.
pub(crate) fn ensure_test_tools() -> Result<()> {
    if which("apt-get").is_none() {
        return Ok(());
    }
    let missing: Vec<&Package> = [("nft", &NFTABLES), ("sudo", &SUDO), ("doas", &OPENDOAS)]
        .into_iter()
        .filter_map(|(program, package)| (!in_path_or_sbin(program)).then_some(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Lists that were never fetched have none of them, and not every Debian has them all.
    if !missing.iter().all(|package| has_candidate(package.name)) {
        quiet(&mut apt_get(&["update"])?)?;
    }
    let available: Vec<&Package> =
        missing.into_iter().filter(|package| has_candidate(package.name)).collect();
    install(&available, None, Steps::new("setup", 1).start("tools of single tests"))
}

/// Whether the program is there for root, whose `PATH` has directories that a user's lacks.
fn in_path_or_sbin(program: &str) -> bool {
    which(program).is_some()
        || ["/usr/sbin", "/sbin"].iter().any(|dir| command::is_executable(&Path::new(dir).join(program)))
}

fn ensure_deny() -> Result<()> {
    let step =
        Steps::new("setup", 1).start("cargo-deny: advisories, licences and sources of the dependencies");
    if succeeds(workspace::cargo("deny").arg("--version")) {
        step.done("present");
        return Ok(());
    }
    let mut install = workspace::cargo("install");
    install.args(["cargo-deny", "--locked"]);
    eprintln!("    {}", display(&install));
    quiet(&mut install)?;
    step.done("installed");
    Ok(())
}

/// Installs Debian packages after saying which and why. `llvm` completes the names that have a `{llvm}`.
fn install(packages: &[&Package], rustc: Option<Rustc>, step: Step) -> Result<()> {
    if packages.is_empty() {
        step.done("present");
        return Ok(());
    }
    let llvm = rustc.map_or_else(String::new, |rustc| rustc.llvm.to_string());
    let names: Vec<String> = packages.iter().map(|package| package.name.replace("{llvm}", &llvm)).collect();
    for (name, package) in names.iter().zip(packages) {
        eprintln!("    will install {name}: {}", package.why);
    }
    let mut updated = false;
    if !names.iter().all(|name| has_candidate(name)) {
        quiet(&mut apt_get(&["update"])?)?;
        updated = true;
        if let Some(name) = names.iter().find(|name| !has_candidate(name)) {
            bail!("the package lists of this system have no `{name}`");
        }
    }
    let arguments: Vec<&str> = ["install", "-y", "--no-install-recommends"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .collect();
    let mut install = apt_get(&arguments)?;
    eprintln!("    {}", display(&install));
    if let Err(error) = quiet(&mut install) {
        // Lists that are older than the archive name versions that are gone.
        if updated {
            return Err(error);
        }
        quiet(&mut apt_get(&["update"])?)?;
        quiet(&mut apt_get(&arguments)?)?;
    }
    step.done("installed");
    Ok(())
}

fn has_candidate(package: &str) -> bool {
    command::output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))
        .is_ok_and(|text| text.contains("Package: "))
}

fn apt_get(arguments: &[&str]) -> Result<Command> {
    let mut apt = if command::is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new(command::sudo()?);
        sudo.args(["--", "env"]);
        sudo
    };
    // Another installation may be running; no package may ask a question.
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments);
    Ok(apt)
}

/// Whether the C compiler finds the C++ library, which LLVM is linked to.
fn has_cxx_library() -> bool {
    // gcc prints the bare name of a library that it does not find.
    command::output(Command::new("cc").arg("-print-file-name=libstdc++.so"))
        .is_ok_and(|path| path.trim().contains('/'))
}

/// Builds the linker into the cache, all or nothing: into a temporary directory, then a rename.
fn build_linker(llvm: u32, step: Step) -> Result<()> {
    let linker = cached_linker(llvm)?;
    if linker_runs(&linker) {
        step.done("present");
        return Ok(());
    }
    let root = linker_root(llvm)?;
    let cache = root.parent().context("the cache has no parent directory")?;
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let building = cache.join(format!(".bpf-linker-{}", std::process::id()));

    eprintln!("    will build it from its source in the cargo registry: about two minutes, once");
    let mut cargo = Command::new(toolchain::DEBIAN_CARGO);
    command::without_rust_settings(&mut cargo);
    cargo
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&building)
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"))
        .env("RUSTC", DEBIAN_RUSTC)
        // Not the repository: its cargo configuration is none of the linker's business.
        .current_dir(cache);
    let outcome = quiet(&mut cargo).and_then(|()| {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("cannot replace {}", root.display()))?;
        }
        fs::rename(&building, &root).with_context(|| format!("cannot move the linker to {}", root.display()))
    });
    if building.exists() {
        fs::remove_dir_all(&building).with_context(|| format!("cannot remove {}", building.display()))?;
    }
    outcome?;
    step.done(format_args!("installed in {}", root.display()));
    Ok(())
}
