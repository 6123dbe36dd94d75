//! What agentnet is built with: every version and package name, and how each is recognised.
//!
//! The kernel programs can be had in three ways, tried in this order:
//! a ready object handed in by a packager, Debian's compilers (which carry a prebuilt `core` for the eBPF
//! target, so that no nightly is needed), a rustup nightly with `rust-src`.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command::{self, succeeds, which};

/// The oldest compiler that builds the host side, `rust-version` of the workspace.
pub(crate) const MIN_RUST: (u32, u32) = (1, 95);
/// The target of the kernel programs.
pub(crate) const EBPF_TARGET: &str = "bpfel-unknown-none";
/// The name of the kernel crate's binary, which is the object.
pub(crate) const EBPF_BIN: &str = "agentnet-ebpf";
/// Version of the linker of the kernel programs.
pub(crate) const BPF_LINKER: &str = "0.13.0";
/// Version of cargo-deny, which `lint` checks the dependencies with.
pub(crate) const CARGO_DENY: &str = "0.20.2";
/// The LLVM versions that this linker can be built against; it has to be the compiler's own.
pub(crate) const BPF_LINKER_LLVM: &[u32] = &[21, 22, 23];
/// The rustup toolchain used where Debian's compilers are not there.
pub(crate) const NIGHTLY: &str = "nightly";
/// A target the user side must always compile for, besides the host.
pub(crate) const CROSS_TARGET: &str = "aarch64-unknown-linux-musl";

/// A Debian package and what it is for.
pub(crate) struct Package {
    /// Its name; `{llvm}` stands for the major version of the compiler's LLVM.
    pub(crate) name: &'static str,
    /// Why agentnet needs it.
    pub(crate) why: &'static str,
}

/// The compiler of the kernel programs.
pub(crate) const RUSTC_WEB: Package = Package { name: "rustc-web", why: "compiler of the kernel programs" };
/// Its cargo.
pub(crate) const CARGO_WEB: Package = Package { name: "cargo-web", why: "cargo of that compiler" };
/// The core library for the eBPF target.
pub(crate) const CORE_BPF: Package = Package {
    name: "libstd-rust-web-dev-bpf",
    why: "the core library, prebuilt for eBPF: no nightly needed",
};
/// What bpf-linker is built against.
pub(crate) const LLVM_DEV: Package = Package { name: "llvm-{llvm}-dev", why: "LLVM, to build bpf-linker" };
/// The C++ standard library, which LLVM needs.
pub(crate) const CXX: Package = Package { name: "g++", why: "the C++ library of LLVM, to build bpf-linker" };
/// The source of the standard library, for a target that Debian has no library of.
pub(crate) const RUST_SRC: Package =
    Package { name: "rust-web-src", why: "source of the standard library, to check for another target" };
/// `cargo fmt`.
pub(crate) const RUSTFMT: Package = Package { name: "rustfmt-web", why: "`cargo fmt`" };
/// `cargo clippy`.
pub(crate) const CLIPPY: Package = Package { name: "rust-web-clippy", why: "`cargo clippy`" };
/// Address translation, for the tests of what is behind it.
pub(crate) const NFTABLES: Package =
    Package { name: "nftables", why: "address translation, for the tests of what hides behind it" };
/// For the tests of how a user's agentnet gets root.
pub(crate) const SUDO: Package =
    Package { name: "sudo", why: "one of the two ways to root, for the tests of both" };
/// See [`SUDO`].
pub(crate) const OPENDOAS: Package =
    Package { name: "opendoas", why: "one of the two ways to root, for the tests of both" };

/// Debian's programs: fixed paths, because a rustup in `PATH` would shadow them.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// See [`DEBIAN_RUSTC`].
pub(crate) const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// See [`DEBIAN_RUSTC`].
pub(crate) const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// Where the kernel programs come from.
#[derive(Debug)]
pub(crate) enum Ebpf {
    /// A ready object, named by `AGENTNET_EBPF_OBJECT`.
    Ready(Object),
    /// They are compiled.
    Compiled(Compiler),
}

/// What compiles the kernel programs.
#[derive(Debug)]
pub(crate) struct Compiler {
    /// Whose it is.
    pub(crate) vendor: Vendor,
    /// The bpf-linker that fits it.
    pub(crate) linker: PathBuf,
}

/// Whose compiler it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// Debian's, with a prebuilt core library.
    Debian,
    /// A rustup nightly, which compiles the core library as well.
    Nightly,
}

