//! What the daemon would find: the configuration and every policy, read as the daemon reads them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DaemonConfig;
use crate::{
    agent::{
        cgroup::{Cgroup, Hierarchy},
        selector::{Match, Rule, Selectors, Timing, timing},
    },
    detect::secrets::source::{self, Held},
    policy::{Policy, diagnostic::Diagnostics, host::Host},
};

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
    /// What the policies select of what is there now.
    pub selected: Vec<Selected>,
    /// What can be read of this host's secrets.
    pub secrets: Held,
}

/// A cgroup that a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Index among the policies.
    pub policy: usize,
    /// The selector, as it is written.
    pub selector: String,
    /// The cgroup.
    pub cgroup: PathBuf,
    /// Whether something ran there already, so that it may have sent something before a daemon governs it.
    pub late: bool,
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
            selected: Vec::new(),
            secrets: Held::default(),
        };
        let Ok(config) = &check.config else { return check };
        check.secrets = source::read(&config.host_secrets, |name| std::env::var_os(name));
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
        // Without a cgroup hierarchy there is nothing to be selected, as `doctor` says.
        check.selected = Hierarchy::find().map(|there| selected(&there, &check.policies)).unwrap_or_default();
        check
    }

    /// Whether the daemon could work with all of it.
    pub fn is_valid(&self) -> bool {
        self.config.is_ok()
            && self.unreadable.is_none()
            && self.secrets.wrong.is_empty()
            && self.policies.iter().all(|(_, policy)| policy.is_ok())
    }
}

/// What `policies` select in `hierarchy`.
fn selected(hierarchy: &Hierarchy, policies: &[(PathBuf, Result<Policy, Diagnostics>)]) -> Vec<Selected> {
    let rules = policies.iter().enumerate().flat_map(|(policy, (_, read))| {
        let agents = read.iter().flat_map(|read| &read.compiled.agents);
        agents.map(move |agents| Rule { policy, selector: agents.selector.clone() })
    });
    let selectors = Selectors::new(rules.collect());
    let own = hierarchy.of(rustix::process::getpid().as_raw_nonzero().get());
    let own = own.map_or_else(|_| PathBuf::new(), |own| own.path().to_owned());
    let mut found: Vec<Selected> = Vec::new();
    for cgroup in selectors.there(hierarchy) {
        let above = found.iter().map(|found| (found.cgroup.as_path(), &found.policy));
        let due = selectors.due(hierarchy, &own, &cgroup, above);
        found.extend(due.into_iter().map(|Match { policy, selector, .. }| {
            // What cannot be told is not called early.
            let late = timing(&Cgroup::at(&cgroup), false).map_or(true, |timing| timing == Timing::Late);
            Selected { policy, selector, cgroup: cgroup.clone(), late }
        }));
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As the daemon would take them: what is below a cgroup that the same policy governs is not another agent.
    #[test]
    fn what_is_there_is_selected() {
        let top = tempfile::tempdir().unwrap();
        for path in
            ["agents/one/inner", "agents/two", "system.slice/agent-7.service", "system.slice/other.service"]
        {
            fs::create_dir_all(top.path().join(path)).unwrap();
        }
        let policy = |name: &str, agents: &str| {
            let text = format!("version = 1\nname = \"{name}\"\n{agents}");
            (PathBuf::from(name), Policy::from_text(name, &text, &[]))
        };
        let policies = [
            policy("units", "[[agents]]\nunit = \"agent-*.service\"\n[[agents]]\ncgroup = \"/none/*\"\n"),
            policy("broken", "?"),
            policy("places", "[[agents]]\ncgroup = \"/agents/*\"\n"),
        ];
        let found = selected(&Hierarchy::at(top.path()), &policies);
        let found: Vec<_> = found
            .iter()
            .map(|found| (found.policy, found.cgroup.strip_prefix(top.path()).unwrap().to_str().unwrap()))
            .collect();
        assert_eq!(found, [(2, "agents/one"), (2, "agents/two"), (0, "system.slice/agent-7.service")]);
    }
}
