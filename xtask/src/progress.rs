//! What the commands print about themselves: numbered steps with the time each took, on standard error.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// The steps of one command.
pub(crate) struct Steps {
    command: &'static str,
    total: usize,
    started: usize,
}

impl Steps {
    /// `total` is how many times [`Steps::start`] will be called.
    pub(crate) fn new(command: &'static str, total: usize) -> Self {
        Self { command, total, started: 0 }
    }

    /// Announces the next step.
    pub(crate) fn start(&mut self, what: impl Display) -> Step {
        self.started += 1;
        eprintln!("[{} {}/{}] {what}", self.command, self.started, self.total);
        Step { began: Instant::now() }
    }
}

/// A step that has begun. Dropping it without [`Step::done`] prints nothing: its error will be printed.
pub(crate) struct Step {
    began: Instant,
}

impl Step {
    /// Says how the step ended.
    pub(crate) fn done(self, outcome: impl Display) {
        eprintln!("    {outcome} ({})", seconds(self.began.elapsed()));
    }
}

/// A duration for people: `0.4 s`, `73 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_a_decimal_only_where_it_matters() {
        assert_eq!(seconds(Duration::from_millis(449)), "0.4 s");
        assert_eq!(seconds(Duration::from_millis(72_600)), "73 s");
    }
}
