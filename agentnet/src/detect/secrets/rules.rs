//! Matching rules: their words are found all at once, and a rule's pattern is tried around its words only.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind};
use regex::bytes::{Regex, RegexBuilder};

use super::{
    super::lm::{Bits, Case, URLS},
    example,
    table::RULES,
};

/// A secret by its format.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: &'static str,
    /// One of these is in every match.
    pub(super) words: &'static [&'static str],
    /// What the match is; its first group that takes part is the secret.
    pub(super) pattern: &'static str,
    pub(super) tier: Tier,
    pub(super) check: Check,
    /// Where it belongs.
    pub(super) hosts: &'static [&'static str],
}

/// How sure a match is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// It looks like one, and is an example or too simple.
    Doubtful,
    /// Words beside it say what it is.
    Context,
    /// Its form says what it is.
    Certain,
}

/// What else a match has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    None,
    /// The last six characters are the CRC-32 of those before, in base 62; if not, the match is a doubtful copy.
    Crc,
    /// An example of a documentation ends in EXAMPLE.
    Example,
    /// It has digits and letters of both cases.
    Mixed,
    /// It is no word.
    NotWord,
    /// It has letters and digits and says much.
    Random,
    /// It is a signed token whose head can be read; a copy that cannot is less sure.
    Token,
    /// There is a key behind its first line, or nothing yet: that line and something else is in every program that
    /// reads keys.
    Body,
}

/// A match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// The rule.
    pub rule: &'static str,
    /// Where it is in the bytes that were looked at.
    pub span: std::ops::Range<usize>,
    /// How sure it is.
    pub tier: Tier,
    /// Where it belongs.
    pub hosts: &'static [&'static str],
}

