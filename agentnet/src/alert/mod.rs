//! Kernel records turned into alerts.
