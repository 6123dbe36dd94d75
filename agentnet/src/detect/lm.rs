//! How much a text says: bits under a model of what is usual.
//!
//! A trigram model of characters with their case apart from it, trained beforehand (`train` in the tests'
//! crate, `data/README.md` says from what). Words and the labels of ordinary hosts cost 2 to 3 bits a
//! character, hexadecimal and base32 what they hold, 4 to 5.

use std::sync::LazyLock;

use fst::Map;

/// Symbols: the edge of a token, 26 letters, 10 digits, `-`, `_`, everything else.
pub const SYMBOLS: usize = 40;
/// Trigrams.
const TABLE: usize = SYMBOLS * SYMBOLS * SYMBOLS;
/// Cost of case: `[what came before][lower, upper]`.
const CASE: usize = 8;
/// Bytes of a model as it is stored.
pub const STORED: usize = TABLE + CASE;
/// Costs are stored in this part of a bit.
const UNIT: u32 = 16;

/// Symbol of the edge of a token.
pub const EDGE: usize = 0;

/// The symbol of a byte.
pub const fn symbol(byte: u8) -> usize {
    match byte {
        b'a'..=b'z' => 1 + (byte - b'a') as usize,
        b'A'..=b'Z' => 1 + (byte - b'A') as usize,
        b'0'..=b'9' => 27 + (byte - b'0') as usize,
        b'-' => 37,
        b'_' => 38,
        _ => 39,
    }
}

/// What case depends on: the token's start, or the case of the letter before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Start of the token, or no letter yet.
    Start = 0,
    /// A small letter.
    Lower = 1,
    /// A capital.
    Upper = 2,
    /// A letter, and something else after it.
    Other = 3,
}

/// A model.
#[derive(Clone, Copy)]
pub struct Model {
    stored: &'static [u8; STORED],
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

/// Labels of host names below the registrable domain.
pub const HOSTS: Model = Model { stored: include_bytes!("../../data/hosts.lm") };
/// Segments of paths, keys and values of queries.
pub const URLS: Model = Model { stored: include_bytes!("../../data/urls.lm") };

/// Information in bits, rounded down to a sixteenth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits(pub u32);

impl Bits {
    /// In bits.
    pub const fn whole(self) -> u32 {
        self.0 / UNIT
    }

    /// `bits` whole bits.
    pub const fn of(bits: u32) -> Self {
        Self(bits.saturating_mul(UNIT))
    }

    /// `bytes` bytes.
    pub const fn bytes(bytes: u32) -> Self {
        Self(bytes.saturating_mul(8 * UNIT))
    }

    /// In bytes, rounded down.
    pub const fn in_bytes(self) -> u32 {
        self.0 / (8 * UNIT)
    }

    /// The sum.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, 0 if the other is larger.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Bits that the case of letters may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Case says nothing: names behind a forwarder that mixes it (draft-vixie-dnsext-dns0x20).
    Folded,
    /// Case is the sender's.
    Kept,
}

impl Model {
    /// The information of a token, at most what its alphabet can hold, and no more than its words say.
    pub fn token(&self, token: &[u8], case: Case) -> Bits {
        let one = self.surprise(token, case).min(capacity(token, case));
        // A token without a run of letters long enough has no words.
        if one < Bits::of(16) { one } else { self.words(token, one) }
    }

    /// The information of a token as [`Self::token`] has it, or less where its letters are words put together:
    /// dearer, for tokens that are about to be told of.
    pub fn compound(&self, token: &[u8], case: Case) -> Bits {
        let whole = self.token(token, case);
        let runs = token.chunk_by(|one, two| (kind(*one) == Run::Letters) == (kind(*two) == Run::Letters));
        let split = runs.map(|run| match kind(*run.first().unwrap_or(&0)) {
            Run::Letters => self.split(run),
            _ => self.words(run, Bits(u32::MAX)),
        });
        whole.min(split.fold(Bits::default(), Bits::plus))
    }

