//! `[[agents]]`: which units, cgroups and containers get a policy without being asked for.
//!
//! Here is what a selector means for a name. Which names there are on a host is `agent::selector`'s.

use std::{collections::BTreeMap, fmt};

/// A shell pattern with `*` (any characters, none included) and `?` (exactly one), for one name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Glob(String);

impl Glob {
    /// Whether all of `name` fits.
    ///
    /// Each `*` is tried at most as often as `name` has characters, so a pattern of many stars and a long
    /// hostile name cost their product and no more.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        let (mut at, mut read) = (0, 0);
        // The last star, and what of the name it stands for ends here.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&character) = name.get(read) {
            match (pattern.get(at), star) {
                (Some('*'), _) => {
                    star = Some((at, read));
                    at += 1;
                }
                (Some(&wanted), _) if wanted == '?' || wanted == character => {
                    at += 1;
                    read += 1;
                }
                (_, Some((place, end))) => {
                    star = Some((place, end + 1));
                    at = place + 1;
                    read = end + 1;
                }
                _ => return false,
            }
        }
        pattern.iter().skip(at).all(|&rest| rest == '*')
    }

    /// Whether it stands for one name only.
    pub fn is_plain(&self) -> bool {
        !self.0.contains(['*', '?'])
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which agents a policy is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// systemd units by name.
    Unit(Glob),
    /// Cgroups by their path below the top of the hierarchy: a pattern for each directory on the way.
    Cgroup(Vec<Glob>),
    /// Containers by name or id.
    Container(Glob),
    /// Containers by a label and, where given, its value.
    Label(String, Option<Glob>),
}

/// Why something is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing.
    #[error("it is empty")]
    Empty,
    /// A unit has a kind.
    #[error("a unit's name ends in its kind")]
    UnitKind,
    /// A slash in a name.
    #[error("a name has no slash")]
    Slash,
    /// Space or control characters.
    #[error("it holds a space or a control character")]
    Character,
    /// Not from the top.
    #[error("the path does not begin at the top of the hierarchy")]
    Relative,
    /// `.`, `..` or nothing between slashes.
    #[error("the path has an empty, `.` or `..` part")]
    Part,
    /// The whole host.
    #[error("it would be the whole host, agentnet included")]
    Everything,
    /// A label without a name.
    #[error("the label has no name")]
    Label,
}

impl SelectorError {
    /// What would be right.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Empty | Self::Slash | Self::Character | Self::UnitKind => {
                "write unit = \"claude@*.service\", cgroup = \"/agents.slice\" or container = \
                 \"label:agentnet=coding\""
            }
            Self::Relative | Self::Part => {
                "write cgroup = \"/agents.slice\" for that cgroup with all below it, or \"/agents.slice/*\" \
                 for each cgroup in it"
            }
            Self::Everything => "name the cgroup that agents are in, such as \"/agents.slice\"",
            Self::Label => "write container = \"label:agentnet=coding\" or \"label:agentnet\"",
        }
    }
}

/// The kinds of unit that have a cgroup (systemd.unit(5)).
const UNIT_KINDS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];

/// How a selector for labels begins.
const LABEL: &str = "label:";

impl Selector {
    /// `unit = "..."`.
    ///
    /// # Errors
    /// Why it is not one.
    pub fn unit(text: &str) -> Result<Self, SelectorError> {
        let glob = name(text)?;
        if !UNIT_KINDS.iter().any(|kind| text.ends_with(kind) && text.len() > kind.len()) {
            return Err(SelectorError::UnitKind);
        }
        if text.trim_start_matches('*').starts_with('.') || text == "-.slice" {
            return Err(SelectorError::Everything);
        }
        Ok(Self::Unit(glob))
    }

