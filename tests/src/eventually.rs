//! Waiting for a condition instead of for time to pass.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long a condition that should come true within milliseconds may take on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// Polls `condition` until it gives a value.
///
/// # Errors
/// After `deadline`, with the last near miss that the condition reported.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T, String>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(miss) if Instant::now() >= end => bail!("{what}: not within {deadline:?}; last seen: {miss}"),
            Err(_) => thread::sleep(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::eventually;

    #[test]
    fn the_near_miss_is_told() {
        let mut looks = 0;
        let failure = eventually(Duration::from_millis(20), "three", || {
            looks += 1;
            Err::<(), _>(format!("look {looks}"))
        });
        let text = failure.unwrap_err().to_string();
        assert!(text.starts_with("three: not within 20ms; last seen: look "), "{text}");
    }

    #[test]
    fn a_condition_that_comes_true_is_returned() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(5), "third look", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks.to_string()) }
        });
        assert_eq!(value.unwrap(), 3);
    }
}
