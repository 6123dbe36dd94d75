//! Which cgroups of this host the `[[agents]]` of the policies mean, and when each is to be governed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::cgroup::{Cgroup, CgroupError, Hierarchy};
use crate::policy::selector::Selector;

/// A selector with whose policy it is.
#[derive(Clone, Debug)]
pub struct Rule<P> {
    /// The policy, as the caller knows it.
    pub policy: P,
    /// Which agents get it.
    pub selector: Selector,
}

/// All selectors that are in force.
#[derive(Clone, Debug)]
pub struct Selectors<P> {
    rules: Vec<Rule<P>>,
}

/// A cgroup and a policy that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match<P> {
    /// The policy.
    pub policy: P,
    /// The selector, as it is written.
    pub selector: String,
    /// What the agent could be called: the unit's or cgroup's own name.
    pub name: String,
}

/// Whether something may have been sent before a cgroup was governed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// Nothing ran there yet, or it was governed by the same policy already from above.
    First,
    /// Processes were inside, or had been.
    Late,
}

impl<P: Clone + PartialEq> Selectors<P> {
    /// Those of `rules`.
    pub const fn new(rules: Vec<Rule<P>>) -> Self {
        Self { rules }
    }

    /// Whether there are none that a cgroup alone can fulfil: then the hierarchy need not be watched.
    pub fn is_empty(&self) -> bool {
        self.rules.iter().all(|rule| rule.selector.is_of_containers())
    }

    /// Those for containers.
    pub fn of_containers(&self) -> impl Iterator<Item = &Rule<P>> {
        self.rules.iter().filter(|rule| rule.selector.is_of_containers())
    }

    /// The policies that want the cgroup `path` itself, each once. Never the root cgroup, nor one with agentnet
    /// inside, which is in `own`: a pattern must not cut off what governs.
    pub fn matches(&self, hierarchy: &Hierarchy, own: &Path, path: &Path) -> Vec<Match<P>> {
        let Some(parts) = parts(hierarchy, path) else { return Vec::new() };
        let Some(last) = parts.last().filter(|_| !own.starts_with(path)) else { return Vec::new() };
        let unit = unescape(last);
        let mut found: Vec<Match<P>> = Vec::new();
        for rule in &self.rules {
            let meant = rule.selector.is_unit(unit) || rule.selector.is_cgroup(&parts);
            if meant && !found.iter().any(|known| known.policy == rule.policy) {
                found.push(Match {
                    policy: rule.policy.clone(),
                    selector: rule.selector.to_string(),
                    name: unit.to_owned(),
                });
            }
        }
        found
    }

    /// Of [`Self::matches`], those for which it is to be governed: not if one of the cgroups above it has the same
    /// policy already, `governed` being all that are governed and how.
    pub fn due<'a>(
        &self,
        hierarchy: &Hierarchy,
        own: &Path,
        path: &Path,
        governed: impl IntoIterator<Item = (&'a Path, &'a P)>,
    ) -> Vec<Match<P>>
    where
        P: 'a,
    {
        let mut found = self.matches(hierarchy, own, path);
        if !found.is_empty() {
            for (above, policy) in governed {
                if path.starts_with(above) {
                    found.retain(|candidate| candidate.policy != *policy);
                }
            }
        }
        found
    }

    /// The cgroups that are there and may be meant, a parent before its children.
    pub fn there(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![hierarchy.top().path().to_owned()];
        // Without recursion: an agent may make them as deep as it likes.
        while let Some(path) = open.pop() {
            if !self.may_be_below(hierarchy, &path) {
                continue;
            }
            // Gone meanwhile, or told by the watch, which lists it too.
            let children = fs::read_dir(&path).into_iter().flatten().flatten();
            let children = children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for child in children {
                found.push(child.path());
                open.push(child.path());
            }
        }
        found.sort();
        found
    }

    /// Whether a cgroup below `path` may be meant, and not be covered by a match further up: only such
    /// directories are watched.
    pub fn may_be_below(&self, hierarchy: &Hierarchy, path: &Path) -> bool {
        let Some(parts) = parts(hierarchy, path) else { return false };
        let covered = |policy: &P| {
            (1..=parts.len()).any(|length| {
                let above = parts.get(..length).unwrap_or_default();
                let unit = above.last().map(|last| unescape(last)).unwrap_or_default();
                self.rules.iter().any(|rule| {
                    rule.policy == *policy && (rule.selector.is_unit(unit) || rule.selector.is_cgroup(above))
                })
            })
        };
        self.rules.iter().any(|rule| rule.selector.may_be_below(&parts) && !covered(&rule.policy))
    }
}

/// Whether the governance of `cgroup` came late. To be asked as soon as it is governed, so that nothing can
/// slip in between; what started since then counts as late too, which errs on the side of telling.
///
/// `covered` says that a cgroup above it had the same policy before.
///
/// # Errors
/// If the kernel does not say who lives there.
pub fn timing(cgroup: &Cgroup, covered: bool) -> Result<Timing, CgroupError> {
    if covered {
        return Ok(Timing::First);
    }
    let ran = || {
        // Processor time that was used there, also by processes that are gone.
        let stat = fs::read_to_string(cgroup.path().join("cpu.stat")).unwrap_or_default();
        let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        used.is_some_and(|used| used.trim() != "0")
    };
    Ok(if cgroup.is_populated()? || ran() { Timing::Late } else { Timing::First })
}

