//! What enforcement costs: nanoseconds per run of each kernel program, and what is left of throughput and of
//! the rate of connections.

pub mod detect;
pub mod dns;
pub mod empty;
pub mod load;
pub mod others;
pub mod pairs;
pub mod programs;
pub mod reaction;
pub mod report;
pub mod row;
pub mod start;
pub mod stats;
pub mod watch;
