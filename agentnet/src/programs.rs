//! Finding programs, as execvp(3) does.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use rustix::fs::Access;

/// What the C library's `execvp` searches when `PATH` is unset.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Programs that give root, in the order in which they are tried.
const ELEVATORS: [&str; 2] = ["sudo", "doas"];

/// The files to try for `command`, in order: itself if it has a slash, else one for each entry of `path`, the
/// value of `PATH`. An empty entry is the working directory.
pub fn candidates(command: &OsStr, path: Option<&OsStr>) -> Vec<PathBuf> {
    if command.is_empty() {
        Vec::new()
    } else if command.as_encoded_bytes().contains(&b'/') {
        vec![command.into()]
    } else {
        let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
        env::split_paths(path).map(|directory| directory.join(command)).collect()
    }
}

/// The program that gives root: sudo, or else doas. What cannot be executed is passed over, and so is what a
/// relative entry of `path` leads to.
pub fn elevator(path: Option<&OsStr>) -> Option<PathBuf> {
    let usable = |file: &Path| {
        file.is_absolute() && file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok()
    };
    ELEVATORS.iter().find_map(|name| candidates(OsStr::new(name), path).into_iter().find(|file| usable(file)))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_name_is_searched_in_path_and_a_path_is_not() {
        let names = |command: &str, path: Option<&str>| {
            let found = candidates(OsStr::new(command), path.map(OsStr::new));
            found.into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("ls", Some("/a:/b")), ["/a/ls", "/b/ls"]);
        assert_eq!(names("ls", None), ["/bin/ls", "/usr/bin/ls"]);
        assert_eq!(
            names("ls", Some(":/b:")),
            ["ls", "/b/ls", "ls"],
            "an empty entry is the working directory"
        );
        assert_eq!(names("./ls", Some("/a")), ["./ls"]);
        assert!(names("", Some("/a")).is_empty());
    }

    #[test]
    fn sudo_comes_before_doas_and_must_be_executable() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = env::join_paths([Path::new("relative"), one.path(), two.path()]).unwrap();
        let found = || elevator(Some(&path));
        assert_eq!(found(), None);
        let make = |file: PathBuf, mode| {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let doas = make(one.path().join("doas"), 0o755);
        assert_eq!(found(), Some(doas.clone()));
        make(one.path().join("sudo"), 0o644);
        assert_eq!(found(), Some(doas), "what cannot be executed is passed over");
        let sudo = make(two.path().join("sudo"), 0o755);
        assert_eq!(found(), Some(sudo));
    }
}
