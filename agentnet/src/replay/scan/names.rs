//! A line of a list of names: the name alone, or columns of a log.

use super::super::lines::LineError;
use crate::detect::event::Time;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row<'l> {
    pub(super) time: Time,
    pub(super) client: &'l str,
    pub(super) rtype: u16,
    pub(super) name: &'l str,
    pub(super) rcode: Option<u8>,
    pub(super) answers: u16,
    pub(super) answer_bytes: u32,
    pub(super) query_bytes: u16,
}

/// Type of a name that stands alone.
const A: u16 = 1;
/// Seconds between names that stand alone: a day has 4,320 of them, about what a busy host looks up.
const STEP: u64 = 20;
/// Where relative times and lines without a time begin: a time of 0 is long ago, not unknown.
const START: u64 = 1_000_000_000;

impl<'l> Row<'l> {
    /// Reads line `number`. A name that stands alone is looked up by the one client that the list is of,
    /// [`STEP`] after the line before.
    pub(super) fn parse(line: &'l str, number: u64) -> Result<Self, LineError> {
        let content = |text: String| LineError::Content(text);
        let mut columns = line.split_whitespace();
        let first = columns.next().unwrap_or_default();
        let Some(client) = columns.next() else {
            let time = Time::from_secs(START + STEP * number);
            let alone = Row {
                time,
                client: "list",
                rtype: A,
                name: first,
                rcode: None,
                answers: 0,
                answer_bytes: 0,
                query_bytes: 0,
            };
            return check(alone);
        };
        let time = time(first)
            .ok_or_else(|| content(format!("its first column, {first:?}, is no time in seconds")))?;
        let (Some(rtype_text), Some(name)) = (columns.next(), columns.next()) else {
            return Err(content("it has not the columns time, client, type, name".to_owned()));
        };
        let rtype = rtype(rtype_text)
            .ok_or_else(|| content(format!("its third column, {rtype_text:?}, is no DNS type")))?;
        let mut number = |what: &str| -> Result<Option<i64>, LineError> {
            columns
                .next()
                .map(|text| text.parse().map_err(|_| content(format!("{what}, {text:?}, is no number"))))
                .transpose()
        };
        let rcode = number("its response code")?.and_then(|rcode| u8::try_from(rcode).ok());
        let fit = |value: Option<i64>| value.unwrap_or(0).max(0);
        let answers = u16::try_from(fit(number("its number of answers")?)).unwrap_or(u16::MAX);
        let answer_bytes = u32::try_from(fit(number("its bytes of answers")?)).unwrap_or(u32::MAX);
        let query_bytes = u16::try_from(fit(number("its bytes of the query")?)).unwrap_or(u16::MAX);
        check(Row { time, client, rtype, name, rcode, answers, answer_bytes, query_bytes })
    }
}

/// Longest text that is taken for a name: each byte of 255 written as `\DDD`, and some more.
const LONGEST: usize = 1100;

/// A row whose name may be one. What is wrong with it as a name is for the detectors to say.
fn check(row: Row<'_>) -> Result<Row<'_>, LineError> {
    let text = row.name;
    // A path, a URL or an address of mail is in the wrong list.
    if text.len() > LONGEST || text.contains(['@', '"', '<', '>']) || text.contains("://") {
        return Err(LineError::Content(format!("{:?} is no domain name", short(text))));
    }
    Ok(row)
}

/// The beginning of what may be long.
fn short(text: &str) -> String {
    crate::alert::text::clean(text, 80)
}

/// Seconds, with a fraction, since 1970 or since some beginning.
fn time(text: &str) -> Option<Time> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: u64 = seconds.parse().ok()?;
    let digits = fraction.get(..fraction.len().min(9))?;
    let nanos = if digits.is_empty() {
        0
    } else {
        let scale = 10_u64.pow(9 - u32::try_from(digits.len()).ok()?);
        digits.parse::<u64>().ok()? * scale
    };
    let seconds = if seconds < START { seconds + START } else { seconds };
    Some(Time(seconds.checked_mul(1_000_000_000)?.checked_add(nanos)?))
}

/// A type by number or name.
fn rtype(text: &str) -> Option<u16> {
    text.parse().ok().or_else(|| Some(text.parse::<domain::base::iana::Rtype>().ok()?.to_int()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_alone_or_in_columns() {
        let row = Row::parse("www.example.com", 7).unwrap();
        assert_eq!((row.client, row.name, row.time.secs()), ("list", "www.example.com", START + 7 * STEP));
        let row = Row::parse("1.5\t10.0.0.1\t16\tx.example\t0\t2\t300\t60", 1).unwrap();
        assert_eq!((row.client, row.rtype, row.rcode, row.answers), ("10.0.0.1", 16, Some(0), 2));
        assert_eq!(
            (row.time.0, row.answer_bytes, row.query_bytes),
            (START * 1_000_000_000 + 1_500_000_000, 300, 60)
        );
        let row = Row::parse("1700000000 me TXT x.example -1", 1).unwrap();
        assert_eq!((row.rtype, row.rcode, row.time.secs()), (16, None, 1_700_000_000));
    }

    #[test]
    fn what_is_neither_is_refused_with_its_reason() {
        for (line, reason) in [
            ("https://x.example/", "is no domain name"),
            ("yesterday me A x.example", "is no time"),
            ("1 me", "has not the columns"),
            ("1 me NOTYPE x.example", "is no DNS type"),
            ("1 me A x.example many", "is no number"),
            ("99999999999999999999 me A x.example", "is no time"),
            ("18446744073709551615 me A x.example", "is no time"),
        ] {
            let error = Row::parse(line, 1).unwrap_err().to_string();
            assert!(error.contains(reason), "{line}: {error}");
        }
    }
}