impl fmt::Display for Ebpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(object) => write!(f, "the object {}", object.path.display()),
            Self::Compiled(Compiler { vendor: Vendor::Debian, linker }) => {
                write!(f, "{DEBIAN_RUSTC}, its core library for {EBPF_TARGET}, {}", linker.display())
            }
            Self::Compiled(Compiler { vendor: Vendor::Nightly, linker }) => {
                write!(f, "rustup's {NIGHTLY} with rust-src, {}", linker.display())
            }
        }
    }
}

/// An object with the kernel programs.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// The file, absolute.
    pub(crate) path: PathBuf,
    /// SHA-256 of its contents in lower-case hexadecimal.
    pub(crate) sha256: String,
}

impl Object {
    /// The file at `path` with the hash it has now.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let path = path.canonicalize().with_context(|| format!("no eBPF object at {}", path.display()))?;
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path, sha256 })
    }
}

/// A compiler as its `-vV` describes it.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Rustc {
    /// Major and minor version.
    pub(crate) version: (u32, u32),
    /// Major version of its LLVM.
    pub(crate) llvm: u32,
}

impl Rustc {
    /// The compiler at `program`, if it is there and tells its version.
    pub(crate) fn probe(program: &mut Command) -> Option<Self> {
        Self::parse(&command::output(program.arg("-vV")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let mut release = field("release: ")?.split('.');
        let version = (release.next()?.parse().ok()?, release.next()?.parse().ok()?);
        let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
        Some(Self { version, llvm })
    }
}

/// What the Debian way lacks.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// Debian's compiler, where there is one that is new enough.
    pub(crate) rustc: Option<Rustc>,
    /// Whether cargo is missing.
    pub(crate) cargo: bool,
    /// Whether the core library for eBPF is missing.
    pub(crate) core: bool,
    /// Whether the linker is missing from the cache.
    pub(crate) linker: bool,
}

impl Missing {
    /// Looks at what is installed.
    pub(crate) fn probe() -> Result<Self> {
        let rustc = Rustc::probe(&mut Command::new(DEBIAN_RUSTC)).filter(|rustc| rustc.version >= MIN_RUST);
        let linker = match rustc {
            Some(rustc) => linker_runs(&cached_linker(rustc.llvm)?),
            None => false,
        };
        Ok(Self {
            rustc,
            cargo: !Path::new(DEBIAN_CARGO).exists(),
            core: !has_core(&mut Command::new(DEBIAN_RUSTC)),
            linker: !linker,
        })
    }

    /// Nothing at all.
    pub(crate) fn is_nothing(&self) -> bool {
        self.rustc.is_some() && !self.cargo && !self.core && !self.linker
    }

    /// The compiler packages to install.
    pub(crate) fn compilers(&self) -> Vec<&'static Package> {
        [(self.rustc.is_none(), &RUSTC_WEB), (self.cargo, &CARGO_WEB), (self.core, &CORE_BPF)]
            .into_iter()
            .filter_map(|(missing, package)| missing.then_some(package))
            .collect()
    }
}

/// Whether the compiler has a prebuilt core library for the eBPF target.
fn has_core(rustc: &mut Command) -> bool {
    let Ok(dir) = command::output(rustc.args(["--print", "target-libdir", "--target", EBPF_TARGET])) else {
        return false;
    };
    fs::read_dir(dir.trim()).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| starts_with_libcore(&file.file_name())))
    })
}

fn starts_with_libcore(name: &std::ffi::OsStr) -> bool {
    name.to_string_lossy().starts_with("libcore-")
}

/// Where the linker is kept that was built against that LLVM.
pub(crate) fn linker_root(llvm: u32) -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("bpf-linker-{BPF_LINKER}-llvm{llvm}")))
}

/// The linker itself in [`linker_root`].
pub(crate) fn cached_linker(llvm: u32) -> Result<PathBuf> {
    Ok(linker_root(llvm)?.join("bin/bpf-linker"))
}

/// Where cargo-deny is kept.
pub(crate) fn cargo_deny_root() -> Result<PathBuf> {
    Ok(cache_dir()?.join(format!("cargo-deny-{CARGO_DENY}")))
}

/// Whether the linker starts: it is linked to LLVM's shared library, which may have gone.
pub(crate) fn linker_runs(linker: &Path) -> bool {
    command::is_executable(linker) && succeeds(Command::new(linker).arg("--version"))
}

