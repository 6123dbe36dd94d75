//! Tests that cannot run on this kernel say so by name.

/// Prints `SKIP name: reason`. For what the kernel was probed for and lacks, never for a failure of agentnet.
///
/// Written past the test harness, which hides what passing tests print.
#[macro_export]
macro_rules! skip {
    ($name:expr, $($reason:tt)+) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "SKIP {}: {}", $name, format_args!($($reason)+));
    }};
}
