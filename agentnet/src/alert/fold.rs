//! Repeats: the first is shown at once, the others when its window ends, as one.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use jiff::{SignedDuration, Timestamp};

/// How long repeats of the same are gathered.
pub const WINDOW: SignedDuration = SignedDuration::from_secs(10);
/// Keys that are remembered. The agent chooses what it is refused, so the table must not grow with it.
pub const CAPACITY: usize = 4096;

/// What can stand for several of its kind.
pub trait Merge {
    /// Takes a later one in, which has the last word on what only one can say.
    fn merge(&mut self, later: Self);
}

/// Repeats that were gathered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeats<V> {
    /// All of them, see [`Merge`].
    pub last: V,
    /// How many.
    pub count: u64,
}

/// What follows from adding something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added<V> {
    /// Windows that ended by it, oldest first.
    pub ended: Vec<Repeats<V>>,
    /// What was added, if it is the first of its window and to be shown at once.
    pub first: Option<V>,
}

#[derive(Clone, Debug)]
struct Window<V> {
    opened: Timestamp,
    repeats: Option<Repeats<V>>,
}

/// A bounded table of open windows. All are of one length, so the order of opening is that of ending.
#[derive(Clone, Debug)]
pub struct Fold<K, V> {
    length: SignedDuration,
    capacity: usize,
    open: HashMap<K, Window<V>>,
    order: VecDeque<K>,
}

impl<K: Clone + Eq + Hash, V: Merge> Fold<K, V> {
    /// A table of at most `capacity` windows (at least one) of this `length`.
    pub fn new(length: SignedDuration, capacity: usize) -> Self {
        Self { length, capacity: capacity.max(1), open: HashMap::new(), order: VecDeque::new() }
    }

    /// Adds `value`, which stands for `count` occurrences.
    pub fn add(&mut self, key: K, value: V, count: u64, now: Timestamp) -> Added<V> {
        let mut ended = self.expired(now);
        if let Some(window) = self.open.get_mut(&key) {
            match &mut window.repeats {
                Some(repeats) => {
                    repeats.last.merge(value);
                    repeats.count = repeats.count.saturating_add(count);
                }
                None => window.repeats = Some(Repeats { last: value, count }),
            }
            return Added { ended, first: None };
        }
        while self.order.len() >= self.capacity {
            ended.extend(self.end_oldest());
        }
        self.order.push_back(key.clone());
        self.open.insert(key, Window { opened: now, repeats: None });
        Added { ended, first: Some(value) }
    }

    /// Ends the windows whose time is over and gives the repeats in them, oldest first.
    pub fn expired(&mut self, now: Timestamp) -> Vec<Repeats<V>> {
        let mut ended = Vec::new();
        while let Some(window) = self.order.front().and_then(|key| self.open.get(key)) {
            // A clock that was set back must not keep a window open.
            if now >= window.opened && now.duration_since(window.opened) < self.length {
                break;
            }
            ended.extend(self.end_oldest());
        }
        ended
    }

    /// Ends every window.
    pub fn drain(&mut self) -> Vec<Repeats<V>> {
        let mut ended = Vec::new();
        while !self.order.is_empty() {
            ended.extend(self.end_oldest());
        }
        ended
    }

    /// Whether a window of `key` is open.
    pub fn contains(&self, key: &K) -> bool {
        self.open.contains_key(key)
    }

    /// Windows that are open.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no window is open.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn end_oldest(&mut self) -> Option<Repeats<V>> {
        let key = self.order.pop_front()?;
        self.open.remove(&key)?.repeats
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{Fold, Merge, Repeats};

    impl Merge for u32 {
        fn merge(&mut self, later: Self) {
            *self = later;
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn fold() -> Fold<&'static str, u32> {
        Fold::new(SignedDuration::from_secs(10), 3)
    }

    #[test]
    fn the_first_is_shown_at_once_and_the_rest_once_when_the_window_ends() {
        let mut fold = fold();
        assert_eq!(fold.add("a", 1, 1, at(0)).first, Some(1));
        assert_eq!(fold.add("a", 2, 1, at(1)).first, None);
        assert_eq!(fold.add("a", 3, 40, at(9)).first, None);
        assert_eq!(fold.expired(at(9)), []);
        assert_eq!(fold.expired(at(10)), [Repeats { last: 3, count: 41 }]);
        assert_eq!(fold.expired(at(100)), []);
        assert!(fold.is_empty());
    }

    #[test]
    fn a_window_without_repeats_ends_in_silence_and_the_next_one_is_shown_again() {
        let mut fold = fold();
        assert_eq!(fold.add("a", 1, 1, at(0)).first, Some(1));
        let next = fold.add("a", 2, 1, at(10));
        assert_eq!((next.ended, next.first), (vec![], Some(2)));
    }

    #[test]
    fn adding_ends_windows_even_if_nobody_asks_for_them() {
        let mut fold = fold();
        let _ = fold.add("a", 1, 1, at(0));
        let _ = fold.add("a", 2, 1, at(1));
        let later = fold.add("b", 3, 1, at(11));
        assert_eq!((later.ended, later.first), (vec![Repeats { last: 2, count: 1 }], Some(3)));
    }

    #[test]
    fn a_full_table_gives_up_its_oldest_window_and_loses_no_count() {
        let mut fold = fold();
        for (value, key) in (1..).zip(["a", "b", "c"]) {
            assert_eq!(fold.add(key, value, 1, at(0)).first, Some(value));
        }
        let _ = fold.add("a", 4, 5, at(1));
        let fourth = fold.add("d", 5, 1, at(1));
        assert_eq!((fourth.ended, fourth.first), (vec![Repeats { last: 4, count: 5 }], Some(5)));
        assert_eq!(fold.len(), 3);
        assert_eq!(fold.add("a", 6, 1, at(1)).first, Some(6), "its window is gone, so it is a first again");
    }

    #[test]
    fn a_clock_set_back_ends_windows_instead_of_keeping_them() {
        let mut fold = fold();
        let _ = fold.add("a", 1, 1, at(0));
        let _ = fold.add("a", 2, 1, at(1));
        assert_eq!(fold.expired(at(-3600)), [Repeats { last: 2, count: 1 }]);
    }

    #[test]
    fn at_the_end_everything_comes_out() {
        let mut fold = fold();
        let _ = fold.add("a", 1, 1, at(0));
        let _ = fold.add("a", 2, 1, at(0));
        let _ = fold.add("b", 3, 1, at(0));
        assert_eq!(fold.drain(), [Repeats { last: 2, count: 1 }]);
        assert!(fold.is_empty());
    }
}
