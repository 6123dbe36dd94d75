//! Telling a secret from what stands for one: documentation, templates and tests are full of values that have the form
//! of a token and are none. Nothing here knows such values by heart but for words; it is their order that tells them.

/// Words that stand for a secret in documentation and templates, in lower case. None is shorter than four letters: a
/// token of forty random characters has a word of four by chance once in twenty thousand.
const WORDS: &[&[u8]] = &[
    b"example",
    b"sample",
    b"placeholder",
    b"changeme",
    b"change_me",
    b"change-me",
    b"replace",
    b"redacted",
    b"dummy",
    b"insert",
    b"undefined",
    b"your_",
    b"your-",
    b"yourtoken",
    b"yourkey",
    b"<your",
    b"process.env",
    b"os.environ",
    b"notreal",
    b"not_real",
    b"not-real",
    b"foobar",
    b"-here",
    b"_here",
    b"${",
    b"{{",
    b"$(",
    b"%(",
];

/// Characters that stand for what is to be filled in, from six on.
const FILLERS: &[u8] = b"xX*.#?-_";

/// A run of one character that no token has by chance: of hexadecimal ones of forty digits one in eight million.
const RUN: usize = 8;

/// Whether a value stands for a secret by a word or by what is left to be filled in.
pub(super) fn is_placeholder(secret: &[u8]) -> bool {
    let lower = secret.to_ascii_lowercase();
    WORDS.iter().any(|word| memchr::memmem::find(&lower, word).is_some())
        || secret.chunk_by(|one, two| one == two).any(|run| {
            let [first, ..] = run else { return false };
            // Zero bits are `A` in base64 and `0` in hexadecimal, and numbers inside tokens begin with them.
            run.len() >= RUN && !matches!(first, b'A' | b'0') || run.len() >= 6 && FILLERS.contains(first)
        })
}

/// Whether the characters of a value follow each other as nobody's dice would have it: it counts up or down, also with
/// every second character, or says the same again and again.
pub(super) fn is_in_order(secret: &[u8]) -> bool {
    secret.len() >= 10 && (counts(secret) || repeats(secret))
}

/// Whether three of five characters are part of `abcd`, `4321`, `a1b2c3d4` and the like.
fn counts(secret: &[u8]) -> bool {
    let mut counting = vec![false; secret.len()];
    for stride in [1, 2] {
        for up in [true, false] {
            let follows = |at: usize| {
                let (Some(&one), Some(&two)) = (secret.get(at), secret.get(at + stride)) else {
                    return false;
                };
                is_next(one.to_ascii_lowercase(), two.to_ascii_lowercase(), up)
            };
            let mut at = 0;
            while at < secret.len() {
                let mut end = at;
                while follows(end) {
                    end += stride;
                }
                // Two that follow each other are chance, three in a row are not often.
                if end >= at + 3 * stride {
                    for place in (at..=end).step_by(stride) {
                        if let Some(place) = counting.get_mut(place) {
                            *place = true;
                        }
                    }
                }
                // Every second character is part of one of two rows, which are walked by turns.
                at = if stride == 1 { end + 1 } else { at + 1 };
            }
        }
    }
    let counted = counting.iter().filter(|&&counting| counting).count();
    counted * 5 >= secret.len() * 3
}

/// Whether a character of lower case comes next after another one, counting up or down; digits follow letters and
/// letters digits.
const fn is_next(one: u8, two: u8, up: bool) -> bool {
    let (low, high) = if up { (one, two) } else { (two, one) };
    match (low, high) {
        (b'9', b'0' | b'a') | (b'z' | b'f', b'a' | b'0') => true,
        (low, high) => low.is_ascii_alphanumeric() && high.is_ascii_alphanumeric() && low + 1 == high,
    }
}

/// Whether a value is a piece of at most half of it, said again.
fn repeats(secret: &[u8]) -> bool {
    (1..=secret.len() / 2).any(|period| {
        let again = secret.iter().zip(secret.iter().skip(period)).filter(|(one, two)| one == two).count();
        again * 10 >= (secret.len() - period) * 9
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_or_repeats_is_in_order() {
        for text in [
            "abcdefghijklmnopqrstuvwxyz0123",
            "ABCDEFGHIJKLMNOPQRST",
            "0123456789abcdef0123456789abcdef",
            "98765432109876543210",
            "a1b2c3d4e5f6g7h8i9j0k1l2m3n4",
            "deadbeefdeadbeefdeadbeefdeadbeef",
            "12345678-1234-1234-1234-123456789012",
        ] {
            assert!(is_in_order(text.as_bytes()), "{text}");
        }
        for text in [
            "x7Rk2mPq9LzT4vNb8sWd",
            "0c1b7e3a4e9f65718c93b4d5c2d7e0f9",
            "3f9a01c2be5577d0e4811a6c9d20f3b8",
            "wJ4rXUtnFEMIaK7MDENGbPxRfiCYzqLm8vTeNkYh",
        ] {
            assert!(!is_in_order(text.as_bytes()) && !is_placeholder(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_is_to_be_filled_in_is_a_placeholder() {
        for text in
            ["xxxxxxxxxxxx", "YOUR_TOKEN_HERE_12345", "********", "${TOKEN}", "AKEXAMPLE7", "1111111111"]
        {
            assert!(is_placeholder(text.as_bytes()), "{text}");
        }
        assert!(!is_placeholder(b"JQQJ99BFACAAAAAALGcqjAAASAZDO3eqU"), "zero bits inside a token");
    }
}