/// Words of rules.
struct Words {
    automaton: AhoCorasick,
    /// The rule of each, and the word where its case counts.
    rules: Vec<(usize, Option<&'static str>)>,
}

static WORDS: LazyLock<Option<Words>> = LazyLock::new(|| {
    let (words, rules): (Vec<_>, Vec<_>) = RULES
        .iter()
        .enumerate()
        .flat_map(|(at, rule)| {
            // Patterns that mind no case have words that mind none.
            let exact = !rule.pattern.contains("(?i:");
            rule.words.iter().map(move |word| (*word, (at, exact.then_some(*word))))
        })
        .unzip();
    // One automaton for both: bytes are looked at once.
    let automaton = AhoCorasickBuilder::new()
        .ascii_case_insensitive(true)
        .kind(Some(AhoCorasickKind::DFA))
        .build(words)
        .ok()?;
    Some(Words { automaton, rules })
});

/// The patterns, each compiled when one of its words is first seen.
static PATTERNS: LazyLock<Vec<LazyLock<Option<Regex>, Compile>>> = LazyLock::new(|| {
    let lazy = |rule: &'static Rule| LazyLock::new(Box::new(move || compile(rule.pattern)) as Compile);
    RULES.iter().map(lazy).collect()
});

type Compile = Box<dyn FnOnce() -> Option<Regex> + Send>;

fn compile(pattern: &str) -> Option<Regex> {
    RegexBuilder::new(pattern).unicode(false).size_limit(1 << 22).dfa_size_limit(1 << 20).build().ok()
}

/// Bytes before a word that its pattern may reach back to.
const BEFORE: usize = 120;
/// Bytes behind it.
const BEHIND: usize = 640;
/// The same for the few that are long.
const LONG: usize = 9000;
/// Tries of patterns in one piece of bytes: a text of nothing but words must not cost more than it is worth.
const TRIES: usize = 4000;
/// Matches in one piece of bytes.
const MATCHES: usize = 64;

/// Every secret in `bytes`.
pub(super) fn find(bytes: &[u8]) -> Vec<Match> {
    let mut found = Vec::new();
    let Some(words) = WORDS.as_ref() else { return found };
    let mut tries = 0;
    for hit in words.automaton.find_overlapping_iter(bytes) {
        let Some(&(at, exact)) = words.rules.get(hit.pattern().as_usize()) else { continue };
        let Some(rule) = RULES.get(at) else { continue };
        if exact.is_some_and(|word| bytes.get(hit.range()) != Some(word.as_bytes())) {
            continue;
        }
        // What a token's beginning is followed by is seen without a pattern.
        if exact.is_some() && begins_with_word(rule) && !goes_on(bytes, hit.end(), hit.len()) {
            continue;
        }
        tries += 1;
        if tries > TRIES || found.len() >= MATCHES {
            return found;
        }
        attempt(bytes, hit.start(), at, rule, &mut found);
    }
    found
}

/// Whether a match begins with one of the rule's words.
fn begins_with_word(rule: &Rule) -> bool {
    let pattern = rule.pattern.strip_prefix("(?:").unwrap_or(rule.pattern);
    rule.tier == Tier::Certain && rule.words.iter().any(|word| pattern.bytes().next() == word.bytes().next())
}

/// Whether a word is followed by a token, or stands in a text of its own kind.
fn goes_on(bytes: &[u8], end: usize, length: usize) -> bool {
    let next = bytes.get(end..).unwrap_or_default();
    let token = next.iter().take(10).filter(|&&byte| is_token(byte)).count();
    // Long words are rare by themselves.
    length > 8 || token >= 10
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/' | b'=' | b'~' | b'$' | b':' | b'!')
}

fn attempt(bytes: &[u8], hit: usize, at: usize, rule: &'static Rule, found: &mut Vec<Match>) {
    let Some(pattern) = PATTERNS.get(at).and_then(|pattern| pattern.as_ref()) else { return };
    let start = hit.saturating_sub(BEFORE);
    let behind =
        if matches!(rule.id, "jwt_signed" | "dropbox_token" | "onepassword_token") { LONG } else { BEHIND };
    let end = bytes.len().min(hit + behind);
    let Some(window) = bytes.get(start..end) else { return };
    let Some(groups) = pattern.captures(window) else { return };
    let Some(whole) = groups.get(0) else { return };
    let secret = groups.iter().skip(1).flatten().next().unwrap_or(whole);
    let span = start + whole.start()..start + whole.end();
    if found.iter().any(|one| one.rule == rule.id && one.span == span) {
        return;
    }
    // The beginning of a token stands at the beginning of a word.
    let begins = bytes.get(span.start.wrapping_sub(1)).is_none_or(|before| !before.is_ascii_alphanumeric());
    let escaped =
        bytes.get(span.start.saturating_sub(2)..span.start).is_some_and(|before| before.starts_with(b"\\"));
    if rule.tier == Tier::Certain && is_all_token(rule) && !begins && !escaped {
        return;
    }
    // A hash of a secret is none.
    let before = bytes.get(span.start.saturating_sub(8)..span.start).unwrap_or_default().to_ascii_lowercase();
    if rule.check == Check::Random && before.windows(4).any(|four| four == b"hash") {
        return;
    }
    let Some(tier) = judge(rule, secret.as_bytes(), whole.as_bytes()) else { return };
    found.push(Match { rule: rule.id, span, tier, hosts: rule.hosts });
}

/// Whether a match begins with the token, and not with words before it.
fn is_all_token(rule: &Rule) -> bool {
    !["(?:^|", "(?i:", "(?s:", "[^"].iter().any(|start| rule.pattern.starts_with(start))
}

/// How sure a match is, whose `secret` is a part of the `whole` that the pattern is of; `None` if it is none.
fn judge(rule: &Rule, secret: &[u8], whole: &[u8]) -> Option<Tier> {
    let distinct = distinct(secret);
    if rule.check == Check::Crc && has_crc(secret) {
        // No example has the right sum by chance.
        return Some(Tier::Certain);
    }
    if secret.len() >= 16 && distinct < 6 || example::is_placeholder(secret) {
        return None;
    }
    let tier = checked(rule, secret, whole, distinct)?;
    // A pattern that begins with words knows a value by these, however sure of them it is.
    let tier = if rule.pattern.starts_with("(?i:") { tier.min(Tier::Context) } else { tier };
    // What the rule does not part from the words around it says nothing of its order.
    let is_parted = secret.len() < whole.len() || !secret.contains(&b' ');
    let is_example =
        is_parted && (example::is_in_order(secret) || tier == Tier::Certain && is_phrase(secret));
    Some(if is_example { Tier::Doubtful } else { tier })
}

fn checked(rule: &Rule, secret: &[u8], whole: &[u8], distinct: u32) -> Option<Tier> {
    match rule.check {
        Check::None => Some(rule.tier),
        // Copies in documentation are changed by a character or two.
        Check::Crc => Some(Tier::Context),
        Check::Example => Some(if secret.ends_with(b"EXAMPLE") { Tier::Doubtful } else { rule.tier }),
        Check::Mixed => {
            let has = |kind: fn(&u8) -> bool| secret.iter().any(kind);
            // Sums are hexadecimal, and stand near every word; keys of base64 are not, unless somebody says so.
            let hexadecimal = secret.iter().all(u8::is_ascii_hexdigit) && names_a_secret(whole);
            let letters = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase) || hexadecimal;
            (letters && has(u8::is_ascii_digit) && distinct >= 10).then_some(rule.tier)
        }
        Check::NotWord => (secret.len() >= 6 && !is_word(secret)).then_some(rule.tier),
        // A name beside it says that it may be one, and nothing else does: for the record.
        Check::Random => is_random(secret).then_some(Tier::Doubtful),
        Check::Token => Some(if is_jwt(secret) { rule.tier } else { Tier::Context }),
        Check::Body => Some(if secret == whole { Tier::Doubtful } else { rule.tier }),
    }
}

fn names_a_secret(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    [b"secret".as_slice(), b"_key"].iter().any(|word| memchr::memmem::find(&lower, word).is_some())
}

/// Whether a value is words one after the other, as names in programs are, and no digits.
fn is_phrase(secret: &[u8]) -> bool {
    let length = u32::try_from(secret.len()).unwrap_or(u32::MAX);
    secret.len() >= 12
        && secret.iter().filter(|byte| byte.is_ascii_digit()).count() * 8 <= secret.len()
        && URLS.compound(secret, Case::Folded).whole().saturating_mul(10) < length.saturating_mul(26)
}

