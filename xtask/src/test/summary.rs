//! Reads what Rust's test runner prints and adds it up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::AddAssign,
};

/// What became of tests.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(crate) struct Summary {
    /// Tests that passed by the runners' count; a test that skipped itself is one of them.
    reported_passed: usize,
    /// Their names, as far as they could be read.
    passed_names: BTreeSet<String>,
    /// Names of the tests that failed.
    pub(crate) failed: Vec<String>,
    /// What was skipped and why: tests, or parts of a test, by name.
    pub(crate) skipped: BTreeMap<String, String>,
}

impl Summary {
    /// Tests that passed. One that skipped itself as a whole did not, whatever its runner says; one that
    /// skipped a part of itself did.
    pub(crate) fn passed(&self) -> usize {
        let skipped = |name: &&String| {
            let last = name.rsplit("::").next().unwrap_or(name);
            self.skipped.contains_key(name.as_str()) || self.skipped.contains_key(last)
        };
        self.reported_passed.saturating_sub(self.passed_names.iter().filter(skipped).count())
    }

    /// Tests that passed or failed.
    pub(crate) fn ran(&self) -> usize {
        self.passed() + self.failed.len()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed(), self.failed.len(), self.skipped.len())
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, mut other: Self) {
        self.reported_passed += other.reported_passed;
        self.failed.append(&mut other.failed);
        self.skipped.append(&mut other.skipped);
        self.passed_names.append(&mut other.passed_names);
    }
}

/// Reads the output of `cargo test` line by line.
pub(crate) struct Parser {
    summary: Summary,
    /// Whether to show what passing tests print.
    show_output: bool,
    /// Inside the runner's report of what passing tests printed.
    in_successes: bool,
    /// Failures that this test program named so far.
    failed_here: usize,
    /// Test programs that were started.
    started: usize,
    /// Results that were printed.
    results: usize,
}

impl Parser {
    pub(crate) fn new(show_output: bool) -> Self {
        Self {
            summary: Summary::default(),
            show_output,
            in_successes: false,
            failed_here: 0,
            started: 0,
            results: 0,
        }
    }

    /// Takes a line in and says whether it is to be shown.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.result(result);
            return true;
        }
        let skip = self.skip(line);
        if self.in_successes {
            if line == "failures:" {
                self.in_successes = false;
            } else {
                return self.show_output || skip;
            }
        }
        if line == "successes:" {
            self.in_successes = true;
            return self.show_output;
        }
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|test| test.rsplit_once(" ... ")) {
            self.outcome(name, outcome);
        }
        true
    }

    /// Takes in a line of standard error, which is cargo's and the tests' own.
    pub(crate) fn error_line(&mut self, line: &str) {
        // Coloured or not: `     Running tests/connect.rs (target/debug/deps/connect-0123)`.
        if line.contains("     Running") && line.ends_with(')') {
            self.started += 1;
        }
        self.skip(line);
    }

    /// Whether the line says that something was skipped.
    fn skip(&mut self, line: &str) -> bool {
        let Some((name, reason)) = skip_line(line) else { return false };
        self.summary.skipped.insert(name.to_owned(), reason.to_owned());
        true
    }

    fn outcome(&mut self, name: &str, outcome: &str) {
        if outcome == "ok" || outcome.starts_with("SKIP ") {
            self.summary.passed_names.insert(name.to_owned());
        } else if outcome == "FAILED" || outcome.starts_with("FAILED ") {
            self.failed_here += 1;
            self.summary.failed.push(name.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "ignored" } else { reason };
            self.summary.skipped.insert(name.to_owned(), reason.to_owned());
        }
    }

    /// A line such as `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`.
    fn result(&mut self, text: &str) {
        let count = |what: &str| -> usize {
            text.split([';', '.'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.summary.reported_passed += count("passed");
        // A line that another thread's output ran into names no test: the count still holds.
        for unnamed in self.failed_here..count("failed") {
            self.summary.failed.push(format!("a test whose name was garbled ({})", unnamed + 1));
        }
        self.failed_here = 0;
        self.results += 1;
    }

    pub(crate) fn finish(mut self) -> Summary {
        for _ in self.results..self.started {
            self.summary.failed.push("a test program that ended without a result".to_owned());
        }
        self.summary
    }
}

/// A line `SKIP name: reason`, alone or behind the `test name ... ` of a runner with one thread.
fn skip_line(line: &str) -> Option<(&str, &str)> {
    let rest = line.strip_prefix("SKIP ").or_else(|| line.split_once(" ... SKIP ").map(|(_, rest)| rest))?;
    rest.split_once(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Summary, Vec<&str>) {
        let mut parser = Parser::new(false);
        let shown = text.lines().filter(|line| parser.line(line)).collect();
        (parser.finish(), shown)
    }

    const OUTPUT: &str = "\
running 4 tests
test connect::denied_v4 ... ok
test connect::denied_v6 ... ok
test unix::refused ... FAILED
test slow::all ... ignored, takes an hour

successes:

---- connect::denied_v4 stdout ----
chatter

---- connect::denied_v6 stdout ----
SKIP denied_v6: no IPv6 on this kernel
SKIP udp_lite: not in this kernel


successes:
    connect::denied_v4
    connect::denied_v6

failures:

---- unix::refused stdout ----
assertion failed

failures:
    unix::refused

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn counts_and_names() {
        let (summary, _) = parse(OUTPUT);
        assert_eq!(summary.to_string(), "1 passed, 1 failed, 3 skipped");
        assert_eq!(summary.ran(), 2);
        assert_eq!(summary.failed, ["unix::refused"]);
        assert_eq!(summary.skipped["denied_v6"], "no IPv6 on this kernel");
        assert_eq!(summary.skipped["slow::all"], "takes an hour");
    }

    #[test]
    fn passing_tests_are_quiet_and_failing_ones_are_not() {
        let (_, shown) = parse(OUTPUT);
        assert!(!shown.contains(&"chatter"));
        assert!(shown.contains(&"SKIP denied_v6: no IPv6 on this kernel"));
        assert!(shown.contains(&"assertion failed"));
    }

    #[test]
    fn results_of_several_binaries_add_up() {
        let one =
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s\n";
        let (mut summary, _) = parse(&one.repeat(2));
        summary += parse(OUTPUT).0;
        assert_eq!(summary.to_string(), "7 passed, 1 failed, 3 skipped");
    }

    #[test]
    fn a_failure_without_a_name_counts() {
        let (summary, _) =
            parse("test a ... noise FAILED?\ntest result: FAILED. 0 passed; 2 failed; 0 ignored;\n");
        assert_eq!(summary.to_string(), "0 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn a_program_without_a_result_is_a_failure() {
        let mut parser = Parser::new(false);
        parser.error_line("     Running tests/a.rs (target/debug/deps/a-1)");
        parser.line("test result: ok. 1 passed; 0 failed; 0 ignored;");
        parser.error_line("\x1b[1m\x1b[92m     Running\x1b[0m tests/b.rs (target/debug/deps/b-2)");
        parser.error_line("SKIP c: on standard error");
        assert_eq!(parser.finish().to_string(), "1 passed, 1 failed, 1 skipped");
    }

    #[test]
    fn a_skip_on_the_runners_own_line_counts_once() {
        let text = "test a ... SKIP a: no bpffs\nok\nSKIP a: no bpffs\n\
                    test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(parse(text).0.to_string(), "0 passed, 0 failed, 1 skipped");
    }
}
