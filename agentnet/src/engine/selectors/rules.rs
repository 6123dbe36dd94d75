//! The selectors of the policies in a directory.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::super::{
    selection::{Origin, Selection},
    slots::Slots,
};
use crate::{
    agent::selector::{Rule, Selectors},
    policy::{host::Host, selector::Selector, validate::is_policy_name},
};

/// The selectors of each policy.
#[derive(Debug, Default)]
pub(super) struct Rules {
    known: BTreeMap<String, Vec<Selector>>,
    /// Why the selectors of a policy, or of all (an empty name), are those of before.
    wrong: BTreeMap<String, (String, String)>,
}

impl Rules {
    /// Reads all policies of `directory`. Those that are invalid keep the selectors they had.
    pub(super) fn read(&mut self, directory: &Path, host: &Host, slots: &Slots) {
        self.wrong.clear();
        let names = match names(directory) {
            Ok(names) => names,
            Err(error) => {
                let why = format!("cannot list the policies in {}: {error}", directory.display());
                let problem = format!("{why}; the selectors of policies stay as they were");
                self.wrong.insert(String::new(), (why, problem));
                return;
            }
        };
        // Of a policy that is gone nothing new is governed; its agents keep it.
        self.known.retain(|name, _| names.contains(name));
        for name in names {
            match Selection::again(&Origin::Named(name.clone()), None, directory, host, slots) {
                Ok(selection) => {
                    let agents = &selection.policy.compiled.agents;
                    self.known.insert(name, agents.iter().map(|entry| entry.selector.clone()).collect());
                }
                Err(why) => {
                    let problem =
                        format!("policy {name} is invalid, so that what it selects stays as it was: {why}");
                    self.wrong.insert(name, (why, problem));
                }
            }
        }
    }

    /// All selectors, by the names of their policies.
    pub(super) fn selectors(&self) -> Selectors<String> {
        let rules = self.known.iter().flat_map(|(policy, selectors)| {
            selectors.iter().map(|selector| Rule { policy: policy.clone(), selector: selector.clone() })
        });
        Selectors::new(rules.collect())
    }

    /// Whether it is known what the policy selects.
    pub(super) fn is_known(&self, policy: &str) -> bool {
        self.known.contains_key(policy) && !self.wrong.contains_key(policy) && !self.wrong.contains_key("")
    }

    /// Whether the policy has this selector, as it is written, and it is about containers.
    pub(super) fn has_for_containers(&self, policy: &str, selector: &str) -> bool {
        let selectors = self.known.get(policy).into_iter().flatten();
        selectors.filter(|known| known.is_of_containers()).any(|known| known.to_string() == selector)
    }

    /// What is wrong with the policies.
    pub(super) fn why(&self) -> impl Iterator<Item = String> {
        self.wrong.values().map(|(why, _)| why.clone())
    }

    /// What follows from it.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.wrong.values().map(|(_, problem)| problem)
    }
}

/// The names of the policies in a directory; none if it is not there.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".toml"));
        names.extend(name.filter(|name| is_policy_name(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::cgroup::Hierarchy;

    const SELECTING: &str = "version = 1\nname = \"a\"\n\n[[agents]]\ncgroup = \"/a/*\"\n";

    fn read(rules: &mut Rules, directory: &Path) -> Vec<String> {
        rules.read(directory, &Host::default(), &Slots::default());
        rules.why().collect()
    }

    #[test]
    fn what_cannot_be_read_keeps_what_it_had() {
        let directory = tempfile::tempdir().unwrap();
        let (a, other) = (directory.path().join("a.toml"), directory.path().join("Not A Policy.toml"));
        fs::write(&a, SELECTING).unwrap();
        fs::write(other, "moed = 1").unwrap();
        let mut rules = Rules::default();
        assert_eq!(read(&mut rules, directory.path()), [""; 0]);
        assert!(rules.is_known("a") && !rules.selectors().is_empty());
        fs::write(&a, "version = 1\nname = \"a\"\nmoed = 1\n").unwrap();
        assert!(read(&mut rules, directory.path())[0].contains("moed"));
        assert!(!rules.is_known("a") && !rules.selectors().is_empty(), "it keeps its selectors");
        fs::write(&a, "version = 1\nname = \"a\"\n").unwrap();
        assert_eq!(read(&mut rules, directory.path()), [""; 0]);
        assert!(rules.is_known("a") && rules.selectors().is_empty());
        fs::remove_file(&a).unwrap();
        assert_eq!(read(&mut rules, directory.path()), [""; 0]);
        assert!(!rules.is_known("a"), "nothing is let go because a file is gone");
    }

    #[test]
    fn parents_come_before_their_children() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b/c")).unwrap();
        fs::create_dir_all(top.path().join("x/y")).unwrap();
        let rule = Rule { policy: "p".to_owned(), selector: Selector::cgroup("/a/b").unwrap() };
        let found = Selectors::new(vec![rule]).there(&Hierarchy::at(top.path()));
        let below: Vec<_> =
            found.iter().map(|path| path.strip_prefix(top.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(below, ["a", "a/b", "x"]);
    }
}
