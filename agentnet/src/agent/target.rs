//! What people call an agent's place, resolved to the cgroup that is meant.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
};

use super::cgroup::{Cgroup, CgroupError, Hierarchy};
use crate::control::protocol::Target;

/// Why a place is not one that can be governed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// There is no such cgroup.
    #[error("there is no cgroup {}: name a directory below {}", path.display(), mount.display())]
    NoCgroup {
        /// What was looked for.
        path: PathBuf,
        /// Where cgroup v2 is mounted.
        mount: PathBuf,
    },
    /// It is the whole host.
    #[error("{} holds every process of this host; name a cgroup below it", .0.display())]
    Top(PathBuf),
    /// It cannot be told.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Not this way.
    #[error("this version attaches cgroups by their path alone; name one with --cgroup")]
    Unsupported,
}

/// The cgroup that is meant.
///
/// # Errors
/// See [`TargetError`].
pub fn resolve(target: &Target, hierarchy: &Hierarchy) -> Result<Cgroup, TargetError> {
    match target {
        Target::Cgroup(path) => by_path(path, hierarchy),
        Target::Pid(_) | Target::Unit(_) | Target::Container(_) => Err(TargetError::Unsupported),
    }
}

/// The cgroup at `path`: the directory itself, or its place below the mount point.
fn by_path(path: &Path, hierarchy: &Hierarchy) -> Result<Cgroup, TargetError> {
    let top = hierarchy.top();
    let mount = top.path();
    let absent = || TargetError::NoCgroup { path: path.to_owned(), mount: mount.to_owned() };
    // Links and dots name other places than they seem to.
    let inside = path.strip_prefix(mount).unwrap_or_else(|_| path.strip_prefix("/").unwrap_or(path));
    if inside.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(absent());
    }
    if inside.as_os_str().is_empty() {
        return Err(TargetError::Top(mount.to_owned()));
    }
    let directory = mount.join(inside);
    let device = |path: &Path| std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir);
    match (device(&directory), device(mount)) {
        (Some(found), Some(top)) if found.dev() == top.dev() => Ok(Cgroup::at(directory)),
        _ => Err(absent()),
    }
}