/// The project's cache: `AGENTNET_CACHE`, else `agentnet` in the user's.
fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("AGENTNET_CACHE") {
        return Ok(dir);
    }
    let base = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    Ok(base
        .context("neither AGENTNET_CACHE nor HOME is set: no place for the linker's cache")?
        .join("agentnet"))
}

/// The ready object of `AGENTNET_EBPF_OBJECT`, its hash checked.
fn handed_in() -> Result<Option<Object>> {
    let Some(path) = env::var_os("AGENTNET_EBPF_OBJECT").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let object = Object::at(Path::new(&path)).context("AGENTNET_EBPF_OBJECT")?;
    let Ok(expected) = env::var("AGENTNET_EBPF_SHA256") else {
        bail!(
            "AGENTNET_EBPF_OBJECT is set without AGENTNET_EBPF_SHA256: set it to the SHA-256 that came with the object"
        );
    };
    if !expected.eq_ignore_ascii_case(&object.sha256) {
        bail!(
            "{} is not the expected object: its SHA-256 is {}, AGENTNET_EBPF_SHA256 says {expected}",
            object.path.display(),
            object.sha256
        );
    }
    Ok(Some(object))
}

/// The nightly's linker, where nightly, its `rust-src` and a linker are there.
fn nightly_linker() -> Result<Option<PathBuf>> {
    if which("rustup").is_none() {
        return Ok(None);
    }
    let rustc = || nightly("rustc");
    let Some(version) = Rustc::probe(&mut rustc()) else { return Ok(None) };
    let Ok(sysroot) = command::output(rustc().args(["--print", "sysroot"])) else { return Ok(None) };
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Ok(None);
    }
    let cached = cached_linker(version.llvm)?;
    Ok(which("bpf-linker").into_iter().chain([cached]).find(|linker| linker_runs(linker)))
}

/// A program of the rustup nightly.
pub(crate) fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, program]);
    command
}

/// Where the kernel programs come from on this machine, `None` where something has to be installed first.
pub(crate) fn detect() -> Result<Option<Ebpf>> {
    if let Some(object) = handed_in()? {
        return Ok(Some(Ebpf::Ready(object)));
    }
    let missing = Missing::probe()?;
    if missing.is_nothing()
        && let Some(rustc) = missing.rustc
    {
        let linker = cached_linker(rustc.llvm)?;
        return Ok(Some(Ebpf::Compiled(Compiler { vendor: Vendor::Debian, linker })));
    }
    Ok(nightly_linker()?.map(|linker| Ebpf::Compiled(Compiler { vendor: Vendor::Nightly, linker })))
}

/// What to do where the kernel programs cannot be built and nothing can be installed for it.
pub(crate) fn advice() -> String {
    format!(
        "the kernel programs cannot be built on this machine. Any one of these helps:\n\
         \n  Debian 12 or newer, with its security archive (`apt-get update` first):\n    \
         apt-get install -y {} {} {}\n    cargo xtask setup\n\
         \n  Elsewhere, with rustup and a C++ compiler:\n    \
         rustup toolchain install {NIGHTLY} --component rust-src\n    \
         cargo install bpf-linker --version {BPF_LINKER} --locked\n\
         \n  With a released object and no eBPF toolchain at all:\n    \
         export AGENTNET_EBPF_OBJECT=/path/to/agentnet.bpf.o AGENTNET_EBPF_SHA256=<its SHA-256>",
        RUSTC_WEB.name, CARGO_WEB.name, CORE_BPF.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_tells_its_version_and_llvm() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(Rustc::parse(text), Some(Rustc { version: (1, 96), llvm: 22 }));
        assert_eq!(Rustc::parse("rustc 1.96.0"), None);
    }

    #[test]
    fn a_nightly_has_a_version_too() {
        let text = "release: 1.97.0-nightly\nLLVM version: 22.1.4";
        assert_eq!(Rustc::parse(text), Some(Rustc { version: (1, 97), llvm: 22 }));
    }

    #[test]
    fn the_minimum_is_the_workspaces() {
        let manifest = fs::read_to_string(crate::workspace::root().join("Cargo.toml")).unwrap();
        let line = format!("rust-version = \"{}.{}\"", MIN_RUST.0, MIN_RUST.1);
        assert!(manifest.contains(&line), "Cargo.toml does not say {line}");
    }

    #[test]
    fn an_object_is_hashed() {
        let object = Object::at(&crate::workspace::root().join("LICENSE-MIT")).unwrap();
        assert_eq!(object.sha256.len(), 64);
        assert!(object.path.is_absolute());
        assert!(Object::at(Path::new("/nonexistent.o")).is_err());
    }
}
