//! Tokens of every rule's form, made from its pattern: such as dice would make, which are found, and such as people
//! write into examples, which raise no alarm.

use regex_syntax::{
    ParserBuilder,
    hir::{Class, Hir, HirKind},
};

use super::*;

/// What is put where a pattern leaves a choice.
struct Fill {
    /// Numbers such as dice give; the generator of Steele et al. (OOPSLA 2014).
    state: u64,
    /// Inside of a group: every choice takes the character after the one before.
    order: Option<usize>,
    in_group: bool,
}

impl Fill {
    fn random(&mut self) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap()
    }

    fn choose(&mut self, allowed: &[u8]) -> u8 {
        let alphanumeric: Vec<u8> = allowed.iter().copied().filter(u8::is_ascii_alphanumeric).collect();
        match &mut self.order {
            Some(next) if self.in_group && !alphanumeric.is_empty() => {
                *next += 1;
                alphanumeric[(*next - 1) % alphanumeric.len()]
            }
            _ => allowed[self.random() % allowed.len()],
        }
    }

    fn write(&mut self, part: &Hir, text: &mut Vec<u8>) {
        match part.kind() {
            HirKind::Empty | HirKind::Look(_) => {}
            HirKind::Literal(literal) => text.extend_from_slice(&literal.0),
            HirKind::Class(class) => {
                let is_in = |byte: u8| match class {
                    Class::Bytes(class) => {
                        class.iter().any(|range| (range.start()..=range.end()).contains(&byte))
                    }
                    Class::Unicode(class) => {
                        class.iter().any(|range| (range.start()..=range.end()).contains(&char::from(byte)))
                    }
                };
                // Between words and values stands what usually does.
                let plain = [b' ', b'=', b'"'].into_iter().find(|&byte| is_in(byte) && is_in(b'<'));
                let allowed: Vec<u8> = (b'!'..=b'~').filter(|&byte| is_in(byte)).collect();
                text.push(
                    plain.unwrap_or_else(|| if allowed.is_empty() { b' ' } else { self.choose(&allowed) }),
                );
            }
            HirKind::Repetition(repetition) => {
                for _ in 0..repetition.min {
                    self.write(&repetition.sub, text);
                }
            }
            HirKind::Capture(capture) => {
                self.in_group = true;
                self.write(&capture.sub, text);
                self.in_group = false;
            }
            HirKind::Concat(parts) => parts.iter().for_each(|part| self.write(part, text)),
            HirKind::Alternation(parts) => {
                // Those with the group, if some have it.
                let with = parts.iter().filter(|part| part.properties().explicit_captures_len() > 0);
                let with: Vec<&Hir> = with.collect();
                let chosen = match with.as_slice() {
                    [] => &parts[self.random() % parts.len()],
                    with => with[self.random() % with.len()],
                };
                self.write(chosen, text);
            }
        }
    }
}

/// A text of the form of `rule`.
fn text(rule: &Rule, number: u64, order: Option<usize>) -> Vec<u8> {
    let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(rule.pattern).unwrap();
    let mut text = Vec::new();
    Fill { state: number, order, in_group: false }.write(&hir, &mut text);
    text
}

/// How sure the rule is of a text of its form, in a line.
fn tier(rule: &Rule, text: &[u8]) -> Option<Tier> {
    let line = [b"\n".as_slice(), text, b"\n"].concat();
    find(&line).into_iter().filter(|one| one.rule == rule.id).map(|one| one.tier).max()
}

/// Rules whose secret is no fixed number of characters of an alphabet.
fn is_of_words(rule: &Rule) -> bool {
    matches!(
        rule.id,
        "private_key"
            | "putty_key"
            | "password_hash"
            | "netrc_login"
            | "url_password"
            | "connection_string"
            | "assignment"
            | "jwt_signed"
            | "dockerconfig_auth"
            | "azure_sas"
            | "kubernetes_token_secret"
    )
}

/// Whether a text has a word that the rule is tried at.
fn has_word(rule: &Rule, text: &[u8]) -> bool {
    rule.words.iter().any(|word| memchr::memmem::find(text, word.as_bytes()).is_some())
}

#[test]
fn tokens_that_dice_would_make_are_found() {
    let mut weak = Vec::new();
    for rule in RULES.iter().filter(|rule| !is_of_words(rule)) {
        let made = (0..16).map(|number| text(rule, number, None)).filter(|text| has_word(rule, text));
        let made: Vec<_> = made.collect();
        let missed = made.iter().filter(|text| tier(rule, text) <= Some(Tier::Doubtful));
        // Those without a digit are none by chance where one is asked for.
        let missed: Vec<_> = missed.map(|text| String::from_utf8_lossy(text).into_owned()).collect();
        if missed.len() * 8 > made.len() {
            weak.push((rule.id, missed));
        }
    }
    assert!(weak.is_empty(), "{weak:#?}");
}

#[test]
fn tokens_that_count_raise_no_alarm() {
    let mut alarms = Vec::new();
    for rule in RULES.iter().filter(|rule| !is_of_words(rule)) {
        for start in [0, 10] {
            let text = text(rule, 7, Some(start));
            if tier(rule, &text) > Some(Tier::Doubtful) {
                alarms.push((rule.id, String::from_utf8_lossy(&text).into_owned()));
            }
        }
    }
    assert!(alarms.is_empty(), "{alarms:#?}");
}
