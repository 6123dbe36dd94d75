//! Doors: which Unix sockets an agent may connect or send to.
//!
//! A hook sees the name that the process wrote, not the socket that it leads to: a symbolic link, a relative path,
//! `/proc/self/root`, a bind mount or another root directory give a door another name. So a name is never looked at to
//! find out what is to be refused. It is either known to be allowed, or judged by somebody who looks at the socket: a
//! *keeper*, a process outside of the agent that connects the agent's sockets in its stead, or Landlock. See
//! docs/decisions/0007-unix-sockets.md.

use crate::{
    abi::{AgentCfg, CFG_UNIX_ANY, CFG_UNIX_OWN, Door, KEEPER_SCOPES, Keeper, SUN_PATH},
    verdict::{Reason, RuleId, Verdict},
};

/// What a keeper writes before the number of a descriptor of its own, opened on a socket that it found to be the
/// agent's own.
pub const FOUND: &[u8; 14] = b"/proc/self/fd/";

/// A name: `sun_path` as the kernel takes it, and zero behind its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorName {
    /// The bytes.
    pub bytes: [u8; SUN_PATH],
    /// How many of them; of a path those before its end, of an abstract name the leading zero as well.
    pub len: u32,
}

/// Who makes the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A process of the agent, or whoever has a socket of the agent's.
    Agent,
    /// The agent's keeper.
    Keeper,
}

/// The doors of a policy as the verdict reads them.
pub trait Doors {
    /// The longest entry for `name` among the doors of policy `slot`.
    fn door(&self, slot: u32, name: &DoorName) -> Option<Door>;
}

impl DoorName {
    /// Whether it is an abstract one.
    #[inline(always)]
    pub const fn is_abstract(&self) -> bool {
        self.bytes[0] == 0
    }

    /// Whether it is a path that says where it leads: from the root, without `.`, `..` and empty parts.
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        /// Nothing but the slash, one dot, two dots, something else.
        const EMPTY: u8 = 0;
        const DOT: u8 = 1;
        const DOTS: u8 = 2;
        const PART: u8 = 3;
        let mut part = PART;
        let mut plain = self.bytes[0] == b'/';
        for byte in &self.bytes {
            let end = *byte == 0 || *byte == b'/';
            if end && part != PART {
                plain = false;
            }
            part = match (*byte, part) {
                // Behind the end of the name nothing is looked at any more.
                (0, _) => PART,
                (b'/', _) => EMPTY,
                (b'.', EMPTY) => DOT,
                (b'.', DOT) => DOTS,
                _ => PART,
            };
        }
        plain && part == PART
    }

    /// Whether `door` is an entry for this name and not only for its beginning.
    #[inline(always)]
    pub fn is_at(&self, door: Door) -> bool {
        if door.len == 0 { !self.is_abstract() && self.is_plain() } else { door.len == self.len }
    }

    /// Whether a keeper has found it.
    #[inline(always)]
    fn is_found(&self) -> bool {
        self.bytes.iter().zip(FOUND).all(|(byte, wanted)| byte == wanted)
    }
}

/// Decides whether the agent of `cfg` may connect or send to the Unix socket called `name`.
#[inline(always)]
pub fn decide<T: Doors>(
    doors: &T,
    cfg: &AgentCfg,
    keeper: &Keeper,
    caller: Caller,
    name: &DoorName,
) -> Verdict {
    if cfg.is_quarantined() {
        return Verdict::Deny(Reason::Quarantined);
    }
    if cfg.flags & CFG_UNIX_ANY != 0 {
        return Verdict::Allow(RuleId::UNIX);
    }
    let own = cfg.flags & CFG_UNIX_OWN != 0;
    let kept = match caller {
        Caller::Keeper => own && name.is_found(),
        Caller::Agent => own && name.is_abstract() && keeper.flags & KEEPER_SCOPES != 0,
    };
    // Where there is a keeper, it looks paths up where the agent cannot have changed them.
    let by_name = caller == Caller::Keeper || keeper.pid == 0 || name.is_abstract();
    if kept || by_name && doors.door(cfg.slot, name).is_some_and(|door| name.is_at(door)) {
        return Verdict::Allow(RuleId::UNIX);
    }
    Verdict::Deny(Reason::UnixSocket)
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
    const ALONE: Keeper = Keeper { cgroup: 0, pid: 0, flags: 0 };
    const KEPT: Keeper = Keeper { cgroup: 7, pid: 7, flags: KEEPER_SCOPES };

    fn decided(flags: u8, keeper: &Keeper, caller: Caller, text: &str) -> bool {
        let cfg = AgentCfg {
            agent: 1,
            slot: 0,
            generation: 1,
            mode: MODE_ENFORCE,
            loopback: 0,
            listen: 0,
            flags,
        };
        let verdict = decide(&ENTRIES, &cfg, keeper, caller, &name(text));
        let quarantined = AgentCfg { mode: MODE_QUARANTINE, ..cfg };
        assert_eq!(
            decide(&ENTRIES, &quarantined, keeper, caller, &name(text)),
            Verdict::Deny(Reason::Quarantined)
        );
        matches!(verdict, Verdict::Allow(_))
    }

    #[test]
    fn only_what_is_named_is_open_by_its_name() {
        for flags in [0, CFG_UNIX_OWN] {
            for open in ["/run/a.sock", "/run/pg/x", "/run/pg/deep/er/.s.PGSQL.5432", "\0abstract"] {
                assert!(decided(flags, &ALONE, Caller::Agent, open), "{open:?}");
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
                assert!(!decided(flags, &ALONE, Caller::Agent, closed), "{closed:?}");
            }
        }
        assert!(decided(CFG_UNIX_ANY, &ALONE, Caller::Agent, "/anything"));
    }

    #[test]
    fn an_agent_with_a_keeper_does_not_connect_by_a_path() {
        for closed in ["/run/a.sock", "/run/pg/x", "/proc/self/fd/3", "/tmp/own"] {
            assert!(!decided(CFG_UNIX_OWN, &KEPT, Caller::Agent, closed), "{closed:?}");
        }
        assert!(decided(CFG_UNIX_OWN, &KEPT, Caller::Agent, "\0whatever"));
        assert!(!decided(0, &KEPT, Caller::Agent, "\0whatever"));
        assert!(decided(0, &KEPT, Caller::Agent, "\0abstract"));
    }

    #[test]
    fn a_keeper_connects_to_what_it_found_and_what_is_named() {
        for open in ["/proc/self/fd/3", "/run/a.sock", "/run/pg/x"] {
            assert!(decided(CFG_UNIX_OWN, &KEPT, Caller::Keeper, open), "{open:?}");
        }
        for closed in ["/run/b.sock", "/run/pg/../b.sock", "/proc/1/fd/3", "/proc/self/f", "\0whatever"] {
            assert!(!decided(CFG_UNIX_OWN, &KEPT, Caller::Keeper, closed), "{closed:?}");
        }
        assert!(!decided(0, &KEPT, Caller::Keeper, "/proc/self/fd/3"), "unix = \"deny\"");
    }

    #[test]
    fn a_name_may_fill_all_the_room_there_is() {
        let long = format!("/run/pg/{}", "x".repeat(SUN_PATH - 8));
        assert!(name(&long).is_plain() && decided(0, &ALONE, Caller::Agent, &long));
        assert!(!name(&format!("/run/pg/{}/..", "x".repeat(SUN_PATH - 11))).is_plain());
        assert!(!name(&format!("/run/pg/{}/", "x".repeat(SUN_PATH - 9))).is_plain());
    }
}
