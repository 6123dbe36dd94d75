//! What agentnet has stored.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The lines of an agent's segments of a stream in the store at `store`, and the files they are in.
///
/// # Errors
/// If it has none.
pub fn stored(store: &Path, stream: &str, agent: &str) -> Result<(Vec<String>, Vec<PathBuf>)> {
    let directory = store.join(stream).join(agent);
    let entries = fs::read_dir(&directory).with_context(|| format!("no {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let mut lines = Vec::new();
    for file in &files {
        lines.extend(fs::read_to_string(file)?.lines().map(str::to_owned));
    }
    Ok((lines, files))
}