/// Whether the head of a signed token is an object that names how it is signed (RFC 7515, 4.1.1).
fn is_jwt(token: &[u8]) -> bool {
    let head = token.split(|&byte| byte == b'.').next().unwrap_or_default();
    let Ok(head) = data_encoding::BASE64URL_NOPAD.decode(head) else { return false };
    serde_json::from_slice::<serde_json::Value>(&head).is_ok_and(|head| head["alg"].is_string())
}

fn distinct(bytes: &[u8]) -> u32 {
    let mut seen = [0_u64; 4];
    for &byte in bytes {
        if let Some(word) = seen.get_mut(usize::from(byte >> 6)) {
            *word |= 1 << (byte & 63);
        }
    }
    seen.iter().map(|word| word.count_ones()).sum()
}

fn is_word(secret: &[u8]) -> bool {
    secret.iter().all(u8::is_ascii_alphabetic)
        && (secret.iter().all(u8::is_ascii_lowercase) || secret.iter().skip(1).all(u8::is_ascii_lowercase))
        && URLS.compound(secret, Case::Folded) < Bits::of(30)
}

/// Whether a value is nothing that a person or a program would name something.
fn is_random(secret: &[u8]) -> bool {
    let letters = secret.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    let digits = secret.iter().filter(|byte| byte.is_ascii_digit()).count();
    let marks = secret.len() - letters - digits;
    if letters < 3 || digits < 2 || marks * 4 > secret.len() || is_uuid(secret) {
        return false;
    }
    let information = URLS.compound(secret, Case::Kept);
    let length = u32::try_from(secret.len()).unwrap_or(u32::MAX);
    information >= Bits::of(72) && information.whole() * 10 >= length * 36
}

fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether the last six characters are the CRC-32 of those before, in base 62 with leading zeros: the way GitHub
/// and npm make tokens since 2021.
fn has_crc(secret: &[u8]) -> bool {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let Some((random, sum)) = secret.split_at_checked(secret.len().saturating_sub(6)) else { return false };
    let mut number = crc32fast::hash(random);
    let mut expected = [b'0'; 6];
    for place in expected.iter_mut().rev() {
        *place =
            usize::try_from(number % 62).ok().and_then(|digit| DIGITS.get(digit)).copied().unwrap_or(b'0');
        number /= 62;
    }
    sum == expected
}

#[cfg(test)]
mod forms;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_every_word_is_there() {
        for (rule, pattern) in RULES.iter().zip(PATTERNS.iter()) {
            assert!(pattern.is_some(), "{}", rule.id);
            assert!(!rule.words.is_empty(), "{}", rule.id);
        }
        assert!(WORDS.is_some());
    }

    #[test]
    fn names_of_rules_are_unique() {
        let mut ids = std::collections::HashSet::new();
        assert!(RULES.iter().all(|rule| ids.insert(rule.id)));
    }

    #[test]
    fn a_checksum_tells_a_token_from_its_like() {
        // Made for this test: thirty characters and their sum.
        let random = b"abcdefghijklmnopqrstuvwxyz0123";
        let mut number = crc32fast::hash(random);
        let mut sum = Vec::new();
        for _ in 0..6 {
            sum.push(
                b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(number % 62) as usize],
            );
            number /= 62;
        }
        sum.reverse();
        let token = [b"ghp_".as_slice(), random, &sum].concat();
        assert_eq!(find(&token)[0].tier, Tier::Certain);
        let other = b"ghp_x7Rk2mPq9LzT4vNb8sWdQ3hJ6yGc5F000000";
        assert_eq!(find(other)[0].tier, Tier::Context);
    }

    #[test]
    fn what_stands_for_a_secret_is_none() {
        for text in [
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "api_key = process.env.API_KEY_PRODUCTION1",
            "password: ${DATABASE_PASSWORD_1}",
            "token = \"your_token_here_12345\"",
            "\"integrity\": \"sha512-9xKz3BqkDq1j7hIyDVYJ0hUQ2Ejj6NTSZQ8r3yT2QkLpF0A==\"",
        ] {
            assert_eq!(find(text.as_bytes()), [], "{text}");
        }
    }

    #[test]
    fn the_first_line_of_a_key_in_a_program_is_none() {
        let first = "-----BEGIN OPENSSH PRIVATE KEY-----";
        let body = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gt";
        for (text, tier) in [
            (format!("{first}\n{body}\n"), Tier::Certain),
            (format!("{{\"key\":\"{first}\\n{body}\\n\"}}"), Tier::Certain),
            (
                format!("Proc: {first}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0\n\n{body}"),
                Tier::Certain,
            ),
            (format!("{first}\n"), Tier::Certain),
            (format!("if text.startswith('{first}'):\n    return load(text)\n"), Tier::Doubtful),
        ] {
            assert_eq!(find(text.as_bytes())[0].tier, tier, "{text}");
        }
    }

    #[test]
    fn a_text_of_nothing_but_words_is_bounded() {
        let text = "secret=".repeat(20_000);
        assert!(find(text.as_bytes()).len() <= MATCHES);
    }
}