    /// `cgroup = "..."`.
    ///
    /// # Errors
    /// Why it is not one.
    pub fn cgroup(text: &str) -> Result<Self, SelectorError> {
        if text.is_empty() {
            return Err(SelectorError::Empty);
        }
        let parts = text.strip_prefix('/').ok_or(SelectorError::Relative)?;
        if parts.is_empty() {
            return Err(SelectorError::Everything);
        }
        let part = |part: &str| match part {
            "" | "." | ".." => Err(SelectorError::Part),
            _ => name(part),
        };
        let parts: Vec<_> = parts.split('/').map(part).collect::<Result<_, _>>()?;
        if let [only] = parts.as_slice()
            && only.0.bytes().all(|byte| byte == b'*')
        {
            return Err(SelectorError::Everything);
        }
        Ok(Self::Cgroup(parts))
    }

    /// `container = "..."`.
    ///
    /// # Errors
    /// Why it is not one.
    pub fn container(text: &str) -> Result<Self, SelectorError> {
        let Some(label) = text.strip_prefix(LABEL) else { return Ok(Self::Container(name(text)?)) };
        let (key, value) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (label, None),
        };
        if key.is_empty() {
            return Err(SelectorError::Label);
        }
        let printable = |text: &str| !text.chars().any(char::is_control);
        if !printable(label) || key.contains(' ') {
            return Err(SelectorError::Character);
        }
        Ok(Self::Label(key.to_owned(), value.map(|value| Glob(value.to_owned()))))
    }

    /// Whether the unit called `unit` is meant.
    pub fn is_unit(&self, unit: &str) -> bool {
        matches!(self, Self::Unit(glob) if glob.matches(unit))
    }

    /// Whether the cgroup is meant that these directories below the top of the hierarchy lead to.
    pub fn is_cgroup(&self, parts: &[&str]) -> bool {
        matches!(self, Self::Cgroup(globs) if globs.len() == parts.len()
            && globs.iter().zip(parts).all(|(glob, part)| glob.matches(part)))
    }

    /// Whether a cgroup further down than these directories may be meant.
    pub fn may_be_below(&self, parts: &[&str]) -> bool {
        match self {
            Self::Unit(_) => true,
            Self::Cgroup(globs) => {
                globs.len() > parts.len() && globs.iter().zip(parts).all(|(glob, part)| glob.matches(part))
            }
            Self::Container(_) | Self::Label(..) => false,
        }
    }

    /// Whether the container is meant that has this name, id and these labels.
    pub fn is_container(&self, name: &str, id: &str, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Container(glob) => glob.matches(name) || glob.matches(id),
            Self::Label(key, value) => {
                labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|wanted| wanted.matches(found)))
            }
            Self::Unit(_) | Self::Cgroup(_) => false,
        }
    }

    /// Whether it is about containers, which a container runtime has to be asked for.
    pub const fn is_of_containers(&self) -> bool {
        matches!(self, Self::Container(_) | Self::Label(..))
    }
}

/// A pattern for one name.
fn name(text: &str) -> Result<Glob, SelectorError> {
    if text.is_empty() {
        return Err(SelectorError::Empty);
    }
    if text.contains('/') {
        return Err(SelectorError::Slash);
    }
    if text.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Err(SelectorError::Character);
    }
    Ok(Glob(text.to_owned()))
}