/// The directories from the top of the hierarchy to `path`. Names that are not text are nobody's.
fn parts<'a>(hierarchy: &Hierarchy, path: &'a Path) -> Option<Vec<&'a str>> {
    let below = path.strip_prefix(hierarchy.top().path()).ok()?;
    below.components().map(|part| part.as_os_str().to_str()).collect()
}

/// The unit whose directory this is: systemd puts an underscore before a name that could be mistaken
/// (`cg_unescape`, src/basic/cgroup-util.c).
fn unescape(directory: &str) -> &str {
    directory.strip_prefix('_').unwrap_or(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(rules: &[(&'static str, Selector)]) -> Selectors<&'static str> {
        let rules =
            rules.iter().map(|(policy, selector)| Rule { policy: *policy, selector: selector.clone() });
        Selectors::new(rules.collect())
    }

    fn unit(text: &str) -> Selector {
        Selector::unit(text).unwrap()
    }

    fn cgroup(text: &str) -> Selector {
        Selector::cgroup(text).unwrap()
    }

    fn names(found: &[Match<&'static str>]) -> Vec<&'static str> {
        found.iter().map(|found| found.policy).collect()
    }

    const OWN: &str = "/cg/system.slice/agentnet.service";

    fn matches(selectors: &Selectors<&'static str>, path: &str) -> Vec<&'static str> {
        names(&selectors.matches(&Hierarchy::at("/cg"), Path::new(OWN), Path::new(path)))
    }

    #[test]
    fn units_match_at_any_depth_and_paths_where_they_are() {
        let selectors = selectors(&[
            ("a", unit("claude@*.service")),
            ("b", cgroup("/agents.slice/*")),
            ("a", cgroup("/agents.slice/claude@*")),
        ]);
        assert_eq!(matches(&selectors, "/cg/system.slice/claude@x.service"), ["a"]);
        assert_eq!(matches(&selectors, "/cg/user.slice/user@1.service/app.slice/claude@x.service"), ["a"]);
        assert_eq!(matches(&selectors, "/cg/agents.slice/claude@x.service"), ["a", "b"], "each policy once");
        assert_eq!(matches(&selectors, "/cg/agents.slice"), [""; 0]);
        assert_eq!(matches(&selectors, "/elsewhere/agents.slice/x"), [""; 0]);
    }

    #[test]
    fn agentnet_itself_is_never_meant() {
        let selectors = selectors(&[("a", unit("s*.slice")), ("b", unit("agentnet*.service"))]);
        assert_eq!(matches(&selectors, "/cg/system.slice"), [""; 0]);
        assert_eq!(matches(&selectors, OWN), [""; 0]);
        assert_eq!(matches(&selectors, "/cg/sandbox.slice"), ["a"]);
        assert_eq!(matches(&selectors, "/cg"), [""; 0]);
    }

    #[test]
    fn what_is_covered_from_above_is_not_governed_again() {
        let selectors = selectors(&[("a", unit("x.service")), ("b", unit("x.service"))]);
        let due = |governed: &[(&str, &'static str)], path: &str| {
            let governed = governed.iter().map(|(path, policy)| (Path::new(*path), policy));
            names(&selectors.due(&Hierarchy::at("/cg"), Path::new(OWN), Path::new(path), governed))
        };
        assert_eq!(due(&[], "/cg/agents.slice/x.service"), ["a", "b"]);
        assert_eq!(due(&[("/cg/agents.slice", "a")], "/cg/agents.slice/x.service"), ["b"]);
        assert_eq!(due(&[("/cg/agents.slice", "a")], "/cg/agents.slice2/x.service"), ["a", "b"]);
        assert_eq!(due(&[("/cg/agents.slice/x.service", "b")], "/cg/agents.slice/x.service"), ["a"]);
    }

    #[test]
    fn only_what_can_matter_is_watched() {
        let hierarchy = Hierarchy::at("/cg");
        let paths = selectors(&[("a", cgroup("/agents.slice/*"))]);
        let below =
            |selectors: &Selectors<_>, path: &str| selectors.may_be_below(&hierarchy, Path::new(path));
        assert!(below(&paths, "/cg") && below(&paths, "/cg/agents.slice"));
        assert!(!below(&paths, "/cg/system.slice") && !below(&paths, "/cg/agents.slice/x"));
        let units = selectors(&[("a", unit("x.service"))]);
        assert!(below(&units, "/cg/system.slice"));
        assert!(!below(&units, "/cg/system.slice/x.service"), "what it makes itself is covered");
        let both = selectors(&[("a", unit("x.service")), ("b", unit("y.service"))]);
        assert!(below(&both, "/cg/system.slice/x.service"), "another policy may want what is in it");
    }

    #[test]
    fn names_that_systemd_escaped_are_the_units() {
        let selectors = selectors(&[("a", unit("memory.service"))]);
        let found = selectors.matches(
            &Hierarchy::at("/cg"),
            Path::new(OWN),
            Path::new("/cg/system.slice/_memory.service"),
        );
        assert_eq!(found[0].name, "memory.service");
        assert_eq!(found[0].selector, "unit = \"memory.service\"");
    }
}
