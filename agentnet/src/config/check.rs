//! What the daemon would find: the configuration and every policy, read as the daemon reads them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DaemonConfig;
use crate::policy::{Policy, diagnostic::Diagnostics, host::Host};

/// What was found.
#[derive(Debug)]
pub struct Check {
    /// The configuration, or what is wrong with it; then nothing else was looked at.
    pub config: Result<DaemonConfig, Diagnostics>,
    /// Groups that the configuration names and this host does not have.
    pub missing_groups: Vec<String>,
    /// The policies by file, in the order of their names.
    pub policies: Vec<(PathBuf, Result<Policy, Diagnostics>)>,
    /// Why the directory of the policies cannot be read.
    pub unreadable: Option<(PathBuf, io::Error)>,
}

impl Check {
    /// Looks at the configuration at `path`, or at the usual place, and at what it names, on `host`. Changes
    /// nothing.
    pub fn new(path: Option<&Path>, host: &Host) -> Self {
        let mut check = Self {
            config: DaemonConfig::load(path),
            missing_groups: Vec::new(),
            policies: Vec::new(),
            unreadable: None,
        };
        let Ok(config) = &check.config else { return check };
        let groups = [&config.read_group, &config.run_group].into_iter().flatten();
        let missing = groups.filter(|name| !matches!(nix::unistd::Group::from_name(name), Ok(Some(_))));
        check.missing_groups = missing.cloned().collect();
        match policy_files(&config.policies) {
            Ok(files) => {
                let load = |file: PathBuf| {
                    let policy = Policy::load_from(&config.policies, &file.to_string_lossy(), host);
                    (file, policy)
                };
                check.policies = files.into_iter().map(load).collect();
            }
            Err(error) => check.unreadable = Some((config.policies.clone(), error)),
        }
        check
    }

    /// Whether the daemon could work with all of it.
    pub fn is_valid(&self) -> bool {
        self.config.is_ok()
            && self.unreadable.is_none()
            && self.policies.iter().all(|(_, policy)| policy.is_ok())
    }
}

/// The files of a directory of policies, by name; none if there is no such directory.
///
/// # Errors
/// If the directory cannot be read.
pub fn policy_files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // What an editor keeps beside a file is not one.
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