impl fmt::Display for Selector {
    /// As it is written in a policy: `unit = "claude@*.service"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(glob) => write!(f, "unit = \"{glob}\""),
            Self::Cgroup(globs) => {
                f.write_str("cgroup = \"")?;
                globs.iter().try_for_each(|glob| write!(f, "/{glob}"))?;
                f.write_str("\"")
            }
            Self::Container(glob) => write!(f, "container = \"{glob}\""),
            Self::Label(key, None) => write!(f, "container = \"{LABEL}{key}\""),
            Self::Label(key, Some(value)) => write!(f, "container = \"{LABEL}{key}={value}\""),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Glob(pattern.to_owned()).matches(name)
    }

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, expected) in [
            ("claude@*.service", "claude@a.service", true),
            ("claude@*.service", "claude@.service", true),
            ("claude@*.service", "claude@a.b.service", true),
            ("claude@*.service", "xclaude@a.service", false),
            ("claude@*.service", "claude@a.service.d", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "a\u{e4}c", true),
            ("*", "", true),
            ("?", "", false),
            ("", "", true),
            ("", "a", false),
            ("*a*b", "aXbXab", true),
            ("*a*b", "ba", false),
            ("a.b", "aXb", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn hostile_patterns_take_no_time() {
        let pattern = format!("{}b", "*a".repeat(200));
        assert!(!matches(&pattern, &"a".repeat(4000)));
    }

    proptest! {
        #[test]
        fn a_glob_is_the_regular_expression_it_looks_like(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            fn naive(pattern: &[u8], name: &[u8]) -> bool {
                match (pattern.split_first(), name.split_first()) {
                    (None, None) => true,
                    (Some((b'*', rest)), _) => {
                        naive(rest, name) || name.split_first().is_some_and(|(_, tail)| naive(pattern, tail))
                    }
                    (Some((wanted, rest)), Some((found, tail))) => {
                        (*wanted == b'?' || wanted == found) && naive(rest, tail)
                    }
                    _ => false,
                }
            }
            prop_assert_eq!(matches(&pattern, &name), naive(pattern.as_bytes(), name.as_bytes()));
        }
    }

    #[test]
    fn a_path_is_matched_part_by_part() {
        let children = Selector::cgroup("/agents.slice/*").unwrap();
        assert!(children.is_cgroup(&["agents.slice", "a.service"]));
        assert!(!children.is_cgroup(&["agents.slice"]), "the parent is not its child");
        assert!(!children.is_cgroup(&["agents.slice", "a.service", "b"]), "a star is one directory");
        assert!(children.may_be_below(&[]) && children.may_be_below(&["agents.slice"]));
        assert!(!children.may_be_below(&["system.slice"]));
        assert!(!children.may_be_below(&["agents.slice", "a.service"]));
        let parent = Selector::cgroup("/agents.slice").unwrap();
        assert!(parent.is_cgroup(&["agents.slice"]) && !parent.is_cgroup(&["agents.slice", "a.service"]));
    }

    #[test]
    fn containers_by_name_and_label() {
        let labels = BTreeMap::from([("agentnet".to_owned(), "coding".to_owned())]);
        let is = |text: &str| Selector::container(text).unwrap().is_container("dev-1", "0f3a", &labels);
        assert!(is("dev-*") && is("0f3a") && is("label:agentnet") && is("label:agentnet=cod*"));
        assert!(!is("dev") && !is("label:agentnet=") && !is("label:other=coding"));
    }

    #[test]
    fn what_is_no_selector() {
        for (wrong, error) in [
            (Selector::unit(""), SelectorError::Empty),
            (Selector::unit("claude"), SelectorError::UnitKind),
            (Selector::unit(".service"), SelectorError::UnitKind),
            (Selector::unit("*.service"), SelectorError::Everything),
            (Selector::unit("-.slice"), SelectorError::Everything),
            (Selector::unit("a/b.service"), SelectorError::Slash),
            (Selector::cgroup("agents.slice"), SelectorError::Relative),
            (Selector::cgroup("/"), SelectorError::Everything),
            (Selector::cgroup("/*"), SelectorError::Everything),
            (Selector::cgroup("/a//b"), SelectorError::Part),
            (Selector::cgroup("/a/../b"), SelectorError::Part),
            (Selector::cgroup("/a/"), SelectorError::Part),
            (Selector::container("a b"), SelectorError::Character),
            (Selector::container("label:=x"), SelectorError::Label),
        ] {
            assert_eq!(wrong, Err(error));
        }
    }

    #[test]
    fn selectors_are_shown_as_they_are_written() {
        for selector in [
            Selector::unit("claude@*.service"),
            Selector::cgroup("/agents.slice/*"),
            Selector::container("dev-*"),
            Selector::container("label:agentnet=coding"),
            Selector::container("label:agentnet"),
        ] {
            let text = selector.unwrap().to_string();
            let (key, value) = text.split_once(" = ").unwrap();
            let value = value.trim_matches('"');
            let again = match key {
                "unit" => Selector::unit(value),
                "cgroup" => Selector::cgroup(value),
                _ => Selector::container(value),
            };
            assert_eq!(again.unwrap().to_string(), text);
        }
    }
}
