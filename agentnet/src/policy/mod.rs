//! The policy file: Document -> Valid -> Compiled -> loaded.

pub mod compile;
