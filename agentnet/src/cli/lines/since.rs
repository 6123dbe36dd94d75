//! `--since`: how long ago, or when.

use jiff::{Span, Timestamp, civil::DateTime, tz::TimeZone};

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time for --since; write how long ago (30s, 15m, 1h, 2d) or when (2026-11-22, \
     2026-11-22T10:00, 2026-11-22T10:00:00Z)"
)]
pub(super) struct InvalidTime(String);

/// The time that `text` means `now` and, where it names none, in the time zone `zone`.
pub(super) fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, InvalidTime> {
    let invalid = || InvalidTime(text.to_owned());
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(time) = text.parse::<DateTime>() {
        return Ok(time.to_zoned(zone.clone()).map_err(|_| invalid())?.timestamp());
    }
    let span: Span = text.parse().map_err(|_| invalid())?;
    if span.is_negative() {
        return Err(invalid());
    }
    // A day is one of the calendar, so that "1d" is the same time yesterday.
    Ok(now.to_zoned(zone.clone()).checked_sub(span).map_err(|_| invalid())?.timestamp())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("30s", "2026-11-22T11:59:30Z")]
    #[case("1h", "2026-11-22T11:00:00Z")]
    #[case("1h30m", "2026-11-22T10:30:00Z")]
    #[case("2d", "2026-11-20T12:00:00Z")]
    #[case("2 days ago", "")]
    #[case("2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z")]
    #[case("2026-11-22T10:00:00.5+02:00", "2026-11-22T08:00:00.5Z")]
    #[case("2026-11-22T10:00", "2026-11-22T09:00:00Z")]
    #[case("2026-11-22", "2026-11-21T23:00:00Z")]
    #[case("", "")]
    #[case("yesterday", "")]
    #[case("-1h", "")]
    #[case("90000y", "")]
    fn a_time_is_read(#[case] text: &str, #[case] expected: &str) {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let parsed = parse(text, now, &zone);
        match expected {
            "" => assert_eq!(parsed, Err(InvalidTime(text.to_owned()))),
            expected => assert_eq!(parsed, Ok(expected.parse().unwrap())),
        }
    }
}
