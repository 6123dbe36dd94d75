//! Doors: which Unix sockets an agent may connect or send to.
//!
//! A hook sees the name that the process wrote, not the socket that it leads to: a symbolic link, a relative path,
//! `/proc/self/root`, a bind mount or another root directory give a door another name. So a name is never looked at to
//! find out what is to be refused: only names that the policy gives are open, and a path only as it is written there.
//! See docs/decisions/0008-unix-sockets.md.

use crate::{
    abi::{AgentCfg, CFG_UNIX_ANY, Door, SUN_PATH},
    verdict::{Reason, RuleId, Verdict},
};

/// A name: `sun_path` as the kernel takes it, and zero behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorName {
    /// The bytes.
    pub bytes: [u8; SUN_PATH],
    /// How many of them; of a path those before its end, of an abstract name the leading zero as well.
    pub len: u32,
}

/// The doors of a policy as the verdict reads them.
pub trait Doors {
    /// The longest entry for `name` among the doors of policy `slot`.
    fn door(&self, slot: u32, name: &DoorName) -> Option<Door>;

    /// [`DoorName::is_plain`].
    #[inline(always)]
    fn is_plain(&self, name: &DoorName) -> bool {
        name.is_plain()
    }
}

impl DoorName {
    /// Whether it is an abstract one.
    #[inline(always)]
    pub const fn is_abstract(&self) -> bool {
        self.bytes[0] == 0
    }

    /// What is to be said of its path.
    pub fn walk(&self) -> PathWalk {
        let mut walk = PathWalk::START;
        for byte in &self.bytes {
            if !walk.step(*byte) {
                break;
            }
        }
        walk
    }

    /// Whether it is a path that says where it leads: from the root, without `.`, `..` and empty parts.
    pub fn is_plain(&self) -> bool {
        self.walk().is_plain()
    }

    /// Whether `door` is an entry for this name and not only for its beginning. `is_plain`: see [`DoorName::is_plain`].
    #[inline(always)]
    pub const fn is_at(&self, door: Door, is_plain: bool) -> bool {
        if door.len == 0 { !self.is_abstract() && is_plain } else { door.len == self.len }
    }
}

/// A path, read byte by byte up to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathWalk {
    /// Bytes before the end.
    pub len: u32,
    /// What the part of the path that is being read holds.
    part: u32,
    /// Whether nothing was found so far that leads elsewhere.
    plain: u32,
}

impl PathWalk {
    /// Nothing was read.
    pub const START: Self = Self { len: 0, part: Self::SOME, plain: 1 };

    /// A part is empty, one dot, two dots, or something else.
    const EMPTY: u32 = 0;
    const DOT: u32 = 1;
    const DOTS: u32 = 2;
    const SOME: u32 = 3;

    /// Reads the next byte; `false` if that is the end.
    #[inline(always)]
    pub const fn step(&mut self, byte: u8) -> bool {
        if byte == 0 {
            return false;
        }
        let slash = byte == b'/';
        if self.len == 0 && !slash || slash && self.part != Self::SOME {
            self.plain = 0;
        }
        self.part = match (byte, self.part) {
            (b'/', _) => Self::EMPTY,
            (b'.', Self::EMPTY) => Self::DOT,
            (b'.', Self::DOT) => Self::DOTS,
            _ => Self::SOME,
        };
        self.len += 1;
        true
    }

    /// The same after every word went through `hide`, which changes none.
    #[inline(always)]
    pub fn map(self, hide: impl Fn(u32) -> u32) -> Self {
        Self { len: hide(self.len), part: hide(self.part), plain: hide(self.plain) }
    }

    /// See [`DoorName::is_plain`].
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.len > 0 && self.plain != 0 && self.part == Self::SOME
    }
}

/// Decides whether the agent of `cfg` may connect or send to the Unix socket called `name`.
#[inline(always)]
pub fn decide<T: Doors>(doors: &T, cfg: &AgentCfg, name: &DoorName) -> Verdict {
    if cfg.is_quarantined() {
        Verdict::Deny(Reason::Quarantined)
    } else if cfg.flags & CFG_UNIX_ANY != 0
        || doors.door(cfg.slot, name).is_some_and(|door| name.is_at(door, doors.is_plain(name)))
    {
        Verdict::Allow(RuleId::UNIX)
    } else {
        Verdict::Deny(Reason::UnixSocket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{MODE_ENFORCE, MODE_QUARANTINE};

    fn name(text: &str) -> DoorName {
        let mut bytes = [0; SUN_PATH];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        DoorName { bytes, len: u32::try_from(text.len()).unwrap() }
    }

    /// The tries of the kernel, slowly.
    struct Entries(&'static [&'static str]);

    impl Doors for Entries {
        fn door(&self, _slot: u32, name: &DoorName) -> Option<Door> {
            let key = |entry: &str| {
                let path = entry.starts_with('/') && !entry.ends_with('/');
                if path { format!("{entry}\0") } else { entry.to_owned() }
            };
            let fits = self.0.iter().filter(|entry| name.bytes.starts_with(key(entry).as_bytes()));
            let longest = fits.max_by_key(|entry| entry.len())?;
            let len = if longest.ends_with('/') { 0 } else { longest.len() };
            Some(Door { len: u32::try_from(len).unwrap() })
        }
    }

    const ENTRIES: Entries = Entries(&["/run/a.sock", "/run/pg/", "\0abstract"]);
    fn decided(flags: u8, text: &str) -> bool {
        let cfg =
            AgentCfg { agent: 1, slot: 0, generation: 1, mode: MODE_ENFORCE, loopback: 0, listen: 0, flags };
        let quarantined = AgentCfg { mode: MODE_QUARANTINE, ..cfg };
        assert_eq!(decide(&ENTRIES, &quarantined, &name(text)), Verdict::Deny(Reason::Quarantined));
        matches!(decide(&ENTRIES, &cfg, &name(text)), Verdict::Allow(_))
    }

    #[test]
    fn only_what_is_named_is_open() {
        for open in ["/run/a.sock", "/run/pg/x", "/run/pg/deep/er/.s.PGSQL.5432", "\0abstract"] {
            assert!(decided(0, open), "{open:?}");
        }
        for closed in [
            "/run/a.soc",
            "/run/a.sockx",
            "/run/a.sock/",
            "//run/a.sock",
            "/run/./a.sock",
            "/run/pg",
            "/run/pg/",
            "/run/pg/../b.sock",
            "/run/pg/./x",
            "/run/pg//x",
            "/run/pg/x/..",
            "/run/pg/x/.",
            "/run/pg/x/",
            "run/a.sock",
            "./a.sock",
            "a.sock",
            "/proc/self/fd/3",
            "/proc/self/root/run/a.sock",
            "\0abstrac",
            "\0abstractx",
            "abstract",
            "\0",
            "\0/run/a.sock",
            "",
        ] {
            assert!(!decided(0, closed), "{closed:?}");
            assert!(decided(CFG_UNIX_ANY, closed), "{closed:?}");
        }
    }

    #[test]
    fn a_name_may_fill_all_the_room_there_is() {
        let long = format!("/run/pg/{}", "x".repeat(SUN_PATH - 8));
        assert!(name(&long).is_plain() && decided(0, &long));
        assert!(!name(&format!("/run/pg/{}/..", "x".repeat(SUN_PATH - 11))).is_plain());
        assert!(!name(&format!("/run/pg/{}/", "x".repeat(SUN_PATH - 9))).is_plain());
    }
}
