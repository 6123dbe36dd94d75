//! The information ledger of one workload: what it told each destination that it had not told it before.
//!
//! Two tables of fixed size, so that names an attacker chooses cost no memory. [`Seen`] remembers what was
//! said; what it forgets counts as new again. The accounts hold sums of new information in sliding windows;
//! when they are all taken, the one that was told least gives way, so that whoever leaks keeps its account.

use std::hash::{BuildHasher, Hasher};

use serde::{Deserialize, Serialize};

use super::{event::Time, lm::Bits};

mod seen;
mod window;

pub use seen::Seen;
pub use window::{Span, Sums};

/// Accounts of a workload.
pub const ACCOUNTS: usize = 160;

/// What is counted apart for the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Labels of queries to a registrable domain.
    DnsQuery,
    /// The same for a suffix of which many registrable domains are one owner's.
    DnsOwner,
    /// Data of answers from a registrable domain.
    DnsAnswer,
    /// Queries of types that carry data.
    DnsType,
    /// Paths, queries and headers of requests to a registrable domain.
    Http,
    /// Names below a domain that do not exist.
    NoName,
}

/// Hashes with keys that nobody outside knows: an attacker cannot choose names that collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys(u64, u64);

impl Keys {
    /// Keys of two random numbers.
    pub const fn new(one: u64, two: u64) -> Self {
        Self(one, two)
    }

    /// Keys from the system's random numbers, by way of the standard library.
    pub fn random() -> Self {
        let state = std::collections::hash_map::RandomState::new();
        Self(state.hash_one(1_u8), state.hash_one(2_u8))
    }

    /// The hash of what `feed` writes.
    pub fn hash(self, feed: impl FnOnce(&mut Mixer)) -> u64 {
        let mut hasher = Mixer { state: self.0, key: self.1 | 1 };
        feed(&mut hasher);
        hasher.finish()
    }
}

/// A keyed multiply-fold hash (the construction of wyhash and FoldHash): as strong as its keys are secret,
/// and many times faster than SipHash on labels.
#[derive(Debug)]
pub struct Mixer {
    state: u64,
    key: u64,
}

impl Mixer {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ 0x9e37_79b9_7f4a_7c15);
        // Both halves of the product, on purpose.
        let (low, high) = ((product & u128::from(u64::MAX)), product >> 64);
        self.state = u64::try_from(low ^ high).unwrap_or_default().rotate_left(23) ^ self.key;
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (place, byte) in word.iter_mut().zip(chunk) {
                *place = *byte;
            }
            self.fold(u64::from_le_bytes(word));
        }
        self.fold(bytes.len() as u64);
    }

    fn finish(&self) -> u64 {
        let mut last = Self { state: self.state, key: self.key };
        last.fold(0x2545_f491_4f6c_dd1d);
        last.state
    }
}

/// What one destination was told.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Account {
    key: u64,
    /// Second of its first entry.
    pub first: u32,
    /// Second of its last entry.
    pub last: u32,
    /// New information.
    pub sums: Sums,
    /// Characters that were new, since [`Self::first`].
    pub characters: u32,
    /// Names, tokens or messages that were new.
    pub items: u32,
    /// The level that was told of last, see [`Account::rise`].
    level: u8,
    /// Second at which that was.
    told: u32,
}

impl Account {
    /// Whether `level` is above what was told of in the last `quiet` seconds; if so, it is told of now.
    pub fn rise(&mut self, level: u8, now: Time, quiet: u32) -> bool {
        let second = second(now);
        if second.saturating_sub(self.told) > quiet {
            self.level = 0;
        }
        if level <= self.level {
            return false;
        }
        (self.level, self.told) = (level, second);
        true
    }
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// New information.
    pub bits: Bits,
    /// New characters.
    pub characters: u32,
    /// New names, tokens or messages.
    pub items: u32,
}

/// The ledger of a workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Ledger {
    keys: Keys,
    accounts: Vec<Account>,
    /// The keys of the accounts, close together: they are searched for every event.
    #[serde(skip)]
    index: Vec<u64>,
    seen: Seen,
}

/// A ledger as it is kept.
#[derive(Deserialize)]
struct Stored {
    keys: Keys,
    accounts: Vec<Account>,
    seen: Seen,
}

/// What is kept has more accounts than a ledger.
#[derive(Debug, thiserror::Error)]
#[error("it has {0} accounts, and a ledger has {ACCOUNTS} at most")]
struct TooMany(usize);

impl TryFrom<Stored> for Ledger {
    type Error = TooMany;

    fn try_from(stored: Stored) -> Result<Self, TooMany> {
        let Stored { keys, accounts, seen } = stored;
        if accounts.len() > ACCOUNTS {
            return Err(TooMany(accounts.len()));
        }
        let index = accounts.iter().map(|account| account.key).collect();
        Ok(Self { keys, accounts, index, seen })
    }
}

/// Seconds since 1970, which fit until 2106.
pub(super) fn second(time: Time) -> u32 {
    u32::try_from(time.secs()).unwrap_or(u32::MAX)
}

impl Ledger {
    /// An empty ledger.
    pub fn new(keys: Keys) -> Self {
        Self { keys, accounts: Vec::new(), index: Vec::new(), seen: Seen::new() }
    }

    /// Remembers that `item` was said to `base`; whether it is new.
    pub fn is_new(&mut self, lane: Lane, base: &[u8], item: &[u8]) -> bool {
        let hash = self.keys.hash(|hasher| {
            hasher.write_u8(lane as u8);
            hasher.write(base);
            hasher.write(item);
        });
        self.seen.insert(hash)
    }

