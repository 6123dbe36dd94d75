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
            walk.step(*byte, |word| word);
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

/// A path, read byte by byte up to its end, beyond which nothing changes.
///
/// In arithmetic alone: the verifier follows each branch through the rest of the path, and reading one by cases takes it
/// longer than all else that a connection goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathWalk {
    /// Bytes before the end.
    pub len: u32,
    /// What the part of the path that is being read holds, from 0 to 3: nothing, one dot, two dots, something else.
    part: u32,
    /// 1 if something was found that leads elsewhere, else 0.
    elsewhere: u32,
    /// 1 before the end, else 0.
    pub goes_on: u32,
}

impl PathWalk {
    /// Nothing was read.
    pub const START: Self = Self { len: 0, part: Self::SOME, elsewhere: 0, goes_on: 1 };

    const SOME: u32 = 3;
    /// What a part holds after one more byte, two bits each: for a dot after parts 0 to 3, for a slash, for all else.
    const NEXT: u32 = 0xffff_00f9;
    /// Whether that leads elsewhere, a bit each: a slash after a part that is no name.
    const LEADS_ELSEWHERE: u32 = 0x0070;

    /// Reads the next byte. `hide` changes no word; it keeps the compiler from making branches.
    #[inline(always)]
    pub fn step(&mut self, byte: u8, hide: impl Fn(u32) -> u32) {
        let byte = hide(byte.into());
        // The highest bit of what is subtracted from a smaller number is set.
        let goes_on = self.goes_on & byte.wrapping_neg() >> 31;
        // 0 for a dot, 1 for a slash.
        let kind = byte ^ u32::from(b'.');
        let other = 1_u32.wrapping_sub(kind) >> 31;
        // The slash is a first byte's too: what does not begin with one leads elsewhere.
        let relative = hide(self.len).wrapping_sub(1) >> 31 & (kind ^ 1 | other);
        let place = 4 * (kind & 1 | other << 1) + self.part;
        let part = Self::NEXT >> (2 * place) & 3;
        let elsewhere = Self::LEADS_ELSEWHERE >> place & 1 | relative & 1;
        self.part ^= (self.part ^ part) & goes_on.wrapping_neg();
        self.elsewhere |= elsewhere & goes_on;
        self.len += goes_on;
        self.goes_on = goes_on;
    }

    /// The same after every word went through `hide`, which changes none.
    #[inline(always)]
    pub fn map(self, hide: impl Fn(u32) -> u32) -> Self {
        Self {
            len: hide(self.len),
            part: hide(self.part),
            elsewhere: hide(self.elsewhere),
            goes_on: hide(self.goes_on),
        }
    }

    /// See [`DoorName::is_plain`].
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.len > 0 && self.elsewhere == 0 && self.part == Self::SOME
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

    /// The same by cases.
    fn leads_where_it_says(path: &str) -> bool {
        let mut parts = path.split('/');
        parts.next() == Some("")
            && parts.clone().next().is_some()
            && parts.all(|part| !matches!(part, "" | "." | ".."))
    }

    #[test]
    fn every_short_path_is_read_as_its_parts_say() {
        const BYTES: &[u8] = b"/.a-0";
        for length in 0..8 {
            for mut number in 0..BYTES.len().pow(length) {
                let mut path = String::new();
                for _ in 0..length {
                    path.push(BYTES[number % BYTES.len()].into());
                    number /= BYTES.len();
                }
                let read = name(&path);
                assert_eq!(read.is_plain(), leads_where_it_says(&path), "{path:?}");
                assert_eq!(read.walk().len, read.len, "{path:?}");
                // What lies behind the end of a path is not read.
                let mut behind = read;
                let end = path.len() + 1;
                behind.bytes[end..end + 4].copy_from_slice(b"/../");
                assert_eq!(behind.walk(), read.walk(), "{path:?}");
            }
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
