//! Reading labelled data.

use std::{
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The text of a file, unpacked if it is packed.
pub(super) fn text(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        // Debian has it everywhere; the tests need no library of their own for it.
        let output = Command::new("gzip").arg("-dc").arg(path).output().context("cannot run gzip")?;
        if !output.status.success() {
            bail!("gzip cannot read {}", path.display());
        }
        bytes = output.stdout;
    } else {
        File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines that are no comments.
pub(super) fn lines(path: &Path) -> Result<Vec<String>> {
    let text = text(path)?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(str::to_owned)
        .collect())
}

/// Files of a folder whose names end so, sorted; none if there is no such folder.
pub(super) fn files(folder: &Path, end: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The name of a file without what is behind its first dot.
pub(super) fn name(path: &Path) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}
