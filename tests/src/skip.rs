//! Tests that cannot run on this kernel say so by name.

/// Prints `SKIP name: reason`. For what the kernel was probed for and lacks, never for a failure of agentnet.
#[macro_export]
macro_rules! skip {
    ($name:expr, $($reason:tt)+) => {
        eprintln!("SKIP {}: {}", $name, format_args!($($reason)+))
    };
}
