//! Text that the agent chose: command names, paths, whatever else it can put before an operator's eyes.

/// Longest command name in an alert, in characters.
pub const MAX_COMM: usize = 64;
/// Longest path in an alert, in characters.
pub const MAX_PATH: usize = 512;
/// Longest sentence or rule in a rendered line, in characters.
pub const MAX_SENTENCE: usize = 2048;

/// Stands for what was cut off.
const ELLIPSIS: char = '…';

/// `text` with at most `max` characters and nothing a terminal, a log viewer or a reader's eye can be
/// fooled with.
///
/// Letters and digits of any script, printable ASCII and the space stay; all else (control characters of
/// C0 and C1, escape sequences, line breaks, bidirectional overrides, invisible characters) is written as
/// `\u{..}`. Cleaning twice changes nothing more, so that a reader of stored alerts can clean them again.
pub fn clean(text: &str, max: usize) -> String {
    let mut cleaned = String::with_capacity(text.len().min(max));
    let mut room = max;
    for character in text.chars() {
        let plain = character == ' '
            || character == ELLIPSIS
            || character.is_ascii_graphic()
            || character.is_alphanumeric();
        let width = if plain { 1 } else { character.escape_unicode().count() };
        // Keep room for the ellipsis until it is known that it is not needed.
        if width > room {
            while cleaned.chars().count() + 1 > max && cleaned.pop().is_some() {}
            if max > 0 {
                cleaned.push(ELLIPSIS);
            }
            return cleaned;
        }
        room -= width;
        if plain {
            cleaned.push(character);
        } else {
            cleaned.extend(character.escape_unicode());
        }
    }
    cleaned
}

/// One line: runs of white space, line breaks included, become one space.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `count` and `what`, with an "s" unless it is one.
pub fn plural(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{clean, one_line};

    #[test]
    fn what_moves_a_cursor_or_turns_text_around_is_escaped() {
        for (hostile, harmless) in [
            ("\x1b[2J\x1b]0;x\x07", r"\u{1b}[2J\u{1b}]0;x\u{7}"),
            ("a\nb\r\tc", r"a\u{a}b\u{d}\u{9}c"),
            ("\u{9b}31m\u{7f}", r"\u{9b}31m\u{7f}"),
            ("gp\u{202e}j.exe", r"gp\u{202e}j.exe"),
            ("zero\u{200b}width\u{feff}", r"zero\u{200b}width\u{feff}"),
        ] {
            assert_eq!(clean(hostile, 200), harmless);
        }
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in ["curl", "Web Content", "/usr/bin/python3.11", "/home/jörg/bin/été", "[kworker/0:1]"] {
            assert_eq!(clean(name, 64), name);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_with_an_ellipsis() {
        assert_eq!(clean("abcdef", 6), "abcdef");
        assert_eq!(clean("abcdef", 4), "abc…");
        assert_eq!(clean("abc\x1b", 4), "abc…");
        assert_eq!(clean("abc", 0), "");
    }

    #[test]
    fn line_breaks_of_a_suggestion_become_spaces() {
        assert_eq!(
            one_line("[[egress.allow]]\ncidr = \"10.0.0.1/32\"\n"),
            "[[egress.allow]] cidr = \"10.0.0.1/32\""
        );
    }

    proptest! {
        #[test]
        fn any_text_comes_out_harmless_and_short(text in any::<String>(), max in 1_usize..80) {
            let cleaned = clean(&text, max);
            prop_assert!(cleaned.chars().count() <= max);
            prop_assert!(!cleaned.chars().any(char::is_control));
            prop_assert_eq!(clean(&cleaned, max), cleaned);
        }
    }
}