    /// Tells one secret from another without showing it: sixteen hexadecimal digits that only this ledger knows how
    /// to make.
    pub fn fingerprint(&self, secret: &[u8]) -> String {
        format!("{:016x}", self.keys.hash(|hasher| hasher.write(secret)))
    }

    /// The account of `base`, if it has one.
    pub fn get(&self, lane: Lane, base: &[u8]) -> Option<&Account> {
        let key = self.key(lane, base);
        let at = self.index.iter().position(|&one| one == key)?;
        self.accounts.get(at)
    }

    /// Enters something and returns the account.
    pub fn enter(&mut self, lane: Lane, base: &[u8], entry: Entry, now: Time) -> &mut Account {
        let key = self.key(lane, base);
        let at = self.place(key, now);
        let account = &mut self.accounts[at];
        account.last = second(now);
        account.sums.add(entry.bits, now);
        account.characters = account.characters.saturating_add(entry.characters);
        account.items = account.items.saturating_add(entry.items);
        account
    }

    fn key(&self, lane: Lane, base: &[u8]) -> u64 {
        self.keys.hash(|hasher| {
            hasher.write_u8(lane as u8);
            hasher.write(base);
        })
    }

    /// Index of the account of `key`, made if there is none.
    fn place(&mut self, key: u64, now: Time) -> usize {
        if let Some(at) = self.index.iter().position(|&one| one == key) {
            return at;
        }
        let new = Account { key, first: second(now), ..Account::default() };
        if self.accounts.len() < ACCOUNTS {
            self.accounts.push(new);
            self.index.push(key);
            return self.accounts.len() - 1;
        }
        let told = |account: &Account| (account.sums.of(Span::Day, now), account.last);
        let least = self.accounts.iter().enumerate().min_by_key(|(_, account)| told(account));
        let at = least.map_or(0, |(at, _)| at);
        self.accounts[at] = new;
        self.index[at] = key;
        at
    }

    /// Bytes it takes at most.
    pub const fn max_bytes() -> usize {
        size_of::<Self>() + ACCOUNTS * (size_of::<Account>() + 8) + Seen::BYTES
    }
}

const _: () = assert!(Ledger::max_bytes() < 56 << 10, "other state of a workload needs room as well");

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry { bits: Bits::bytes(10), characters: 12, items: 1 };

    fn ledger() -> Ledger {
        Ledger::new(Keys::new(1, 2))
    }

    #[test]
    fn what_was_said_before_is_not_new() {
        let mut ledger = ledger();
        assert!(ledger.is_new(Lane::DnsQuery, b"example.com", b"www"));
        assert!(!ledger.is_new(Lane::DnsQuery, b"example.com", b"www"));
        assert!(ledger.is_new(Lane::DnsQuery, b"example.org", b"www"));
        assert!(ledger.is_new(Lane::Http, b"example.com", b"www"));
    }

    #[test]
    fn who_was_told_most_keeps_its_account_whatever_comes() {
        let mut ledger = ledger();
        let now = Time::from_secs(1_700_000_000);
        for _ in 0..20 {
            ledger.enter(Lane::DnsQuery, b"tunnel.example", ENTRY, now);
        }
        for number in 0..100_000_u32 {
            let base = format!("{number}.example");
            ledger.is_new(Lane::DnsQuery, base.as_bytes(), b"www");
            ledger.enter(Lane::DnsQuery, base.as_bytes(), ENTRY, now);
        }
        let account = ledger.get(Lane::DnsQuery, b"tunnel.example").unwrap();
        assert_eq!(account.sums.of(Span::Day, now), Bits::bytes(200));
        assert_eq!(account.items, 20);
        assert!(ledger.accounts.len() <= ACCOUNTS);
    }

    #[test]
    fn a_level_is_told_once_until_it_was_quiet() {
        let mut account = Account::default();
        let at = |second: u64| Time::from_secs(1_700_000_000 + second);
        assert!(account.rise(1, at(0), 3600));
        assert!(!account.rise(1, at(10), 3600));
        assert!(account.rise(2, at(20), 3600));
        assert!(!account.rise(1, at(30), 3600));
        assert!(account.rise(1, at(4000), 3600));
    }

    #[test]
    fn it_comes_back_from_disk_as_it_was() {
        let mut ledger = ledger();
        let now = Time::from_secs(1_700_000_000);
        ledger.is_new(Lane::DnsQuery, b"a.example", b"x");
        ledger.enter(Lane::DnsQuery, b"a.example", ENTRY, now);
        let text = serde_json::to_string(&ledger).unwrap();
        let mut back: Ledger = serde_json::from_str(&text).unwrap();
        assert!(!back.is_new(Lane::DnsQuery, b"a.example", b"x"));
        let account = back.get(Lane::DnsQuery, b"a.example").unwrap();
        assert_eq!(account.sums.of(Span::Minutes10, now), Bits::bytes(10));
    }

    #[test]
    fn hashes_depend_on_every_byte_and_on_the_keys() {
        let hash = |keys: Keys, text: &[u8]| keys.hash(|hasher| hasher.write(text));
        let mut all = std::collections::HashSet::new();
        for length in 0..64 {
            for byte in [0, 1, b'a'] {
                all.insert(hash(Keys::new(1 << 60 | 7, 2 << 50 | 3), &vec![byte; length]));
                all.insert(hash(Keys::new(1 << 61 | 7, 2 << 50 | 3), &vec![byte; length]));
            }
        }
        assert_eq!(all.len(), 2 * (1 + 63 * 3));
    }
}
