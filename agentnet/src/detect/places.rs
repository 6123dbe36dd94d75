//! A map of limited size: what was not used since the hand last passed it gives way (Corbató's clock).

use std::{collections::HashMap, hash::Hash};

/// See the module.
#[derive(Debug)]
pub struct Places<K, V> {
    at: HashMap<K, usize>,
    entries: Vec<Entry<K, V>>,
    hand: usize,
    max: usize,
}

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    used: bool,
}

impl<K: Copy + Eq + Hash, V> Places<K, V> {
    /// An empty one for at most `max` entries, and for one at least.
    pub fn new(max: usize) -> Self {
        Self { at: HashMap::new(), entries: Vec::new(), hand: 0, max: max.max(1) }
    }

    /// The value of `key`, made if there is none; what gave way to it; whether it is new.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> (&mut V, Option<V>, bool) {
        let mut gone = None;
        let (at, is_new) = match self.at.get(&key) {
            Some(&at) => (at, false),
            None => {
                // Not used yet: a flood of new ones must not push out those that are.
                let fresh = Entry { key, value: make(), used: false };
                let at = if self.entries.len() < self.max {
                    self.entries.push(fresh);
                    self.entries.len() - 1
                } else {
                    let at = self.victim();
                    let old = std::mem::replace(&mut self.entries[at], fresh);
                    self.at.remove(&old.key);
                    gone = Some(old.value);
                    at
                };
                self.at.insert(key, at);
                (at, true)
            }
        };
        let entry = &mut self.entries[at];
        entry.used = !is_new;
        (&mut entry.value, gone, is_new)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at = self.at.remove(key)?;
        let gone = self.entries.swap_remove(at);
        if let Some(moved) = self.entries.get(at) {
            self.at.insert(moved.key, at);
        }
        Some(gone.value)
    }

    /// Takes out every entry that `unwanted` says of.
    pub fn remove_if(&mut self, unwanted: impl Fn(&K) -> bool) {
        self.entries.retain(|entry| !unwanted(&entry.key));
        self.at = self.entries.iter().enumerate().map(|(at, entry)| (entry.key, at)).collect();
    }

    /// Every value, and none is left.
    pub fn drain(&mut self) -> impl Iterator<Item = V> + use<K, V> {
        self.at.clear();
        std::mem::take(&mut self.entries).into_iter().map(|entry| entry.value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place of an entry that was not used since the hand last passed it.
    fn victim(&mut self) -> usize {
        loop {
            self.hand = (self.hand + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[self.hand].used) {
                return self.hand;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Places;

    proptest! {
        /// Never more than it may hold, and what it holds is what was put there last.
        #[test]
        fn it_is_a_map_that_forgets(steps in prop::collection::vec((0_u8..40, any::<bool>()), 1..400)) {
            let mut places = Places::new(7);
            let mut latest = std::collections::HashMap::new();
            for (number, (key, remove)) in steps.into_iter().enumerate() {
                if remove {
                    let gone = places.remove(&key);
                    prop_assert!(gone.is_none() || gone == latest.get(&key).copied());
                    continue;
                }
                let (value, _, is_new) = places.get_or_insert_with(key, || number);
                if is_new {
                    latest.insert(key, number);
                }
                prop_assert_eq!(Some(&*value), latest.get(&key));
                prop_assert!(places.len() <= 7);
            }
        }
    }

    #[test]
    fn who_is_used_stays() {
        let mut places = Places::new(4);
        for number in 0..1000 {
            places.get_or_insert_with(u32::MAX, || 0);
            let (_, gone, _) = places.get_or_insert_with(number, || number + 1);
            assert_ne!(gone, Some(0));
        }
        places.remove_if(|&key| key != u32::MAX);
        assert_eq!(places.drain().collect::<Vec<_>>(), [0]);
    }
}
