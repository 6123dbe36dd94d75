//! Puts the kernel programs where the library embeds them, `$OUT_DIR/agentnet.bpf.o`, and beside them the
//! lists of domains of `data/` as automata that are searched where they lie: `popular.fst`,
//! `classes.fst`, `words.fst`.
//!
//! `cargo xtask build` compiles them and names the object in `AGENTNET_EBPF_OBJECT`, its SHA-256 in
//! `AGENTNET_EBPF_SHA256`; a packager can do the same with an object of a release. Without the variable the
//! file is an empty stub, `AGENTNET_EBPF_SHA256` is `stub` to the library, and the library refuses to load it:
//! checking, linting, documentation and unit tests need no eBPF toolchain.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sha2::{Digest, Sha256};

/// Variable that names the object.
const OBJECT: &str = "AGENTNET_EBPF_OBJECT";
/// Variable with its SHA-256; also what the library is told.
const SHA256: &str = "AGENTNET_EBPF_SHA256";
/// `e_machine` of eBPF, little-endian (elf.h, `EM_BPF`), at its place in the ELF header.
const EM_BPF: [u8; 2] = 247_u16.to_le_bytes();
const E_MACHINE: std::ops::Range<usize> = 18..20;

fn main() -> ExitCode {
    for variable in [OBJECT, SHA256] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    match lists().and_then(|()| embed()) {
        Ok(sha256) => {
            println!("cargo::rustc-env={SHA256}={sha256}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes the object and returns its hash, `stub` where there is none.
fn embed() -> Result<String, String> {
    let (object, sha256) = match env::var_os(OBJECT).filter(|path| !path.is_empty()) {
        Some(path) => checked(&PathBuf::from(path))?,
        None => (Vec::new(), "stub".to_owned()),
    };
    let out_dir = env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?;
    let path = PathBuf::from(out_dir).join("agentnet.bpf.o");
    fs::write(&path, object).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    Ok(sha256)
}

fn checked(path: &PathBuf) -> Result<(Vec<u8>, String), String> {
    println!("cargo::rerun-if-changed={}", path.display());
    let object =
        fs::read(path).map_err(|error| format!("{OBJECT}: cannot read {}: {error}", path.display()))?;
    if object.get(..4) != Some(b"\x7fELF".as_slice()) || object.get(E_MACHINE) != Some(EM_BPF.as_slice()) {
        return Err(format!("{OBJECT}: {} is no eBPF object", path.display()));
    }
    let actual: String = Sha256::digest(&object).iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = env::var(SHA256).map_err(|_| {
        format!("{OBJECT} is set without {SHA256}: set it to the SHA-256 that came with the object")
    })?;
    if !expected.eq_ignore_ascii_case(&actual) {
        return Err(format!(
            "{} is not the expected object: its SHA-256 is {actual}, {SHA256} says {expected}",
            path.display()
        ));
    }
    Ok((object, actual))
}

/// Lists of `data/lists`, in the order of their bits in `classes.fst`: [`Class`] of `detect::domains` has the
/// same order.
///
/// [`Class`]: ../agentnet/detect/domains/enum.Class.html
const CLASSES: &[&str] = &[
    "oast",
    "request-bin",
    "tunnel",
    "paste",
    "bot",
    "doh",
    "misp-dynamic-dns",
    "misp-lots-project",
    "misp-url-shortener",
    "misp-whats-my-ip",
    "misp-public-ipfs-gateways",
    "misp-link-in-bio",
];

/// Writes the automata of the lists.
fn lists() -> Result<(), String> {
    println!("cargo::rerun-if-changed=data");
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not set OUT_DIR")?);
    let data = Path::new("data");

    let path = data.join("popular.txt.gz");
    let packed = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.as_slice())
        .read_to_string(&mut text)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let popular = text.lines().map(|name| (name.to_owned(), 0)).collect();
    write_map(&out_dir.join("popular.fst"), &popular)?;

    let path = data.join("words.txt");
    let text =
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let words = text.lines().filter_map(|line| {
        let (word, cost) = line.split_once(' ')?;
        Some((word.to_owned(), cost.parse().ok()?))
    });
    write_map(&out_dir.join("words.fst"), &words.collect())?;

    let mut classes = BTreeMap::<String, u64>::new();
    for (bit, list) in CLASSES.iter().enumerate() {
        let path = data.join("lists").join(format!("{list}.txt"));
        let text =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let name = line.trim().trim_start_matches('.').to_ascii_lowercase();
            *classes.entry(name).or_default() |= 1 << bit;
        }
    }
    write_map(&out_dir.join("classes.fst"), &classes)
}

fn write_map(path: &Path, names: &BTreeMap<String, u64>) -> Result<(), String> {
    let map = fst::Map::from_iter(names.iter().map(|(name, value)| (name, *value)))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    fs::write(path, map.as_fst().as_bytes())
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}