    /// The cheapest way to put a run of letters together of words and single letters.
    fn split(&self, run: &[u8]) -> Bits {
        /// Whether a word comes next or a letter, and a letter of 26.
        const WORD: u32 = UNIT;
        const LETTER: u32 = UNIT + 75;
        let Some(words) = WORDS.as_ref() else { return self.token(run, Case::Folded) };
        let words = words.as_fst();
        let mut best = vec![u32::MAX; run.len() + 1];
        if let Some(start) = best.first_mut() {
            *start = 0;
        }
        for at in 0..run.len() {
            let Some(&so_far) = best.get(at) else { break };
            let mut reach = |end: usize, cost: u32| {
                if let Some(place) = best.get_mut(end) {
                    *place = (*place).min(so_far.saturating_add(cost));
                }
            };
            reach(at + 1, LETTER);
            let (mut node, mut sum) = (words.root(), fst::raw::Output::zero());
            for (length, byte) in run.iter().skip(at).enumerate() {
                let Some(next) = node.find_input(byte.to_ascii_lowercase()) else { break };
                let transition = node.transition(next);
                sum = sum.cat(transition.out);
                node = words.node(transition.addr);
                if node.is_final() {
                    let cost = sum.cat(node.final_output()).value();
                    reach(at + length + 1, u32::try_from(cost).unwrap_or(u32::MAX).saturating_add(WORD));
                }
            }
        }
        Bits(best.last().copied().unwrap_or(0))
    }

    /// The information of a token as words, numbers and marks, at most `limit`.
    fn words(&self, token: &[u8], limit: Bits) -> Bits {
        /// Which of a letter, a digit and a mark comes next.
        const NEXT: u32 = UNIT * 3 / 2;
        const DIGIT: u32 = 54;
        let mut sum = 0_u32;
        for run in token.chunk_by(|one, two| kind(*one) == kind(*two)) {
            if sum >= limit.0 {
                return limit;
            }
            let cost = match kind(*run.first().unwrap_or(&0)) {
                Run::Letters => {
                    let mut lower = [0; LONGEST];
                    let known = lower.get_mut(..run.len()).filter(|run| run.len() > 1).and_then(|lower| {
                        lower.copy_from_slice(run);
                        lower.make_ascii_lowercase();
                        WORDS.as_ref()?.get(lower)
                    });
                    match known.and_then(|cost| u32::try_from(cost).ok()) {
                        Some(cost) => cost,
                        None => self.surprise(run, Case::Folded).min(capacity(run, Case::Folded)).0,
                    }
                }
                Run::Digits => u32::try_from(run.len()).unwrap_or(u32::MAX).saturating_mul(DIGIT),
                Run::Marks => u32::try_from(run.len()).unwrap_or(u32::MAX).saturating_mul(UNIT),
                Run::Other => u32::try_from(run.len()).unwrap_or(u32::MAX).saturating_mul(8 * UNIT),
            };
            sum = sum.saturating_add(cost).saturating_add(NEXT);
        }
        Bits(sum).min(limit)
    }

    /// The information of a token under the model alone.
    pub fn surprise(&self, token: &[u8], case: Case) -> Bits {
        let (mut one, mut two) = (EDGE, EDGE);
        let mut sum = 0_u32;
        let mut before = Before::Start;
        for &byte in token {
            let three = symbol(byte);
            sum = sum.saturating_add(self.cost(one, two, three));
            (one, two) = (two, three);
            if case == Case::Kept {
                before = match byte {
                    b'a'..=b'z' => {
                        sum = sum.saturating_add(self.case_cost(before, 0));
                        Before::Lower
                    }
                    b'A'..=b'Z' => {
                        sum = sum.saturating_add(self.case_cost(before, 1));
                        Before::Upper
                    }
                    _ if before == Before::Start => Before::Start,
                    _ => Before::Other,
                };
            }
        }
        Bits(sum.saturating_add(self.cost(one, two, EDGE)))
    }

    fn cost(&self, one: usize, two: usize, three: usize) -> u32 {
        self.stored.get((one * SYMBOLS + two) * SYMBOLS + three).map_or(0, |&cost| u32::from(cost))
    }

