//! systemd units: the manager is asked, and where it cannot be, the hierarchy is searched for the unit's directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Result, TargetError};
use crate::agent::{cgroup::Hierarchy, tool};

/// Is there while systemd runs (sd_booted(3)).
const RUNNING: &str = "/run/systemd/system";

/// The longest name of a unit (`UNIT_NAME_MAX`, systemd's src/basic/unit-name.h).
const LONGEST: usize = 255;

/// The unit's full name and the directory of its cgroup.
pub(super) fn find(hierarchy: &Hierarchy, unit: &str) -> Result<(String, PathBuf)> {
    let unit = full_name(unit)?;
    if Path::new(RUNNING).exists() {
        let shown =
            tool::ask("systemctl", &["show", "-p", "LoadState,ActiveState,ControlGroup", "--", &unit])?;
        let shown = shown.ok()?;
        let value = |key: &str| {
            let line = shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            line.unwrap_or_default().to_owned()
        };
        match (value("ControlGroup"), value("LoadState")) {
            (group, _) if !group.is_empty() => {
                let path = hierarchy.top().path().join(group.trim_start_matches('/'));
                return Ok((unit, path));
            }
            // Perhaps one of a user's manager, which systemctl was not asked about.
            (_, load) if load == "not-found" => {}
            _ => return Err(TargetError::UnitStopped { state: value("ActiveState"), unit }),
        }
    }
    let found = search(hierarchy, &escape(&unit));
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok((unit, path)),
        Err(found) if found.is_empty() => Err(TargetError::NoUnit { unit }),
        Err(found) => {
            let found = found.into_iter().map(|path| path.display().to_string()).collect();
            Err(TargetError::UnitAmbiguous { unit, found })
        }
    }
}

/// The name with its kind; `.service` if none is given, as systemctl takes it.
fn full_name(unit: &str) -> Result<String> {
    let full = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    // systemd's VALID_CHARS_WITH_AT, and a backslash for what is escaped.
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let named = !full.starts_with('.') && full.len() <= LONGEST && full.bytes().all(valid);
    if named { Ok(full) } else { Err(TargetError::UnitName(unit.to_owned())) }
}

/// The name of the directory that systemd makes for a unit (`cg_escape`, src/basic/cgroup-util.c): one that could be
/// mistaken for a file of the kernel's gets an underscore.
fn escape(unit: &str) -> String {
    const FILES: [&str; 3] = ["notify_on_release", "release_agent", "tasks"];
    const CONTROLLERS: [&str; 12] = [
        "cgroup", "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids", "misc", "rdma",
        "hugetlb",
    ];
    let is_controllers =
        unit.split_once('.').is_some_and(|(controller, _)| CONTROLLERS.contains(&controller));
    if unit.starts_with(['_', '.']) || FILES.contains(&unit) || is_controllers {
        format!("_{unit}")
    } else {
        unit.to_owned()
    }
}

/// Every cgroup called `name`. Not below one that was found: there it is somebody else's.
fn search(hierarchy: &Hierarchy, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![hierarchy.top().path().to_owned()];
    while let Some(path) = open.pop() {
        let Ok(entries) = fs::read_dir(&path) else { continue };
        for entry in entries.filter_map(std::result::Result::ok) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if entry.file_name() == name { &mut found } else { &mut open }.push(entry.path());
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_and_checked() {
        assert_eq!(full_name("claude").unwrap(), "claude.service");
        assert_eq!(full_name("claude@a\\x2db.service").unwrap(), "claude@a\\x2db.service");
        assert_eq!(full_name("agents.slice").unwrap(), "agents.slice");
        for wrong in ["", ".service", "a/b.service", "a b.service", "a\n.service", &"x".repeat(300)] {
            assert!(matches!(full_name(wrong), Err(TargetError::UnitName(_))), "{wrong:?}");
        }
    }

    #[test]
    fn directories_are_named_as_systemd_names_them() {
        for (unit, directory) in [
            ("claude@a.service", "claude@a.service"),
            ("cgroup.service", "_cgroup.service"),
            ("memory.slice", "_memory.slice"),
            ("memorial.slice", "memorial.slice"),
            ("_x.service", "__x.service"),
        ] {
            assert_eq!(escape(unit), directory);
        }
    }

    #[test]
    fn a_unit_is_found_wherever_its_manager_is() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = Hierarchy::at(root.path());
        let users = root.path().join("user.slice/user@1000.service/app.slice/claude.service");
        fs::create_dir_all(users.join("claude.service")).unwrap();
        assert_eq!(search(&hierarchy, "claude.service"), std::slice::from_ref(&users), "not below itself");
        let system = root.path().join("system.slice/claude.service");
        fs::create_dir_all(&system).unwrap();
        assert_eq!(search(&hierarchy, "claude.service"), [system, users]);
        assert_eq!(search(&hierarchy, "other.service"), Vec::<PathBuf>::new());
    }
}
