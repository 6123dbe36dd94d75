//! What enforcement costs: nanoseconds per run of each kernel program, and what is left of throughput and of
//! the rate of connections.

pub mod detect;
pub mod empty;
pub mod load;
pub mod pairs;
pub mod programs;
pub mod report;
pub mod stats;
pub mod watch;