    fn case_cost(&self, before: Before, upper: usize) -> u32 {
        self.stored.get(TABLE + before as usize * 2 + upper).map_or(0, |&cost| u32::from(cost))
    }
}

/// Characters of a word at most.
const LONGEST: usize = 24;

static WORDS: LazyLock<Option<Map<&'static [u8]>>> =
    LazyLock::new(|| Map::new(&include_bytes!(concat!(env!("OUT_DIR"), "/words.fst"))[..]).ok());

/// What characters follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Letters,
    Digits,
    Marks,
    Other,
}

const fn kind(byte: u8) -> Run {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' => Run::Letters,
        b'0'..=b'9' => Run::Digits,
        b'-' | b'_' | b'.' => Run::Marks,
        _ => Run::Other,
    }
}

/// What a token of this length can hold in the smallest usual alphabet that has all its characters.
pub fn capacity(token: &[u8], case: Case) -> Bits {
    // Sixteenths of log2 of 10, 16, 36, 38, 64 and 256 characters, rounded up.
    const DIGITS: u32 = 54;
    const HEX: u32 = 64;
    const ALNUM: u32 = 83;
    const HOST: u32 = 84;
    const MIXED: u32 = 96;
    const ANY: u32 = 128;
    let (mut hex, mut lower, mut upper, mut mark, mut other) = (false, false, false, false, false);
    for &byte in token {
        match byte {
            b'0'..=b'9' => {}
            b'a'..=b'f' => hex = true,
            b'A'..=b'F' if case == Case::Folded => hex = true,
            b'g'..=b'z' => lower = true,
            b'A'..=b'Z' if case == Case::Folded => lower = true,
            b'A'..=b'Z' => upper = true,
            b'-' | b'_' => mark = true,
            b'+' | b'/' | b'=' => (upper, mark) = (true, true),
            _ => other = true,
        }
    }
    let cost = if other {
        ANY
    } else if upper && (lower || hex) {
        MIXED
    } else if mark {
        HOST
    } else if lower || upper {
        ALNUM
    } else if hex {
        HEX
    } else {
        DIGITS
    };
    Bits(u32::try_from(token.len()).unwrap_or(u32::MAX).saturating_mul(cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn per_character(text: &str) -> f64 {
        f64::from(HOSTS.token(text.as_bytes(), Case::Folded).0) / f64::from(UNIT) / text.len() as f64
    }

    #[test]
    fn words_say_little_and_codes_much() {
        for word in ["support", "webmail", "download", "telemetry", "elearning"] {
            assert!(per_character(word) < 3.3, "{word}: {}", per_character(word));
        }
        for code in ["qx7v2k9zjw4hfy", "mfzgk3tbnrqxgzdf", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"] {
            assert!(per_character(code) > 3.6, "{code}: {}", per_character(code));
        }
        assert!(HOSTS.token(b"www", Case::Folded) < Bits::of(8));
    }

    #[test]
    fn words_put_together_say_no_more_than_words_and_codes_no_less() {
        let (long, code) =
            (b"connectionsprivatebankcloudservices".as_slice(), b"mfzgk3tbnrqxgzdfkrqw".as_slice());
        assert!(HOSTS.compound(long, Case::Folded) < HOSTS.token(long, Case::Folded));
        assert!(HOSTS.compound(long, Case::Folded).whole() < 90);
        assert!(HOSTS.compound(code, Case::Folded).whole() > 75);
    }

    #[test]
    fn no_token_holds_more_than_its_alphabet() {
        for (token, bits) in [("0123456789", 34), ("deadbeef", 32), ("00", 7)] {
            assert!(HOSTS.token(token.as_bytes(), Case::Folded) <= Bits::of(bits), "{token}");
        }
    }

    #[test]
    fn mixed_case_says_more_where_it_is_the_senders() {
        let token = b"aGVsbG8gV29ybGQ";
        assert!(URLS.surprise(token, Case::Kept) > URLS.surprise(token, Case::Folded));
    }

    #[test]
    fn nothing_is_too_long() {
        let long = vec![0xff_u8; 70_000];
        assert!(HOSTS.token(&long, Case::Kept).in_bytes() > 60_000 / 8);
    }
}
