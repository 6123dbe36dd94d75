//! How many connections there may be, and which one goes when there are too many.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::{AbortHandle, Id};

/// Connections at a time.
const ALL: usize = 1024;

/// Of these, only for root.
const ROOTS: usize = 256;

/// For a user who is not root.
const USERS: usize = 128;

/// Whether a connection has asked something. One that has not is the first to go.
pub(super) type Asked = Arc<AtomicBool>;

/// Who is connected, oldest first.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: BTreeMap<u64, Place>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    uid: u32,
    asked: Asked,
    task: AbortHandle,
}

impl Places {
    /// Makes room for a connection of user `uid`, at the cost of one that has asked nothing yet if there is no
    /// other: of the same user if the user has too many, of anybody but root if all have. `None` if there
    /// is none.
    pub(super) fn make_room(&mut self, uid: u32) -> Option<Asked> {
        let own = self.taken.values().filter(|place| place.uid == uid).count();
        let (all, user) = if uid == 0 { (ALL, ALL) } else { (ALL - ROOTS, USERS) };
        if own >= user {
            self.evict(|place| place.uid == uid)?;
        } else if self.taken.len() >= all {
            self.evict(|place| place.uid != 0 || uid == 0)?;
        }
        Some(Asked::default())
    }

    /// Notes the connection that `task` serves.
    pub(super) fn take(&mut self, task: AbortHandle, uid: u32, asked: Asked) {
        self.next += 1;
        self.taken.insert(self.next, Place { uid, asked, task });
    }

    /// Forgets the connection that the task `id` served.
    pub(super) fn leave(&mut self, id: Id) {
        self.taken.retain(|_, place| place.task.id() != id);
    }

    fn evict(&mut self, who: impl Fn(&Place) -> bool) -> Option<()> {
        let (&oldest, _) =
            self.taken.iter().find(|(_, place)| who(place) && !place.asked.load(Ordering::Relaxed))?;
        self.taken.remove(&oldest)?.task.abort();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(places: &mut Places, uid: u32, asks: bool) -> bool {
        let Some(asked) = places.make_room(uid) else { return false };
        asked.store(asks, Ordering::Relaxed);
        let task = tokio::spawn(std::future::pending::<()>());
        places.take(task.abort_handle(), uid, asked);
        true
    }

    #[tokio::test]
    async fn an_idle_connection_gives_way_and_a_busy_one_does_not() {
        let mut places = Places::default();
        for _ in 0..ALL * 2 {
            assert!(connect(&mut places, 1000, false));
        }
        assert_eq!(places.taken.len(), USERS);
        for _ in 0..USERS {
            assert!(connect(&mut places, 1000, true));
        }
        assert!(!connect(&mut places, 1000, true), "all its places are in use");
        assert!(connect(&mut places, 1001, true), "another user has places");
    }

    #[tokio::test]
    async fn root_always_has_a_place_while_others_take_all() {
        let mut places = Places::default();
        for uid in 1..=u32::try_from(ALL).unwrap() {
            connect(&mut places, uid, true);
        }
        assert_eq!(places.taken.len(), ALL - ROOTS);
        assert!(!connect(&mut places, 5000, true));
        for _ in 0..ROOTS {
            assert!(connect(&mut places, 0, true));
        }
        assert!(!connect(&mut places, 0, true));
    }

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let mut places = Places::default();
        for _ in 0..USERS {
            connect(&mut places, 7, true);
        }
        let id = places.taken.values().next().unwrap().task.id();
        places.leave(id);
        assert!(connect(&mut places, 7, true) && !connect(&mut places, 7, true));
    }
}
