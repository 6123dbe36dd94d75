//! Who lives in a cgroup, and who of them a process brought.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use nix::unistd::{Uid, User};
use procfs::process::{Process, all_processes};

use crate::alert::text::{MAX_PATH, clean};

/// How many are named.
const NAMED: usize = 10;

/// A process that lives in a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number; 0 if it is in a PID namespace that cannot be seen from here.
    pub pid: i32,
    /// Its command name, `?` if it has ended.
    pub comm: String,
    /// Its user; `None` if it has ended.
    pub uid: Option<u32>,
}

impl Member {
    /// What `/proc` says of `pid`.
    pub fn of(pid: i32) -> Self {
        let status = Process::new(pid).and_then(|process| process.status()).ok();
        Self {
            pid,
            comm: status.as_ref().map_or_else(|| "?".to_owned(), |status| clean(&status.name, MAX_PATH)),
            uid: status.map(|status| status.ruid),
        }
    }
}

impl fmt::Display for Member {
    /// `4211 (node, user alice)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", self.pid, self.comm)?;
        if let Some(uid) = self.uid {
            match User::from_uid(Uid::from_raw(uid)) {
                Ok(Some(user)) => write!(f, ", user {}", user.name)?,
                _ => write!(f, ", user {uid}")?,
            }
        }
        f.write_str(")")
    }
}

/// Processes that would be governed as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sharers(pub Vec<Member>);

impl fmt::Display for Sharers {
    /// The first ten, and how many more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, member) in self.0.iter().take(NAMED).enumerate() {
            write!(f, "{}{member}", if index == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The process `pid` and all that descend from it. A descendant whose parent has ended is init's: it is not
/// among them.
pub(super) fn tree(pid: i32) -> HashSet<i32> {
    let parents: Vec<(i32, i32)> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| {
            let stat = process.ok()?.stat().ok()?;
            Some((stat.pid, stat.ppid))
        })
        .collect();
    descendants(pid, &parents)
}

fn descendants(pid: i32, parents: &[(i32, i32)]) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for &(child, parent) in parents {
        children.entry(parent).or_default().push(child);
    }
    let mut tree = HashSet::from([pid]);
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            // The numbers were read one after the other: one that came round again must not make a circle.
            if tree.insert(child) {
                open.push(child);
            }
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_what_descends() {
        let parents = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 5)];
        assert_eq!(descendants(2, &parents), HashSet::from([2, 3, 4]));
        assert_eq!(descendants(7, &parents), HashSet::from([7]));
        assert_eq!(descendants(2, &[(3, 2), (2, 3)]), HashSet::from([2, 3]), "a circle ends");
    }

    #[test]
    fn the_first_ten_are_named_and_the_rest_counted() {
        let member = |pid| Member { pid, comm: "sh".to_owned(), uid: None };
        assert_eq!(Sharers(vec![member(1), member(2)]).to_string(), "1 (sh), 2 (sh)");
        let many = Sharers((1..=13).map(member).collect()).to_string();
        assert!(many.ends_with("10 (sh) and 3 more"), "{many}");
    }
}
