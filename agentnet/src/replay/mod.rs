//! What was recorded, shown to the detectors: captures and lists become the events that the kernel's records
//! become live.

pub mod lines;
pub mod scan;
