//! Set-up, build, test, lint, verify, bench and CI of agentnet.
fn main() {}
