use std::{cell::RefCell, fs, io, path::PathBuf};

use jiff::Timestamp;

use super::*;

/// A host on which the cgroups in `populated` have processes.
#[derive(Default)]
struct Fake {
    populated: Vec<PathBuf>,
    stuck: bool,
    cleared: RefCell<Vec<PathBuf>>,
}

impl Host for Fake {
    fn is_populated(&self, meta: &Meta) -> io::Result<bool> {
        Ok(self.populated.contains(&meta.cgroup))
    }

    fn clear(&self, _: &AgentName, meta: &Meta) -> io::Result<()> {
        if self.stuck {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.cleared.borrow_mut().push(meta.cgroup.clone());
        Ok(())
    }
}

fn registry() -> (tempfile::TempDir, Registry) {
    let root = tempfile::tempdir().unwrap();
    let registry = Registry { root: root.path().join("agentnet") };
    (root, registry)
}

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

fn meta(cgroup: &str) -> Meta {
    Meta {
        cgroup: cgroup.into(),
        pins: "/pins".into(),
        started: Timestamp::UNIX_EPOCH,
        policy: "coding".into(),
        audit: false,
        client: 7,
        uid: 1000,
        id: 1,
        engine: EngineKind::Run,
        made: true,
    }
}

fn claim(registry: &Registry, agent: &str) -> Result<Entry> {
    let entry = registry.claim(&registry.exclusive().unwrap(), &name(agent))?;
    entry.write(&meta(agent)).unwrap();
    Ok(entry)
}

fn collect(registry: &Registry, host: &Fake) -> Vec<(String, bool)> {
    let collected = registry.collect(&registry.exclusive().unwrap(), host).unwrap();
    collected.into_iter().map(|(name, result)| (name.to_string(), result.is_ok())).collect()
}

#[test]
fn a_living_owner_is_left_alone() {
    let (_root, registry) = registry();
    assert!(registry.list().unwrap().is_empty(), "no directory, no agents");
    let entry = claim(&registry, "a").unwrap();
    assert!(matches!(claim(&registry, "a"), Err(RegistryError::InUse(_))));
    assert_eq!(collect(&registry, &Fake::default()), []);
    let listed = registry.list().unwrap();
    assert_eq!((listed.len(), listed[0].owner), (1, Owner::Alive));
    assert_eq!(listed[0].meta, Some(meta("a")));
    entry.remove(&registry.exclusive().unwrap()).unwrap();
    assert!(registry.list().unwrap().is_empty());
    assert!(claim(&registry, "a").is_ok(), "the name is free again");
}

#[test]
fn a_dead_owner_is_cleared_when_its_cgroup_is_empty() {
    let (_root, registry) = registry();
    drop(claim(&registry, "full").unwrap());
    drop(claim(&registry, "empty").unwrap());
    let mut host = Fake { populated: vec!["full".into()], ..Fake::default() };
    assert_eq!(collect(&registry, &host), [("empty".to_owned(), true)]);
    assert_eq!(*host.cleared.borrow(), [PathBuf::from("empty")]);
    let listed = registry.list().unwrap();
    assert_eq!((listed.len(), listed[0].owner), (1, Owner::Gone));
    assert!(matches!(claim(&registry, "full"), Err(RegistryError::Ownerless(_))));

    host.populated.clear();
    host.stuck = true;
    assert_eq!(collect(&registry, &host), [("full".to_owned(), false)], "reported and kept");
    assert_eq!(registry.list().unwrap().len(), 1);
    host.stuck = false;
    assert_eq!(collect(&registry, &host), [("full".to_owned(), true)]);
    assert!(registry.list().unwrap().is_empty());
}

#[test]
fn what_a_crash_leaves_half_made_is_cleared() {
    let (_root, registry) = registry();
    drop(registry.claim(&registry.exclusive().unwrap(), &name("no-meta")).unwrap());
    fs::create_dir(registry.agents().join("no-lock")).unwrap();
    drop(claim(&registry, "unreadable").unwrap());
    fs::write(registry.agents().join("unreadable").join(META), "{").unwrap();
    let collected = collect(&registry, &Fake::default());
    let expected = [("no-lock", true), ("no-meta", true), ("unreadable", false)];
    assert_eq!(collected, expected.map(|(name, ok)| (name.to_owned(), ok)));
}

#[test]
fn collectors_take_turns() {
    let (_root, registry) = registry();
    for index in 0..20 {
        drop(claim(&registry, &format!("a{index}")).unwrap());
    }
    // Each entry is cleared by exactly one of them, and by none twice.
    let counts = std::thread::scope(|scope| {
        let collectors: Vec<_> =
            (0..4).map(|_| scope.spawn(|| collect(&registry, &Fake::default()).len())).collect();
        collectors.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(counts, 20);
    assert!(registry.list().unwrap().is_empty());
}

#[test]
fn there_is_one_daemon() {
    let (_root, registry) = registry();
    let daemon = registry.daemon().unwrap();
    assert!(matches!(registry.daemon(), Err(RegistryError::DaemonRuns)));
    drop(daemon);
    assert!(registry.daemon().is_ok());
}

#[test]
fn an_entry_is_adopted_when_its_owner_is_gone() {
    let (_root, registry) = registry();
    let owner = claim(&registry, "a").unwrap();
    let adopt = |agent| registry.adopt(&registry.exclusive().unwrap(), &name(agent));
    assert!(matches!(adopt("a"), Err(RegistryError::InUse(_))));
    drop(owner);
    let entry = adopt("a").unwrap();
    assert_eq!(registry.list().unwrap()[0].owner, Owner::Alive);
    drop(entry);
    assert!(adopt("nobody").is_err());
}
