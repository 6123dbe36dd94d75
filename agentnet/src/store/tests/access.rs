//! Who may read, and what is not followed.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::{Archive, Readers, Source, Store, at, name};

fn mode(path: &std::path::Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn others_may_neither_read_nor_write() {
    let store = Store::of(1 << 20);
    store.log("a").append(&Source::of("a").alert("1", at(1)), at(1));
    assert_eq!(mode(&store.directory("a")), 0o750);
    assert_eq!(mode(&store.segments("a")[0]), 0o640);
    assert_eq!(
        mode(&store.directory("a").join("lock")),
        0o600,
        "who can lock it keeps it from being removed"
    );
}

#[test]
fn a_user_is_let_in_without_the_rest_of_a_group() {
    let store = Store::of(1 << 20);
    let readers = Readers { group: None, user: Some(12_345) };
    let mut log = Archive::new(store.options.clone()).log(&name("a"), readers);
    if let Some(trouble) = log.append(&Source::of("a").alert("1", at(1)), at(1)) {
        assert!(trouble.lost == 0 && trouble.error.contains("not supported"), "{trouble:?}");
        eprintln!("no access control lists on this file system: {}", trouble.error);
        return;
    }
    for path in [store.directory("a"), store.segments("a").remove(0)] {
        let mut list = vec![0; 256];
        let length = rustix::fs::getxattr(&path, "system.posix_acl_access", &mut list).unwrap();
        assert!(list[..length].windows(4).any(|id| id == 12_345_u32.to_le_bytes()), "{}", path.display());
        assert_eq!(mode(&path) & 0o027, 0, "{} is open to more than that user", path.display());
    }
}

#[test]
fn links_in_the_place_of_a_directory_are_not_followed() {
    for depth in ["alerts", "alerts/a"] {
        let store = Store::of(1 << 20);
        let elsewhere = store.options.directory.with_extension("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let link = store.options.directory.join(depth);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(&elsewhere, &link).unwrap();
        let trouble = store.log("a").append(&Source::of("a").alert("1", at(1)), at(1)).unwrap();
        assert_eq!(trouble.lost, 1, "{trouble:?}");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "something was written behind the link");
    }
}

#[test]
fn a_directory_that_others_may_change_is_not_used() {
    let store = Store::of(1 << 20);
    let alerts = store.options.directory.join("alerts");
    fs::create_dir_all(&alerts).unwrap();
    fs::set_permissions(&alerts, fs::Permissions::from_mode(0o777)).unwrap();
    let trouble = store.log("a").append(&Source::of("a").alert("1", at(1)), at(1)).unwrap();
    assert!(trouble.error.contains("can be changed by others"), "{trouble:?}");
    fs::set_permissions(&alerts, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(store.log("a").append(&Source::of("a").alert("2", at(2)), at(2)), None);
    assert_eq!(store.read(), ["2"]);
}
